from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval_svc.index import build_index, load_index
from retrieval_svc.shard import LocalRetriever
from shortlist.artifacts import ArtifactStore
from shortlist.errors import ArtifactRefused
from tests.retrieval_svc.factory import Catalogue, clustered, publish, query, user_who_liked


@pytest.mark.parametrize("items", [1, 2, 17, 1000])
def test_a_catalogue_too_small_for_a_tree_is_searched_exactly(tmp_path: Path, items: int) -> None:
    vectors = clustered(items, 8, seed=0)
    report = build_index(
        vectors, tmp_path / "index", exact_below=0, recall_target=0.95, k=1000, seed=0
    )
    assert (report.kind, report.recall, report.items) == ("exact", 1.0, items)
    rows, _ = load_index(tmp_path / "index", vectors).search(vectors[0], 1000)
    assert sorted(rows.tolist()) == list(range(items))


def test_more_wanted_than_there_is_makes_an_exact_index(tmp_path: Path) -> None:
    vectors = clustered(1100, 8, seed=0)
    report = build_index(
        vectors, tmp_path / "index", exact_below=0, recall_target=0.95, k=1100, seed=0
    )
    assert (report.kind, report.reason) == ("exact", "1100 items, 1100 wanted of them")


async def test_a_catalogue_of_one_item_is_served_by_the_shard_that_owns_it(
    tmp_path: Path,
) -> None:
    catalogue = Catalogue.random(1)
    store = ArtifactStore(tmp_path)
    publish(store, catalogue, shards=2)
    found = []
    for shard in range(2):
        retriever = LocalRetriever.open(store, shard)
        answer = await retriever.retrieve(query(user_who_liked(int(catalogue.keys[0]))))
        assert answer.failures == ()
        found += [key for source in answer.sources for key in source.keys.tolist()]
        assert len((await retriever.describe(catalogue.keys, (), None)).ids) in (0, 1)
        await retriever.close()
    assert found == [catalogue.keys[0]] * 2


def test_an_empty_slice_of_a_catalogue_needs_no_index(tmp_path: Path) -> None:
    vectors = np.empty((0, 8), np.float32)
    report = build_index(
        vectors, tmp_path / "index", exact_below=0, recall_target=0.95, k=10, seed=0
    )
    assert report.kind == "exact"
    rows, scores = load_index(tmp_path / "index", vectors).search(np.ones(8, np.float32), 10)
    assert len(rows) == len(scores) == 0


def test_an_empty_catalogue_is_refused_with_a_clear_error(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    publish(store, Catalogue.random(3), items_total=0, items_per_shard=[0])
    with pytest.raises(ArtifactRefused, match=r"meta\.items_total: .* greater than or equal to 1"):
        LocalRetriever.open(store, 0)
