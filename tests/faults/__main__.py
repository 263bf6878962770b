"""`python -m tests.faults`: run the fault catalogue and print one row a fault.

A test belongs to the fault whose number stands in its name (`test_fault_15_a_flipped_bit_...`), or
in its file's name. Arguments are passed on to pytest. The exit code is pytest's.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

_NUMBER = re.compile(r"test_(?:fault_)?(\d+)(?:_|$)")
_STYLES = {"passed": "green", "skipped": "yellow", "failed": "bold red"}


@dataclass(slots=True, kw_only=True)
class FaultRow:
    """What all parameters of one test say together."""

    number: int | None  # of the fault catalogue; None where no name has one
    sentence: str
    results: Counter[str] = field(default_factory=Counter)
    figures: dict[str, object] = field(default_factory=dict)

    @property
    def result(self) -> str:
        """`failed` if any failed, `passed` if any ran, else `skipped`."""
        return next(name for name in ("failed", "passed", "skipped") if self.results[name])


class FaultCollector:
    """A pytest plugin that keeps each fault test's result and recorded figures."""

    def __init__(self) -> None:
        self._rows: dict[str, FaultRow] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return  # set-up and tear-down count only when they went wrong
        row = self._row(report.nodeid)
        row.results[report.outcome] += 1
        row.figures.update(report.user_properties)

    def rows(self) -> list[FaultRow]:
        """In the catalogue's order; tests without a number come last."""
        return sorted(self._rows.values(), key=lambda row: (row.number is None, row.number))

    def _row(self, nodeid: str) -> FaultRow:
        test = nodeid.partition("[")[0]
        if test not in self._rows:
            self._rows[test] = FaultRow(number=fault_number(test), sentence=fault_sentence(test))
        return self._rows[test]


def fault_number(test: str) -> int | None:
    """The number in a test's own name, else in its file's name."""
    file, _, name = test.partition("::")
    found = _NUMBER.search(name) or _NUMBER.search(Path(file).name)
    return int(found[1]) if found else None


def fault_sentence(test: str) -> str:
    """`...::test_fault_15_a_flipped_bit_is_refused` -> `a flipped bit is refused`."""
    name = test.rpartition("::")[2]
    return re.sub(r"^test_(?:fault_)?(?:\d+_)?", "", name).replace("_", " ")


def fault_table(rows: list[FaultRow]) -> Table:
    """One line a fault."""
    table = Table("fault", "what happens", "result", "tests", "figures", title="Fault catalogue")
    for row in rows:
        table.add_row(
            "" if row.number is None else str(row.number),
            row.sentence,
            f"[{_STYLES[row.result]}]{row.result}",
            str(row.results.total()),
            ", ".join(f"{name} {_short(value)}" for name, value in row.figures.items()),
        )
    return table


def main(arguments: list[str]) -> int:
    """Run the catalogue, print the table, and return pytest's exit code."""
    collector = FaultCollector()
    folder = Path(__file__).parent
    code = pytest.main([str(folder), "-q", "--no-header", *arguments], plugins=[collector])
    rows = collector.rows()
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(fault_table(rows))
    counts = Counter(row.result for row in rows)
    console.print(", ".join(f"{counts[name]} {name}" for name in _STYLES if counts[name]))
    return int(code)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
