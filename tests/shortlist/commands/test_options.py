from __future__ import annotations

import pytest

from shortlist.commands.options import parse_blocked, parse_context
from shortlist.errors import InvalidField


def test_context_values_are_texts_numbers_or_lists() -> None:
    assert parse_context(("device=phone", "hour=21", "tags=a,b", "note=x=y")) == {
        "device": "phone",
        "hour": 21.0,
        "tags": ("a", "b"),
        "note": "x=y",
    }


@pytest.mark.parametrize("pair", ["phone", "=phone", ""])
def test_a_context_that_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(InvalidField, match="NAME=VALUE"):
        parse_context((pair,))


def test_coordinates_of_a_place_stay_one_text() -> None:
    assert parse_context(("home=48.86,2.35",)) == {"home": "48.86,2.35"}


def test_blocked_values_are_gathered_by_feature() -> None:
    assert parse_blocked(("genre=horror", "maker=x=y", "genre=war")) == {
        "genre": ("horror", "war"),
        "maker": ("x=y",),
    }
    with pytest.raises(InvalidField, match="'horror' is not NAME=VALUE"):
        parse_blocked(("horror",))
