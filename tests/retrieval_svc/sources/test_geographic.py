from __future__ import annotations

import pytest

from retrieval_svc.sources import Source
from shortlist.errors import ArtifactCorrupt
from shortlist.ids import key_of
from shortlist.places import place_names
from tests.retrieval_svc.sources.views import ask, lists_of, open_source, view_of

FINE, COARSE = place_names("48.86,2.35")
POPULAR = lists_of(
    {
        key_of("france"): {0: 0.4, 1: 0.1},
        key_of("iceland"): {2: 0.9},
        key_of(FINE): {3: 0.5},
        key_of(COARSE): {3: 0.1, 4: 0.6},
    }
)


@pytest.fixture
def source() -> Source:
    view = view_of("geographic", lists={"popular": POPULAR}, features=["home", "city"])
    return open_source(view)


def test_what_is_popular_in_the_users_place_is_proposed(source: Source) -> None:
    assert ask(source, attributes={"home": "france"}) == pytest.approx({0: 0.4, 1: 0.1})


def test_the_shares_of_several_places_add_up(source: Source) -> None:
    attributes = {"home": ("france", "iceland", "atlantis")}
    assert ask(source, attributes=attributes) == pytest.approx({2: 0.9, 0: 0.4, 1: 0.1})


def test_near_a_point_the_finer_cell_counts_more(source: Source) -> None:
    found = ask(source, context={"city": "48.9,2.3"})
    assert found == pytest.approx({3: 0.5 + 0.1 / 2, 4: 0.6 / 2})
    # In the same coarse cell, but not near.
    assert ask(source, context={"city": "48.1,2.3"}) == pytest.approx({4: 0.3, 3: 0.05})


def test_a_place_of_user_and_context_counts_once(source: Source) -> None:
    found = ask(source, attributes={"home": "france"}, context={"city": "france"})
    assert found == ask(source, attributes={"home": "france"})


def test_where_somebody_is_now_takes_the_place_of_the_profile(source: Source) -> None:
    found = ask(source, attributes={"city": "france"}, context={"city": "iceland"})
    assert found == pytest.approx({2: 0.9})


def test_other_attributes_are_no_places(source: Source) -> None:
    assert ask(source, attributes={"likes": "france", "home": 3.0}) == {}


@pytest.mark.parametrize("features", [None, "home", [1]])
def test_features_of_another_kind_are_refused(features: object) -> None:
    with pytest.raises(ArtifactCorrupt, match=r"geographic/settings\.json: features"):
        open_source(view_of("geographic", lists={"popular": POPULAR}, features=features))
