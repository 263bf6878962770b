from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrieval_svc.sources.history import Recency
from shortlist.errors import ArtifactCorrupt
from tests.retrieval_svc.sources.views import history_of, view_of


def strengths(recency: Recency, *events: tuple[int, float]) -> dict[int, float]:
    liked = recency.liked(history_of(events))
    assert (np.diff(liked.keys.astype(np.float64)) > 0).all()
    return dict(zip(liked.keys.tolist(), liked.strengths.tolist(), strict=True))


def test_each_half_life_of_newer_events_halves_a_strength() -> None:
    recency = Recency(events=None, half_life_events=2.0)
    found = strengths(recency, (5, 1.0), (3, 1.0), (9, 4.0))
    assert found == pytest.approx({9: 4.0, 3: 0.5**0.5, 5: 0.5})


def test_without_a_half_life_all_events_count_by_their_weight() -> None:
    recency = Recency(events=None, half_life_events=None)
    assert strengths(recency, (5, 1.0), (3, 2.0)) == {5: 1.0, 3: 2.0}


def test_several_events_of_one_item_add_up() -> None:
    recency = Recency(events=None, half_life_events=1.0)
    assert strengths(recency, (5, 1.0), (3, 1.0), (5, 1.0)) == {5: 1.25, 3: 0.5}


def test_disliked_items_count_nothing_and_make_nothing_older() -> None:
    recency = Recency(events=2, half_life_events=1.0)
    found = strengths(recency, (1, 1.0), (5, 1.0), (8, 0.0), (3, 1.0), (9, -1.0))
    assert found == {3: 1.0, 5: 0.5}


def test_only_the_newest_events_count() -> None:
    recency = Recency(events=2, half_life_events=None)
    assert strengths(recency, (1, 1.0), (2, 1.0), (3, 1.0)) == {2: 1.0, 3: 1.0}


def test_what_decays_to_nothing_is_left_out() -> None:
    recency = Recency(events=None, half_life_events=1e-3)
    assert strengths(recency, *[(key, 1.0) for key in range(10)]) == {
        9: 1.0,
        8: pytest.approx(0.5**1000),
    }


def test_settings_may_be_absent_or_null() -> None:
    assert Recency.of(view_of("creator")) == Recency(events=None, half_life_events=None)
    view = view_of("creator", history=200, half_life_events=None)
    assert Recency.of(view) == Recency(events=200, half_life_events=None)


@pytest.mark.parametrize(
    "settings",
    [
        {"history": 0},
        {"half_life_events": 0},
        {"half_life_events": -1.0},
        {"history": "all"},
        {"history": True},
        {"half_life_events": float("nan")},
    ],
)
def test_settings_that_are_no_positive_numbers_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ArtifactCorrupt, match=r"creator/settings\.json"):
        Recency.of(view_of("creator", **settings))
