from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from shortlist.artifacts import ArtifactStore
from shortlist.config import Config
from tests.ranking_svc.factory import KEYS, publish_ranker
from tests.retrieval_svc.factory import Catalogue, publish
from tests.training.tiny import DAY_MS, tiny_dataset
from training.dataset import SPLITS, Dataset, write_dataset


@pytest.fixture(scope="package")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty items, twenty-five users, and artifacts with every source and ranker at random."""
    folder = tmp_path_factory.mktemp("workdir")
    dataset = _dataset()
    (folder / "schema.yaml").write_text(
        yaml.safe_dump(dataset.schema.model_dump(mode="json", exclude_defaults=True))
    )
    _write(dataset, folder / "dataset")
    config = {
        "retrieval": {"candidates": 26, "quotas": {"content": 5}, "guaranteed": {"popular": 2}},
        "slate": {"diversity": 0.3, "pool": 25, "minimums": {"fresh": 2}},
    }
    Config.model_validate(config).save(folder / "shortlist.yaml")
    store = ArtifactStore(folder / "artifacts")
    publish(store, Catalogue.random(len(KEYS)), shards=2, absent={"another": "no data"})
    publish_ranker(store)
    return folder


def _dataset() -> Dataset:
    """Half of the interactions are known, and nobody has touched the last eight items yet."""
    rng = np.random.default_rng(5)
    known, test = 240, 120
    split = [SPLITS[0]] * known + [SPLITS[2]] * test
    items = [rng.integers(32, size=known), rng.integers(len(KEYS), size=test)]
    return tiny_dataset(
        np.concatenate([rng.integers(20, size=known), rng.integers(25, size=test)]),
        np.concatenate(items),
        users=25,
        items=len(KEYS),
        time_ms=np.sort(rng.integers(1, 90 * DAY_MS, size=known + test)),
        weight=rng.choice([0.0, 1.0, 2.0], size=known + test),
        split=split,
    )


def _write(dataset: Dataset, folder: Path) -> None:
    events = dataset.events
    names = ("user", "item", "event", "value", "weight", "time_ms", "split")
    write_dataset(
        folder,
        items=dataset.items,
        users=dataset.users,
        interactions=pa.table({name: getattr(events, name) for name in names}),
        info=dataset.info,
    )
