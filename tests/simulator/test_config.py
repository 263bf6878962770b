from __future__ import annotations

import pytest

from shortlist.errors import ShortlistError
from simulator import ClickWeights, ExposureMix, InvalidWorldConfig, WorldConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("users", 0),
        ("items", 0),
        ("events", -1),
        ("days", 0),
        ("dims", 1),
        ("seed", -1),
        ("categories", 25),
        ("countries", 0),
        ("creators", 12_001),
        ("creators", 0),
        ("new_item_fraction", 1.0),
        ("new_user_fraction", float("nan")),
        ("popularity_exponent", 1.0),
        ("drift_degrees_per_day", -1.0),
    ],
)
def test_a_field_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(InvalidWorldConfig, match=field) as caught:
        WorldConfig(**{field: value})
    assert caught.value.field == field
    assert repr(value) in str(caught.value)
    assert isinstance(caught.value, ShortlistError)


def test_click_weights_must_be_finite_and_decays_positive():
    with pytest.raises(InvalidWorldConfig, match="affinity"):
        ClickWeights(affinity=float("inf"))
    with pytest.raises(InvalidWorldConfig, match="freshness_decay_days"):
        ClickWeights(freshness_decay_days=0.0)


def test_a_page_without_slots_is_refused():
    with pytest.raises(InvalidWorldConfig, match="at least one slot"):
        ExposureMix(popular_slots=0, recent_slots=0, random_slots=0, personalised_slots=0)


def test_creators_follow_from_the_catalogue_unless_given():
    assert WorldConfig(items=12_000).creator_count == 400
    assert WorldConfig(items=5).creator_count == 1
    assert WorldConfig(items=10_000_000).creator_count == 50_000
    assert WorldConfig(items=100, creators=7).creator_count == 7
