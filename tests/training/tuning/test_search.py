from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shortlist.errors import ArtifactRefused
from training.tuning.parts import Among, Between, Parameter, Part, Values
from training.tuning.search import Trial, _RandomSearcher, best_of, search

PART = Part(
    name="parabola",
    tier="retrieval",
    share=1.0,
    parameters=(
        Parameter(path=("a", "x"), domain=Between(0.1, 10.0)),
        Parameter(path=("a", "shape"), domain=Among(((1,), (2, 3)))),
    ),
)
CURRENT = {"x": 5.0, "shape": (9,)}


def parabola(values: Values) -> float:
    return -((np.log(values["x"]) - np.log(2.0)) ** 2) - 0.1 * len(values["shape"])


def refuse(values: Values) -> float:
    raise ArtifactRefused("no positive interaction")


def refuse_drawn(values: Values) -> float:
    if values["x"] != CURRENT["x"]:
        raise ArtifactRefused("training diverged")
    return 1.0


def crash_drawn(values: Values) -> float:
    return 1.0 / (values["x"] == CURRENT["x"])


def never_end_drawn(values: Values) -> float:
    if values["x"] != CURRENT["x"]:
        time.sleep(600)
    return 1.0


def trial(number: int, score: float | None) -> Trial:
    return Trial(number=number, values={}, score=score, seconds=1.0)


def proposals(trials: int | None, count: int, seed: int = 0) -> list[object]:
    searcher = _RandomSearcher(PART.parameters, CURRENT, trials, "max", seed)
    return [searcher.suggest(f"t{number}") for number in range(count)]


def test_the_current_values_are_proposed_first_and_then_values_of_the_domains() -> None:
    first, *others = proposals(None, 40)
    assert first == {"number": 1, "values": CURRENT}
    for number, one in enumerate(others, start=2):
        assert isinstance(one, dict)
        assert one["number"] == number
        assert 0.1 <= one["values"]["x"] <= 10.0
        assert one["values"]["shape"] in {(1,), (2, 3)}


def test_drawn_numbers_have_three_digits_so_that_they_read_well_in_a_file() -> None:
    drawn = [one["values"]["x"] for one in proposals(None, 20)[1:] if isinstance(one, dict)]
    assert all(x == float(f"{x:.3g}") for x in drawn)


def test_the_same_seed_draws_the_same_values() -> None:
    assert proposals(None, 10, seed=3) == proposals(None, 10, seed=3)
    assert proposals(None, 10, seed=3) != proposals(None, 10, seed=4)


def test_so_many_trials_are_proposed_and_no_more() -> None:
    assert [one == "FINISHED" for one in proposals(3, 5)] == [False, False, False, True, True]


def test_a_small_space_is_tried_once() -> None:
    part = (Parameter(path=("a", "x"), domain=Among((1, 2, 3))),)
    searcher = _RandomSearcher(part, {"x": 2}, None, "max", 0)
    proposed = [searcher.suggest(f"t{number}") for number in range(6)]
    assert sorted(one["values"]["x"] for one in proposed[:3]) == [1, 2, 3]
    assert proposed[3:] == ["FINISHED"] * 3


def test_the_best_trial_is_the_first_of_equal_ones() -> None:
    trials = [trial(1, 0.5), trial(2, None), trial(3, 0.9), trial(4, 0.9), trial(5, 0.1)]
    best, smallest = best_of(trials, "max"), best_of(trials, "min")
    assert best is not None
    assert smallest is not None
    assert (best.number, smallest.number) == (3, 5)
    assert best_of([trial(1, None)], "max") is None


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real Ray, with a home folder of its own that nothing may write to."""
    from tests.trained import short_tmp
    from training.ray_session import ray_session

    home = tmp_path_factory.mktemp("home")
    with short_tmp() as tmp, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", os.fspath(tmp))
        patch.setenv("HOME", os.fspath(home))
        patch.setattr("tempfile.tempdir", os.fspath(tmp))
        with ray_session():
            yield home
            assert not list(tmp.glob("sl-tune-*"))
    assert not list(home.iterdir())


@pytest.mark.slow
def test_ray_finds_better_values_than_the_current_ones(session: Path) -> None:
    told: list[tuple[float, int, float | None]] = []
    trials = search(
        PART,
        CURRENT,
        parabola,
        seconds=120,
        trials=12,
        direction="max",
        seed=0,
        watch=lambda *state: told.append(state),
    )
    best = best_of(trials, "max")
    assert best is not None
    assert [one.number for one in trials] == list(range(1, 13))
    assert trials[0].values == CURRENT
    assert all(one.score == pytest.approx(parabola(one.values)) for one in trials)
    assert best.score is not None
    assert trials[0].score is not None
    assert best.score > trials[0].score
    assert told[-1][1:] == (12, best.score)


@pytest.mark.slow
def test_the_search_ends_with_a_current_configuration_that_cannot_be_trained(session: Path) -> None:
    trials = search(PART, CURRENT, refuse, seconds=120, trials=None, direction="max", seed=0)
    assert trials[0].failure == "no positive interaction"
    assert best_of(trials, "max") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "reason"),
    [(refuse_drawn, "training diverged"), (crash_drawn, "ZeroDivisionError")],
)
def test_values_that_cannot_be_trained_with_do_not_end_the_search(
    session: Path, objective: object, reason: str
) -> None:
    trials = search(PART, CURRENT, objective, seconds=120, trials=4, direction="max", seed=0)  # type: ignore[arg-type]
    assert [one.score for one in trials] == [1.0, None, None, None]
    assert all(reason in one.failure for one in trials[1:])


@pytest.mark.slow
def test_trials_that_the_time_is_too_short_for_are_cut_short(session: Path) -> None:
    trials = search(PART, CURRENT, never_end_drawn, seconds=15, trials=3, direction="max", seed=0)
    assert trials[0].score == 1.0
    assert all("time was over" in one.failure for one in trials[1:])
