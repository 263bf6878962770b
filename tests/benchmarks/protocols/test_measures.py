from __future__ import annotations

import math

import pytest

from benchmarks.protocols.measures import MEASURES, capped_recall


def test_capped_recall_can_reach_one_for_a_user_with_more_items_than_places() -> None:
    relevant = frozenset(range(10))
    assert capped_recall([0, 1, 2, 3, 99], relevant, 4) == 1
    assert MEASURES["recall"]([0, 1, 2, 3, 99], relevant, 4) == 0.4


def test_capped_recall_is_recall_for_a_user_with_fewer_items_than_places() -> None:
    assert capped_recall([7, 1, 8], frozenset({1, 2}), 3) == 0.5


def test_the_ideal_list_of_ndcg_has_no_more_hits_than_there_are_items() -> None:
    assert MEASURES["ndcg"]([5, 6], frozenset({5, 6}), 20) == pytest.approx(1)
    ideal = 1 + 1 / math.log2(3)
    assert MEASURES["ndcg"]([9, 5], frozenset({5, 6}), 20) == pytest.approx(
        1 / math.log2(3) / ideal
    )
