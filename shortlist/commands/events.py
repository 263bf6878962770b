"""`shortlist events`: lines of JSON to the event log of a running server, or of a workdir."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from shortlist.commands.answering import taking_changes
from shortlist.commands.json_lines import event_of, read_lines
from shortlist.commands.options import json_option, store_option, target_option
from shortlist.commands.sending import Outcome, Sent, batches_of, show_refused
from shortlist.commands.terminal import Report, Terminal
from shortlist.feed import RecordedEvent

if TYPE_CHECKING:
    from orchestrator.store_feed import StoreFeed
    from shortlist.client import AsyncClient

__all__ = ["events"]


@click.command()
@click.argument("file", type=click.File("rb"), default="-")
@store_option
@target_option
@click.option(
    "--batch",
    type=click.IntRange(1, 10_000),
    default=1000,
    show_default=True,
    show_envvar=True,
    help="Events of one request: together they become durable.",
)
@json_option
def events(
    file: IO[bytes], workdir: Path | None, target: str | None, batch: int, as_json: bool
) -> int:
    """Record the events in FILE, one JSON object a line; - or nothing is stdin.

    Fields: user_id, item_id, and optionally event_id, event_type, time_ms (Unix milliseconds; now
    without), value, attribution_token, context. A line without event_id gets one made of what the
    line says, so a file may be sent again: nothing is counted twice. The exit code is 1 when a line
    was refused.

    \b
      shortlist events clicks.jsonl --target 127.0.0.1:7700
      tail -f clicks.jsonl | shortlist events --workdir W --batch 1
    \b
    A line:
      {"user_id": "42", "item_id": "i17", "event_type": "click", "context": {"device": "phone"}}
    """
    terminal = Terminal(as_json=as_json)
    with terminal.only_json(), terminal.progress() as report:
        sent = asyncio.run(_send(file, workdir, target, batch, report))
    show_refused(sent.refused, terminal.out)
    terminal.out.print(
        f"{sent.lines:,} lines: {sent.accepted:,} events recorded, {sent.duplicates:,} known "
        f"already, {sent.clamped:,} from the future, {len(sent.refused):,} refused; "
        f"the log is at {sent.log_sequence:,}"
    )
    terminal.emit(asdict(sent))
    return 1 if sent.refused else 0


async def _send(
    file: IO[bytes], workdir: Path | None, target: str | None, batch: int, report: Report
) -> Sent[RecordedEvent]:
    sent = Sent[RecordedEvent]()
    async with taking_changes(workdir, target) as feed:
        for lines in batches_of(read_lines(file, event_of), batch):
            await sent.send(lines, lambda events: _record(feed, events))
            report("Recording events", sent.lines, None)
    return sent


async def _record(feed: AsyncClient | StoreFeed, events: list[RecordedEvent]) -> Outcome:
    answer = await feed.record_events(events)
    return Outcome(
        accepted=answer.accepted,
        duplicates=answer.duplicates,
        clamped=len(answer.clamped),
        refused=[
            (one.index, one.field.partition("].")[2] or one.field, one.message)
            for one in answer.errors
        ],
        sequence=answer.log_sequence,
    )
