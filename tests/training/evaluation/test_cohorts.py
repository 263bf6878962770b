from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.evaluation.bootstrap import Resamples
from training.evaluation.catalogue import Catalogue
from training.evaluation.cohorts import cohorts_of
from training.evaluation.hits import Hits

KNOWN = np.array([50, 9, 3, 2, 2, 1, 1, 1, 0, 0])


@pytest.fixture
def catalogue() -> Catalogue:
    """Ten items; the first two are the head, the last two are new."""
    return Catalogue(
        keys=np.arange(10, dtype=np.uint64),
        vectors=np.eye(10, dtype=np.float32),
        known=KNOWN,
        first_ms=np.zeros(10, np.int64),
        as_of_ms=0,
    )


def measured(catalogue: Catalogue, events: list[int], relevant: list[list[int]]) -> dict[str, Any]:
    rows = [np.array(one, np.int32) for one in relevant]
    lists = [np.arange(10, dtype=np.int32) for _ in rows]
    hits = {"page": Hits.of(lists, rows, 10)}
    found = cohorts_of(hits, events, catalogue, Resamples(len(rows), resamples=5, seed=0))
    return {one["name"]: one for one in found}


def test_users_are_parted_by_how_much_is_known_of_them(catalogue: Catalogue) -> None:
    found = measured(catalogue, [0, 1, 2, 5, 6, 20, 30], [[0]] * 7)
    users = {name: found[name]["users"] for name in found if found[name]["kind"] == "users"}
    assert users == {"no_history": 1, "short_history": 2, "medium_history": 2, "long_history": 2}
    assert found["short_history"]["description"] == "users with 1 to 2 known events"


def test_relevant_items_are_parted_by_popularity(catalogue: Catalogue) -> None:
    found = measured(catalogue, [3, 3], [[0, 4], [9]])
    assert {name: found[name]["relevant"] for name in ("head_items", "tail_items")} == {
        "head_items": 1,
        "tail_items": 2,
    }
    assert found["new_items"]["users"] == 1
    assert found["head_items"]["systems"]["page"]["ndcg@20"] == pytest.approx(1.0)
    assert found["new_items"]["systems"]["page"]["ndcg@20"] == pytest.approx(1 / np.log2(11))


def test_cohorts_without_users_are_left_out(catalogue: Catalogue) -> None:
    found = measured(catalogue, [4, 4], [[0], [1]])
    assert "no_history" not in found
    assert "new_items" not in found
