"""Rows that cannot be used: counted by reason, shown by example, refused above a threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import ShortlistError

__all__ = ["BadRow", "BadRowLog", "RowCheck", "TooManyBadRows"]

_EXAMPLES = 3  # shown of each reason
_EXAMPLE_CHARACTERS = 160

Mask = npt.NDArray[np.bool_]


class TooManyBadRows(ShortlistError):
    """More rows of a table are bad than `bad_rows.max_fraction` allows."""

    status_name = "INVALID_ARGUMENT"

    def __init__(self, log: BadRowLog, max_fraction: float) -> None:
        self.log, self.max_fraction = log, max_fraction
        super().__init__(
            f"{log.table}: {log.bad:,} of {log.rows:,} rows are bad, more than "
            f"bad_rows.max_fraction {max_fraction:g} allows. Mend the file or the schema, "
            f"or raise the threshold.\n{log.describe()}"
        )


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """An example of a bad row."""

    where: str  # file:line
    text: str


@dataclass(kw_only=True)
class BadRowLog:
    """How many rows of one table were read, and which of them were bad and why."""

    table: str
    rows: int = 0  # read so far, the bad ones included
    counts: dict[str, int] = field(default_factory=dict)  # reason -> rows
    examples: dict[str, list[BadRow]] = field(default_factory=dict)

    @property
    def bad(self) -> int:
        return sum(self.counts.values())

    def add(self, reason: str, where: str, text: str) -> None:
        """Count one bad row. It must be among `rows` as well."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < _EXAMPLES:
            shown.append(BadRow(where=where, text=_shorten(text)))

    def refuse_above(self, max_fraction: float) -> None:
        """Raise `TooManyBadRows` when more than this fraction of the rows is bad."""
        if self.bad > max_fraction * self.rows:
            raise TooManyBadRows(self, max_fraction)

    def describe(self) -> str:
        """Reasons by frequency, each with its examples, for a person."""
        lines = []
        for reason, count in sorted(self.counts.items(), key=lambda pair: -pair[1]):
            lines.append(f"  {count:>9,}  {reason}")
            lines += [f"{'':13}{row.where}: {row.text}" for row in self.examples[reason]]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "bad": self.bad,
            "reasons": {
                reason: {
                    "count": count,
                    "examples": [{"where": r.where, "text": r.text} for r in self.examples[reason]],
                }
                for reason, count in self.counts.items()
            },
        }


class RowCheck:
    """The bad rows of one batch. A row keeps the first reason that is given for it."""

    def __init__(self, rows: int) -> None:
        self._code = np.zeros(rows, dtype=np.int16)  # 0: good; n: the reason at n - 1
        self._reasons: list[str] = []

    def fail(self, rows: Mask, reason: str) -> None:
        """Mark `rows` (bool [n]) as bad, save those that are bad already."""
        if rows.any():
            self._reasons.append(reason)
            self._code[rows & (self._code == 0)] = len(self._reasons)

    @property
    def good(self) -> Mask:
        return self._code == 0

    def report(
        self, log: BadRowLog, where: Callable[[int], str], text: Callable[[int], str]
    ) -> None:
        """Add the bad rows to `log`; `where` and `text` describe the row with a given number."""
        for row in np.flatnonzero(self._code):
            log.add(self._reasons[self._code[row] - 1], where(int(row)), text(int(row)))


def _shorten(text: str) -> str:
    text = text.replace("\n", "\\n")
    return text if len(text) <= _EXAMPLE_CHARACTERS else text[: _EXAMPLE_CHARACTERS - 1] + "…"
