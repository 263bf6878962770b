from __future__ import annotations

import numpy as np

from orchestrator.filters import contains
from orchestrator.profile import merge_histories
from shortlist.tiers import History


def a_history(*events: tuple[int, int, float]) -> History:
    return History(
        keys=np.array([key for key, _, _ in events], np.uint64),
        times_ms=np.array([time for _, time, _ in events], np.int64),
        weights=np.array([weight for _, _, weight in events], np.float32),
    )


def events(history: History) -> list[tuple[int, int, float]]:
    return list(
        zip(
            history.keys.tolist(),
            history.times_ms.tolist(),
            history.weights.tolist(),
            strict=True,
        )
    )


def test_recent_events_are_merged_by_time() -> None:
    merged = merge_histories(a_history((1, 10, 1), (2, 30, 1)), a_history((3, 20, 1), (4, 40, 1)))
    assert events(merged) == [(1, 10, 1), (3, 20, 1), (2, 30, 1), (4, 40, 1)]


def test_the_same_item_at_the_same_time_counts_once_as_the_request_has_it() -> None:
    merged = merge_histories(a_history((1, 10, 1), (2, 20, 1)), a_history((2, 20, 5)))
    assert events(merged) == [(1, 10, 1), (2, 20, 5)]


def test_the_same_item_at_another_time_counts_again() -> None:
    merged = merge_histories(a_history((1, 10, 1)), a_history((1, 11, 1)))
    assert len(merged) == 2


def test_either_side_may_be_empty() -> None:
    some = a_history((1, 10, 1))
    assert events(merge_histories(some, History.empty())) == events(some)
    assert events(merge_histories(History.empty(), some)) == events(some)
    assert len(merge_histories(History.empty(), History.empty())) == 0


def test_contains_is_membership() -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 7, 1000):
        unwanted = rng.integers(0, 500, size).astype(np.uint64)
        keys = rng.integers(0, 500, 300).astype(np.uint64)
        assert contains(unwanted, keys).tolist() == np.isin(keys, unwanted).tolist()
    extreme = np.array([0, 2**64 - 1], np.uint64)
    assert contains(extreme, np.array([1, 2**64 - 1], np.uint64)).tolist() == [False, True]
