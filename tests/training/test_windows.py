from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shortlist.schema import Schema
from tests.training.tiny import random_dataset, tiny_dataset
from training.dataset import Dataset
from training.importer import import_dataset
from training.windows import Window, backtest_window, serving_window
from training.windows import test_window as window_of_test

SPLIT_METHODS = ("time", "leave_last_out", "random", "given")


@pytest.fixture(params=SPLIT_METHODS)
def imported(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    """A data set that was imported with each split method."""
    rng = np.random.default_rng(0)
    rows = [
        f"u{rng.integers(30)},i{rng.integers(40)},{1_700_000_000 + second}\n"
        for second in range(600)
    ]
    parts = {"train": rows[:450], "validation": rows[450:500], "test": rows[500:]}
    for name, lines in parts.items():
        (tmp_path / f"{name}.csv").write_text("user,item,time\n" + "".join(lines))
    given = request.param == "given"
    schema = Schema.of(
        {
            "name": "split",
            "interactions": [
                {"path": f"{name}.csv", "time": "time"} | ({"split": name} if given else {})
                for name in parts
            ],
            "split": {"method": request.param},
        }
    )
    import_dataset(schema, tmp_path, tmp_path / "dataset")
    return Dataset.load(tmp_path / "dataset")


def test_nothing_that_is_learned_from_is_in_the_test_part(imported: Dataset) -> None:
    held_out = imported.rows_of_split("test")
    assert len(held_out)
    past, present = backtest_window(imported), serving_window(imported)
    for rows in (past.known, past.next, present.known):
        assert len(rows)
        assert not np.intersect1d(rows, held_out).size


def test_the_backtest_does_not_know_what_it_asks_for(imported: Dataset) -> None:
    window = backtest_window(imported)
    assert not np.intersect1d(window.known, window.next).size
    np.testing.assert_array_equal(
        np.union1d(window.known, window.next), serving_window(imported).known
    )


def test_the_backtest_asks_for_the_validation_part(imported: Dataset) -> None:
    np.testing.assert_array_equal(
        backtest_window(imported).next, imported.rows_of_split("validation")
    )


def test_the_test_window_asks_for_the_test_part(imported: Dataset) -> None:
    window = window_of_test(imported)
    np.testing.assert_array_equal(window.next, imported.rows_of_split("test"))
    np.testing.assert_array_equal(window.known, serving_window(imported).known)


def test_a_window_ends_with_the_newest_thing_it_knows(imported: Dataset) -> None:
    for window in (backtest_window(imported), serving_window(imported), window_of_test(imported)):
        assert window.as_of_ms == imported.events.time_ms[window.known].max()
        assert (np.diff(window.known) > 0).all()
        assert (np.diff(window.next) > 0).all()


def test_a_split_by_time_asks_only_for_what_comes_after(tmp_path: Path) -> None:
    dataset = tiny_dataset(
        [0] * 10,
        range(10),
        time_ms=range(100, 110),
        split=["train"] * 6 + ["validation"] * 2 + ["test"] * 2,
    )
    for window in (backtest_window(dataset), window_of_test(dataset)):
        assert (dataset.events.time_ms[window.next] > window.as_of_ms).all()


def test_without_a_validation_part_the_newest_tenth_is_asked_for() -> None:
    dataset = random_dataset(rows=1000)
    dataset.events.split[dataset.events.split == 1] = 0
    window, rows = backtest_window(dataset), serving_window(dataset).known
    assert len(window.next) == len(rows) // 10
    np.testing.assert_array_equal(np.concatenate([window.known, window.next]), rows)
    assert dataset.events.time_ms[window.next].min() >= window.as_of_ms


def test_without_times_and_a_validation_part_a_random_tenth_is_asked_for() -> None:
    dataset = random_dataset(rows=1000, timed=False)
    dataset.events.split[dataset.events.split == 1] = 0
    windows: list[Window] = [backtest_window(dataset, seed=seed) for seed in (1, 1, 2)]
    known = len(serving_window(dataset).known)
    assert len(windows[0].next) == pytest.approx(known / 10, rel=0.3)
    np.testing.assert_array_equal(windows[0].next, windows[1].next)
    assert not np.array_equal(windows[0].next, windows[2].next)
    assert not np.intersect1d(windows[0].next, dataset.rows_of_split("test")).size


def test_data_without_times_has_no_moment() -> None:
    dataset = random_dataset(timed=False)
    assert backtest_window(dataset).as_of_ms == 0
    assert serving_window(dataset).as_of_ms == 0
