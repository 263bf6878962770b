"""What versions are judged by, with versions whose files are real and few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.config import RetrievalConfig
from tests.training.test_snapshot import Shop, assert_same, some_rows
from training.dataset import Dataset
from training.held_out import held_out_from
from training.shards import Writer
from training.snapshot import Snapshot
from training.windows import test_window as window_of_test

ROWS = some_rows(900)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    shop.imported(ROWS[:300])
    return shop


def published(shop: Shop, tier: str, snapshot: Snapshot, meta: dict[str, Any]) -> Artifact:
    dataset = snapshot.dataset
    with ArtifactStore(shop.workdir / "artifacts").stage(tier) as staged:
        writer = Writer(staged.path, dataset.item_keys, RetrievalConfig(), 2)
        writer.make_folders()
        vectors = np.ones((dataset.n_items, 1), np.float32)
        for shard in range(2):
            writer.write_items(dataset.item_keys, vectors, dataset.items, shard)
        return staged.publish(
            meta={
                "dim": 1,
                "shards": 2,
                "items_total": dataset.n_items,
                "items_per_shard": writer.items_per_shard,
                "watermark_ms": 0,
                "item_features": {},
                "sources": [],
                **meta,
            }
        )


def judged(shop: Shop, *versions: Artifact) -> Dataset:
    return held_out_from(shop.workdir, shop.config, *versions)


def test_without_a_log_versions_are_judged_by_the_import(shop: Shop) -> None:
    snapshot = shop.snapshot()
    version = published(shop, "retrieval", snapshot, snapshot.meta)
    assert_same(judged(shop, version), Dataset.load(shop.workdir / "dataset"))


def test_a_version_that_says_nothing_of_the_log_is_judged_by_the_import(shop: Shop) -> None:
    version = published(shop, "retrieval", shop.snapshot(), {})
    shop.log(ROWS[300:])
    assert_same(judged(shop, version), Dataset.load(shop.workdir / "dataset"))


def test_beside_a_version_that_has_learned_from_the_log_an_older_one_has_learned_less(
    shop: Shop,
) -> None:
    older = published(shop, "retrieval", shop.snapshot(), {})
    shop.log(ROWS[300:])
    snapshot = shop.snapshot()
    newer = published(shop, "ranking", snapshot, snapshot.meta)
    dataset = judged(shop, older, newer)
    assert len(window_of_test(dataset).next) == 600 - snapshot.log_sequence


def test_two_tiers_are_judged_by_what_neither_has_learned(shop: Shop) -> None:
    shop.log(ROWS[300:700])
    first = shop.snapshot()
    retrieval = published(shop, "retrieval", first, first.meta)
    shop.log(ROWS[700:850])
    second = shop.snapshot()
    ranking = published(shop, "ranking", second, second.meta)
    shop.log(ROWS[850:])
    assert first.log_sequence < second.log_sequence
    dataset = judged(shop, retrieval, ranking)
    assert len(window_of_test(dataset).next) == 900 - 300 - second.log_sequence
    assert len(window_of_test(judged(shop, retrieval)).next) == 600 - first.log_sequence


def test_items_are_those_that_the_version_can_propose(shop: Shop) -> None:
    shop.log(ROWS[300:700])
    snapshot = shop.snapshot()
    version = published(shop, "retrieval", snapshot, snapshot.meta)
    shop.change(delete=["i3"])
    assert shop.snapshot().dataset.item_row("i3") is None
    dataset = judged(shop, version)
    assert dataset.items.equals(snapshot.dataset.items)
    assert dataset.item_row("i3") is not None
