"""Sends the lines of a file in batches, again where a batch was not taken, and adds up what became
of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shortlist.commands.json_lines import Line
from shortlist.errors import ShortlistError

__all__ = ["Outcome", "Refused", "Sent", "batches_of", "insist", "show_refused"]

T = TypeVar("T")
R = TypeVar("R")

_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.2
_PASSING = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")  # nothing was acknowledged; it may pass
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A line that was not taken."""

    line: int
    field: str  # its path within the line's object; "" where the line itself is wrong
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one batch. `refused` holds (index in the batch, field, message)."""

    accepted: int
    duplicates: int = 0
    clamped: int = 0
    refused: Sequence[tuple[int, str, str]] = ()
    sequence: int = 0


@dataclass(slots=True, kw_only=True)
class Sent(Generic[T]):
    """The sum over all batches, as it grows."""

    lines: int = 0
    accepted: int = 0
    duplicates: int = 0
    clamped: int = 0
    log_sequence: int = 0
    refused: list[Refused] = field(default_factory=list)

    async def send(
        self, lines: Sequence[Line[T]], send: Callable[[list[T]], Awaitable[Outcome]]
    ) -> None:
        """One batch; lines that are no values are refused here. Raises what `send` raises."""
        self.lines += len(lines)
        good = [line for line in lines if line.value is not None]
        for line in lines:
            if line.value is None:
                self.refused.append(Refused(line=line.number, field="", message=line.problem))
        if not good:
            return
        outcome = await insist(lambda: send([one.value for one in good if one.value is not None]))
        self.accepted += outcome.accepted
        self.duplicates += outcome.duplicates
        self.clamped += outcome.clamped
        self.log_sequence = max(self.log_sequence, outcome.sequence)
        self.refused.extend(
            Refused(line=good[index].number, field=name, message=message)
            for index, name, message in outcome.refused
        )


def batches_of(lines: Iterable[Line[T]], size: int) -> Iterator[list[Line[T]]]:
    iterator = iter(lines)
    while batch := list(islice(iterator, size)):
        yield batch


async def insist(call: Callable[[], Awaitable[R]]) -> R:
    """Call again while a server is overloaded or away, for a few seconds. Changes bear it: sent
    twice, they are made once."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return await call()
        except ShortlistError as error:
            if error.status_name not in _PASSING:
                raise
            await asyncio.sleep(_FIRST_PAUSE_S * 2**attempt)
    return await call()


def show_refused(refused: Sequence[Refused], console: Console) -> None:
    if not refused:
        return
    table = Table("line", "field", "why", title=f"{len(refused):,} lines were refused")
    for one in refused[:_SHOWN]:
        table.add_row(f"{one.line:,}", escape(one.field), escape(one.message))
    console.print(table)
    if len(refused) > _SHOWN:
        console.print(f"... and {len(refused) - _SHOWN:,} more; --json lists all")
