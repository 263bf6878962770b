"""`shortlist evaluate`: measure what is trained on the events that were held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from shortlist.commands.options import json_option, workdir_option
from shortlist.commands.terminal import Terminal

__all__ = ["evaluate", "measure", "show_evaluation"]


@click.command()
@workdir_option
@json_option
def evaluate(workdir: Path, as_json: bool) -> None:
    """Measure the trained tiers, and the whole page, on held-out events.

    Compares full pages with popularity and with the two-tower model alone, says how many of the
    held-out items each source finds among its candidates, and how well the ranker orders them.
    The figures are kept in W/evaluation.json.

    \b
      shortlist evaluate --workdir W
      shortlist evaluate --workdir W --json | jq .systems.page
    """
    terminal = Terminal(as_json=as_json)
    with terminal.only_json():
        result = measure(workdir, terminal)
    show_evaluation(result, terminal)
    terminal.emit(result)


def measure(workdir: Path, terminal: Terminal) -> dict[str, Any]:
    """Evaluate with a progress bar: one step a held-out user's page."""
    from training import evaluate as evaluation

    with terminal.progress() as report:
        return evaluation.evaluate(
            workdir, progress=lambda done, total: report("pages for held-out users", done, total)
        )


def show_evaluation(result: Mapping[str, object], terminal: Terminal) -> None:
    """One table for each part that holds figures by name; the rest as lines."""
    for part, figures in result.items():
        if not isinstance(figures, Mapping):
            terminal.out.print(f"{part}: {_shown(figures)}")
        elif figures and all(isinstance(row, Mapping) for row in figures.values()):
            terminal.out.print(_table(part, figures))
        else:
            shown = ", ".join(f"{name} {_shown(value)}" for name, value in figures.items())
            terminal.out.print(f"{part}: {shown}")


def _table(title: str, rows: Mapping[str, Mapping[str, object]]) -> Table:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table("", title=title)
    for name in names:
        table.add_column(name, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(_shown(row.get(column)) for column in names))
    return table


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
