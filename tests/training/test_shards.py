from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.fanout import merge_sources
from retrieval_svc.generation import Generation
from retrieval_svc.slice_files import RetrievalMeta
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.config import Config, RetrievalConfig
from shortlist.tiers import RetrieveQuery, SourceCandidates, UserContext
from tests.training.tiny import DAY_MS, tiny_dataset
from training.dataset import Dataset
from training.histories import user_histories
from training.shards import Writer, read_slices, read_source, reshard, sources_of
from training.sources import TRAINERS, SourceLesson, TrainedSource

ITEMS = 90


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """A catalogue in which every source finds something."""
    rng = np.random.default_rng(0)
    rows = 1500
    return tiny_dataset(
        rng.integers(40, size=rows),
        np.minimum(rng.geometric(0.05, size=rows), ITEMS) - 1,
        users=40,
        items=ITEMS,
        time_ms=np.sort(rng.integers(1, 90 * DAY_MS, size=rows)),
        published_ms=rng.integers(1, 90 * DAY_MS, size=ITEMS).tolist(),
        item_features={
            "by": ("creator", [f"maker-{n % 13}" for n in range(ITEMS)]),
            "kind": ("categorical", [f"kind-{n % 7}" for n in range(ITEMS)]),
        },
        user_features={"home": ("geo", ["paris", "rome"] * 20)},
    )


@pytest.fixture(scope="module")
def lesson(dataset: Dataset) -> SourceLesson:
    return SourceLesson(
        dataset=dataset,
        rows=np.arange(len(dataset.events)),
        as_of_ms=90 * DAY_MS,
        config=RetrievalConfig(),
        half_life_ms=5.0 * DAY_MS,
    )


@pytest.fixture(scope="module")
def everything(lesson: SourceLesson) -> dict[str, TrainedSource]:
    sources = {name: train(lesson) for name, train in TRAINERS.items()}
    assert all(isinstance(one, TrainedSource) for one in sources.values())
    return sources  # type: ignore[return-value]


@pytest.fixture
def artifact(
    tmp_path: Path, dataset: Dataset, lesson: SourceLesson, everything: dict[str, TrainedSource]
) -> Artifact:
    """All sources but the two-tower, over two shards, published and promoted."""
    store, config = ArtifactStore(tmp_path / "artifacts"), Config(retrieval=lesson.config)
    config.save(tmp_path / "shortlist.yaml")
    vectors = np.random.default_rng(1).normal(size=(ITEMS, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    with store.stage("retrieval") as staged:
        writer = Writer(staged.path, dataset.item_keys, lesson.config, 2)
        writer.make_folders()
        (staged.path / "tower").mkdir()
        (staged.path / "tower" / "nothing.json").write_text("{}")
        for shard in range(2):
            writer.write_items(dataset.item_keys, vectors, dataset.items, shard)
        for trained in everything.values():
            writer.write_trained(trained, seed=0)
        meta: dict[str, Any] = {
            "dim": 8,
            "shards": 2,
            "items_total": ITEMS,
            "items_per_shard": writer.items_per_shard,
            "watermark_ms": lesson.as_of_ms,
            "item_features": {"by": "creator", "kind": "categorical"},
            "sources": list(everything),
            "indexed": {n: one.index_column for n, one in everything.items() if one.index_column},
        }
        published = staged.publish(meta=meta)
    store.promote("retrieval", published.version, expected=None)
    return published


def proposals(artifact: Artifact, user: UserContext) -> dict[str, SourceCandidates]:
    meta = RetrievalMeta.of(artifact)
    query = RetrieveQuery(
        request_id="test",
        user=user,
        quotas=dict.fromkeys(meta.sources, 40),
        exclude=np.unique(user.history.keys),
    )
    slices = [Generation.open(artifact, shard).retrieve(query) for shard in range(meta.shards)]
    assert not any(one.failures for one in slices)
    return {one.source: one for one in merge_sources(slices, dict(query.quotas))}


def test_the_slices_hold_what_the_sources_learned(
    artifact: Artifact, dataset: Dataset, everything: dict[str, TrainedSource]
) -> None:
    whole = read_slices(artifact)
    np.testing.assert_array_equal(whole.keys, dataset.item_keys)
    assert whole.items["id"].to_pylist() == dataset.items["id"].to_pylist()
    assert sources_of(artifact) == tuple(everything)
    for name, trained in everything.items():
        data = read_source(artifact, name, whole.places)
        assert data.columns.keys() == trained.data.columns.keys()
        for column, values in trained.data.columns.items():
            np.testing.assert_array_equal(data.columns[column], values)
        for lists, expected in trained.data.lists.items():
            for part in ("terms", "starts", "rows", "weights"):
                np.testing.assert_array_equal(
                    getattr(data.lists[lists], part), getattr(expected, part)
                )


def test_every_source_proposes_from_what_was_written(artifact: Artifact, dataset: Dataset) -> None:
    (history,) = user_histories(dataset, np.arange(60), [0])
    user = UserContext(
        user_key=1, history=history, attributes={"home": "paris"}, time_ms=90 * DAY_MS
    )
    found = proposals(artifact, user)
    assert set(found) == set(TRAINERS)
    assert all(len(one.keys) > 0 for one in found.values())


def test_dividing_a_version_anew_changes_no_proposal(artifact: Artifact, dataset: Dataset) -> None:
    workdir = artifact.path.parents[2]
    store = ArtifactStore(workdir / "artifacts")
    version = reshard(workdir, 3)
    assert reshard(workdir, 3) == version  # made once
    assert reshard(workdir, 2) == artifact.version
    assert store.current("retrieval") == artifact.version
    three = store.open("retrieval", version)
    assert RetrievalMeta.of(three).shards == 3
    for number, history in enumerate(user_histories(dataset, np.arange(400), [0, 7, 21])):
        user = UserContext(
            user_key=number,
            history=history,
            attributes={"home": ("paris", "rome")[number % 2]},
            time_ms=90 * DAY_MS,
        )
        ours, theirs = proposals(artifact, user), proposals(three, user)
        for name, one in ours.items():
            np.testing.assert_allclose(one.scores, theirs[name].scores, rtol=1e-5, err_msg=name)
            # What ties may change places.
            clear = np.diff(one.scores, prepend=np.inf) < -1e-5
            clear &= np.diff(one.scores, append=-np.inf) < -1e-5
            np.testing.assert_array_equal(one.keys[clear], theirs[name].keys[clear], err_msg=name)
