"""What a command shows: tables on stdout, progress on stderr, or one JSON object on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["Terminal"]

Report = Callable[[str, int, int | None], None]
"""What is being done, how much of it is done, and how much there is (None = nobody knows)."""

_PIPE_WIDTH = 120  # columns where the output is no terminal


class Terminal:
    """Where a command's words go. With `as_json`, stdout carries nothing but `emit`'s object."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.err = _console(stderr=True)
        self.out = self.err if as_json else _console(stderr=False)

    @contextlib.contextmanager
    def step(self, doing: str) -> Iterator[None]:
        """Show that something is being done and, when it is done, how long it took."""
        started = time.monotonic()
        with self.err.status(f"{doing} ..."):
            yield
        self.err.print(f"[green]✓[/] {doing} [dim]{time.monotonic() - started:.1f} s[/]")

    @contextlib.contextmanager
    def progress(self) -> Iterator[Report]:
        """Yields `report(what, done, total)`, which shows one line for each `what`."""
        bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,}"),
            TimeElapsedColumn(),
            console=self.err,
        )
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int | None = None) -> None:
            if what not in tasks:
                for earlier in tasks.values():
                    _finish(bars, earlier)
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        with bars:
            yield report
            for task in tasks.values():
                _finish(bars, task)

    @contextlib.contextmanager
    def only_json(self) -> Iterator[None]:
        """Whatever a library prints meanwhile goes to stderr, from Python and from C alike."""
        if not self.as_json:
            yield
            return
        sys.stdout.flush()
        saved = os.dup(1)
        try:
            os.dup2(2, 1)
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            os.dup2(saved, 1)
            os.close(saved)

    def emit(self, value: Mapping[str, object]) -> None:
        """Print the one JSON object, where JSON was asked for."""
        if self.as_json:
            click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def _finish(bars: Progress, task: TaskID) -> None:
    done = bars.tasks[task].completed
    bars.update(task, completed=max(done, 1), total=max(done, 1))


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(stderr=stderr, highlight=False, width=_PIPE_WIDTH)
    return console
