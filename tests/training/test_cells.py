from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from training import cells
from training.cells import TimeColumn

NOON_MS = int(datetime(2024, 2, 29, 12, 0, 0, tzinfo=UTC).timestamp() * 1000)


def strings(*values: str | None) -> pa.Array:
    return pa.array(values, pa.string())


@pytest.mark.parametrize(
    "text",
    [
        "2024-02-29T12:00:00Z",
        "2024-02-29 12:00:00",
        " 2024-02-29T12:00:00.000 ",
        "2024-02-29T13:00:00+01:00",
        "2024-02-29T07:30:00-0430",
        "2024-02-29T12:00:00.0000000Z",
        f"{NOON_MS // 1000}",
        f"{NOON_MS // 1000}.0",
        f"{NOON_MS}",
        f"{NOON_MS}000",
        f"{NOON_MS}000000",
    ],
)
def test_a_moment_is_read_however_it_is_written(text: str) -> None:
    times = TimeColumn().read(strings(text))
    assert times.ms.tolist() == [NOON_MS]
    assert not times.bad.any()


def test_a_date_is_its_midnight_in_utc() -> None:
    assert TimeColumn().read(strings("1970-01-02")).ms.tolist() == [86_400_000]


def test_fractions_of_a_second_and_times_before_1970_are_kept() -> None:
    times = TimeColumn().read(strings("2024-02-29T12:00:00.25Z", "1969-12-31T23:59:59Z"))
    assert times.ms.tolist() == [NOON_MS + 250, -1000]


def test_zones_may_be_mixed() -> None:
    times = TimeColumn().read(strings("2024-02-29T12:00:00", "2024-02-29T13:00:00+01:00"))
    assert times.ms.tolist() == [NOON_MS, NOON_MS]


def test_the_first_batch_decides_the_unit_of_a_column() -> None:
    column = TimeColumn()
    column.read(strings(f"{NOON_MS}"))
    # 12 is 12 ms then, not 12 s.
    assert column.read(strings("12")).ms.tolist() == [12]


def test_a_unit_that_is_given_is_not_guessed() -> None:
    assert TimeColumn(unit="s").read(strings("1e12")).bad.all()
    assert TimeColumn(unit="us").read(strings("5000")).ms.tolist() == [5]
    assert TimeColumn(unit="year").read(strings("1971")).ms.tolist() == [365 * 86_400_000]
    assert TimeColumn(unit="iso").read(strings("1971")).bad.all()


def test_four_digits_are_a_year_where_years_are_expected() -> None:
    assert TimeColumn(years=True).read(strings("1971", "")).ms[0] == 365 * 86_400_000
    assert TimeColumn().read(strings("1971")).ms[0] == 1_971_000


@pytest.mark.parametrize(
    "text", ["yesterday", "2024-13-01T00:00:00", "2024-02-30", "nan", "inf", "12:00", "99999-01-01"]
)
def test_what_is_no_time_is_bad_and_its_neighbours_are_not(text: str) -> None:
    times = TimeColumn(unit="iso").read(strings("2024-02-29T12:00:00Z", text, None))
    assert times.bad.tolist() == [False, True, False]
    assert times.missing.tolist() == [False, False, True]
    assert times.ms[0] == NOON_MS


def test_numbers_out_of_the_calendar_are_bad() -> None:
    times = TimeColumn(unit="s").read(strings("1e300", "-1e15", "nan", "5"))
    assert times.bad.tolist() == [True, True, True, False]


def test_typed_times_are_taken_as_they_are() -> None:
    typed = pa.array([NOON_MS, None], pa.timestamp("ms"))
    times = TimeColumn().read(typed)
    assert times.ms.tolist() == [NOON_MS, 0]
    assert times.missing.tolist() == [False, True]
    assert TimeColumn().read(pa.array([NOON_MS], pa.int64())).ms.tolist() == [NOON_MS]


def test_numbers_are_read_and_bad_ones_found_among_many() -> None:
    values = [str(n / 2) for n in range(1000)]
    values[17], values[400], values[999] = "x", "1,5", "12 apples"
    numbers = cells.numbers(strings(*values))
    assert np.flatnonzero(numbers.bad).tolist() == [17, 400, 999]
    assert numbers.values[2] == 1.0
    assert np.isnan(numbers.values[17])


def test_an_empty_number_is_missing_and_a_word_for_none_may_be() -> None:
    found = cells.numbers(strings("", " ", None, "NULL"))
    assert found.bad.tolist() == [False, False, False, True]
    found = cells.numbers(strings("N/A", "NULL", "nan", "\\N", "x"), words_are_missing=True)
    assert found.bad.tolist() == [False, False, False, False, True]
    assert not found.not_finite.any()


def test_nan_and_infinity_are_not_finite() -> None:
    found = cells.numbers(strings("NaN", "-inf", "Infinity", "1"))
    assert found.not_finite.tolist() == [True, True, True, False]
    assert np.isnan(found.values[:3]).all()
    typed = cells.numbers(pa.array([float("nan"), 1.0, None]))
    assert typed.not_finite.tolist() == [True, False, False]


def test_text_of_whole_floats_has_no_point() -> None:
    assert cells.text(pa.array([7.0, 7.5, None, float("nan")])).to_pylist() == [
        "7",
        "7.5",
        None,
        None,
    ]
    assert cells.text(strings("a", "", None)).to_pylist() == ["a", None, None]
    assert cells.text(pa.array([3, None], pa.int64())).to_pylist() == ["3", None]
    assert cells.text(pa.array([["a", "b"], None])).to_pylist() == ["a b", None]


def test_lists_are_split_trimmed_and_rid_of_empty_parts() -> None:
    found = cells.lists(strings("a| b ||c", "", None, "|", "d"), "|")
    assert found.to_pylist() == [["a", "b", "c"], None, None, [], ["d"]]
    assert cells.lists(pa.array([["x ", ""], None, []]), "|").to_pylist() == [["x"], None, []]


def test_extracting_takes_group_one_or_nothing() -> None:
    found = cells.extracted(strings("Up (2009)", "Up", None, "Up (2009)"), r"\((\d{4})\)")
    assert found.to_pylist() == ["2009", None, None, "2009"]


def test_an_optional_group_that_did_not_match_is_nothing() -> None:
    assert cells.extracted(strings("a"), "a(b)?").to_pylist() == [None]
