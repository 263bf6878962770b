from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shortlist.config import Config
from training.tuning.parts import (
    PARTS,
    Among,
    Parameter,
    Part,
    current_values,
    parts_of,
    seconds_of,
    with_values,
)

CASES = [
    pytest.param(part, parameter, id=f"{part.name}-{parameter.name}")
    for part in PARTS
    for parameter in part.parameters
]


def ends(parameter: Parameter) -> tuple[Any, ...]:
    domain = parameter.domain
    return domain.options if isinstance(domain, Among) else (domain.low, domain.high)


@pytest.mark.parametrize(("part", "parameter"), CASES)
def test_every_value_of_every_domain_is_a_valid_configuration(
    part: Part, parameter: Parameter
) -> None:
    before = current_values(part, Config())
    for value in ends(parameter):
        changed = with_values(part, Config(), before | {parameter.name: value})
        assert current_values(part, changed) == before | {parameter.name: value}


def test_the_current_values_change_nothing() -> None:
    config = Config.model_validate({"retrieval": {"mf": {"dim": 48}, "half_life_days": 3}})
    for part in PARTS:
        assert with_values(part, config, current_values(part, config)) == config


def test_values_of_one_part_leave_the_others_alone() -> None:
    (mf,) = (part for part in PARTS if part.name == "mf")
    config = Config.model_validate({"retrieval": {"two_tower": {"dim": 16}}})
    changed = with_values(mf, config, {"dim": 32, "regularization": 1.0, "confidence": 2.0})
    assert changed.retrieval.mf.dim == 32
    assert changed.retrieval.two_tower == config.retrieval.two_tower


def test_a_tier_has_its_own_parts_and_only_those_that_are_on() -> None:
    config = Config.model_validate(
        {"retrieval": {"quotas": {"mf": 0}}, "ranking": {"models": ["gbdt", "linear"]}}
    )
    names = {
        tier: [part.name for part in parts_of(tier, config, has_time=True)]
        for tier in ("retrieval", "all")
    }
    assert names["retrieval"] == ["cooccurrence", "two_tower", "popular"]
    assert names["all"] == ["cooccurrence", "two_tower", "popular", "gbdt"]


def test_the_time_is_divided_by_shares_and_none_is_left() -> None:
    for tier in ("retrieval", "ranking", "all"):
        parts = parts_of(tier, Config(), has_time=True)
        seconds = seconds_of(parts, 10)
        assert sum(seconds.values()) == pytest.approx(600)
        assert all(value > 0 for value in seconds.values())
    assert seconds_of(parts_of("ranking", Config(), has_time=True), 10)["dcn"] == pytest.approx(390)


def test_the_document_names_every_part_and_parameter(checkout: Path) -> None:
    text = (checkout / "docs" / "tuning.md").read_text("utf-8")
    for part in PARTS:
        assert f"| `{part.name}` | {100 * part.share:.0f} % |" in text
        assert [one.name for one in part.parameters if f"`{one.name}`" not in text] == []


def test_parameters_that_the_data_leaves_unread_are_not_tuned() -> None:
    def names(*, has_time: bool) -> set[str]:
        parts = parts_of("all", Config(), has_time=has_time)
        return {f"{part.name}.{one.path[-1]}" for part in parts for one in part.parameters}

    timed, timeless = names(has_time=True), names(has_time=False)
    assert timed - timeless == {
        "cooccurrence.half_life_events",
        "two_tower.learning_rate",
        "popular.half_life_days",
    }
    assert timeless - timed == {"two_tower.set_learning_rate"}
    assert "gbdt.learning_rate" in timed & timeless
