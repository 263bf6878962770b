"""The table of `make faults`: which fault a test belongs to, and what its row says."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tests.faults.__main__ import (
    FaultCollector,
    FaultRow,
    fault_number,
    fault_sentence,
    fault_table,
)


@pytest.mark.parametrize(
    ("test", "number"),
    [
        ("tests/faults/test_a.py::test_fault_15_a_bit_flips", 15),
        ("tests/faults/test_a.py::test_15_a_bit_flips", 15),
        ("tests/faults/test_fault_22_small.py::test_one_item_is_enough", 22),
        ("tests/faults/test_fault_22_small.py::test_fault_21_nan", 21),
        ("tests/faults/test_a.py::TestOne::test_fault_7_refused", 7),
        ("tests/faults/test_a.py::test_2000_items", 2000),
        ("tests/faults/test_a.py::test_nothing", None),
    ],
)
def test_a_test_belongs_to_the_fault_in_its_name_or_its_files(
    test: str, number: int | None
) -> None:
    assert fault_number(test) == number


def test_a_tests_name_becomes_a_sentence() -> None:
    assert fault_sentence("f.py::test_fault_15_a_bit_flips") == "a bit flips"
    assert fault_sentence("f.py::TestOne::test_one_item_is_enough") == "one item is enough"


def test_one_failure_among_many_parameters_fails_the_row() -> None:
    row = FaultRow(number=1, sentence="it dies")
    row.results.update(["passed", "failed", "passed"])
    assert row.result == "failed"


def test_the_table_shows_results_and_figures() -> None:
    row = FaultRow(number=1, sentence="it dies", figures={"p99_ms": 12.3456, "lost": 0})
    row.results.update(["passed"])
    console = Console(width=120, file=io.StringIO())
    console.print(fault_table([row]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "it dies" in text
    assert "p99_ms 12.3, lost 0" in text


def test_parameters_of_one_test_share_a_row_and_faults_stand_in_order() -> None:
    collector = FaultCollector()
    for nodeid, outcome in [
        ("f.py::test_fault_16_half_written[a]", "passed"),
        ("f.py::test_fault_16_half_written[b]", "failed"),
        ("f.py::test_fault_15_a_bit_flips", "passed"),
        ("f.py::test_helper", "skipped"),
    ]:
        collector.pytest_runtest_logreport(report(nodeid, outcome, files=28))
    assert [(row.number, row.result, row.results.total()) for row in collector.rows()] == [
        (15, "passed", 1),
        (16, "failed", 2),
        (None, "skipped", 1),
    ]
    assert collector.rows()[0].figures == {"files": 28}


def test_setting_up_counts_only_when_it_fails() -> None:
    collector = FaultCollector()
    collector.pytest_runtest_logreport(report("f.py::test_fault_1_a", "passed", when="setup"))
    collector.pytest_runtest_logreport(report("f.py::test_fault_2_b", "failed", when="setup"))
    assert [(row.number, row.result) for row in collector.rows()] == [(2, "failed")]


def report(
    nodeid: str, outcome: Any, *, when: Any = "call", **figures: object
) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid, ("f.py", 1, ""), {}, outcome, None, when, user_properties=list(figures.items())
    )
