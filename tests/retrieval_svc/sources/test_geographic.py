from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrieval_svc.sources import SliceView, Source
from shortlist.errors import ArtifactCorrupt
from shortlist.ids import key_of, keys_of
from shortlist.places import place_names
from tests.retrieval_svc.sources.views import (
    WATERMARK_MS,
    ask,
    lists_of,
    open_source,
    view_of,
)

FINE, COARSE = place_names("48.86,2.35")
LIKED = lists_of(
    {
        key_of("france"): {0: 40, 1: 10},
        key_of("iceland"): {2: 90},
        key_of(FINE): {3: 50},
        key_of(COARSE): {3: 50, 4: 60},
    }
)
TOTALS = {"france": 50.0, "iceland": 90.0, FINE: 50.0, COARSE: 110.0}
LIKES = np.array([40.0, 10.0, 90.0, 50.0, 60.0, 0.0])


def share(place: str, row: int, count: float) -> float:
    """Of the likes of a place, smoothed by 50 likes of everybody."""
    return float((count + 50 * LIKES[row] / 250) / (TOTALS[place] + 50))


def view(**changed: Any) -> SliceView:
    places = np.sort(keys_of(TOTALS))
    totals = {key_of(place): total for place, total in TOTALS.items()}
    settings = {
        "features": ["home", "city"],
        "item_features": ["at"],
        "as_of_ms": WATERMARK_MS,
        "newest_ms": WATERMARK_MS,
        "half_life_ms": None,
        "usual_weight": 1.0,
        "likes": 250.0,
        "floor": 1 / 300,
    }
    return view_of(
        "geographic",
        columns={"likes": LIKES},
        lists={"liked": LIKED, "located": lists_of({})},
        arrays={
            "places": places,
            "likes": np.array([totals[int(place)] for place in places]),
            "located": np.zeros(len(places)),
        },
        **settings | changed,
    )


@pytest.fixture
def source() -> Source:
    return open_source(view())


def test_what_is_popular_in_the_users_place_is_proposed(source: Source) -> None:
    assert ask(source, attributes={"home": "france"}) == pytest.approx(
        {0: share("france", 0, 40), 1: share("france", 1, 10)}
    )


def test_the_shares_of_several_places_add_up(source: Source) -> None:
    attributes = {"home": ("france", "iceland", "atlantis")}
    assert ask(source, attributes=attributes) == pytest.approx(
        {
            2: share("iceland", 2, 90),
            0: share("france", 0, 40),
            1: share("france", 1, 10),
        }
    )


def test_near_a_point_the_finer_cell_counts_more(source: Source) -> None:
    found = ask(source, context={"city": "48.9,2.3"})
    near, there = share(FINE, 3, 50), share(COARSE, 3, 50) / 2
    other = share(COARSE, 4, 60) / 2
    assert found == pytest.approx({3: near + there, 4: other})
    # In the same coarse cell, but not near.
    assert ask(source, context={"city": "48.1,2.3"}) == pytest.approx({4: other, 3: there})


def test_a_place_of_user_and_context_counts_once(source: Source) -> None:
    found = ask(source, attributes={"home": "france"}, context={"city": "france"})
    assert found == ask(source, attributes={"home": "france"})


def test_where_somebody_is_now_takes_the_place_of_the_profile(source: Source) -> None:
    found = ask(source, attributes={"city": "france"}, context={"city": "iceland"})
    assert found == pytest.approx({2: share("iceland", 2, 90)})


def test_other_attributes_are_no_places(source: Source) -> None:
    assert ask(source, attributes={"likes": "france", "home": 3.0}) == {}


@pytest.mark.parametrize("features", [None, "home", [1]])
def test_features_of_another_kind_are_refused(features: object) -> None:
    with pytest.raises(ArtifactCorrupt, match=r"geographic/settings\.json: features"):
        open_source(view(features=features))
