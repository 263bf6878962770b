"""`shortlist tune`: look for better values of the few parameters that matter."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from shortlist.commands.options import json_option, workdir_option
from shortlist.commands.terminal import Terminal
from shortlist.commands.train import run_to_end
from shortlist.launch import module_command

__all__ = ["tune"]

OBJECTIVES = ("ndcg@20", "ndcg@100", "recall@100", "recall@1000")
_SHOWN = 8  # trials of a part, the best ones
_CURRENT, _CHOSEN = "current", "chosen"


@click.command()
@click.argument("tier", type=click.Choice(["retrieval", "ranking", "all"]), default="all")
@workdir_option
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    show_envvar=True,
    help="Time for the search, divided over the parts. Getting ready comes on top.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    show_envvar=True,
    help="At most so many for each part. Unset: as many as the time allows.",
)
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    default="ndcg@100",
    show_default=True,
    show_envvar=True,
    help="What a source is judged by. Rankers are judged by their loss on held-out users.",
)
@click.option(
    "--seed", default=0, show_default=True, show_envvar=True, help="Makes the draws repeatable."
)
@json_option
def tune(
    tier: str,
    workdir: Path,
    minutes: float,
    trials: int | None,
    objective: str,
    seed: int,
    as_json: bool,
) -> None:
    """Look for better settings with Ray Tune, and write them to W/shortlist.yaml.

    TIER is retrieval, ranking, or all (the default). Each source and each ranker is tuned alone, on
    what was held out before the test part; the test part is never looked at. The current values
    are tried first, so what is chosen is never worse by the objective. All trials are kept in
    W/tuning. Rankers need a trained retrieval tier.

    \b
      shortlist tune --workdir W --minutes 30
      shortlist tune retrieval --workdir W --objective recall@1000
      shortlist train --workdir W      # what was chosen serves after the next training
    """
    terminal = Terminal(as_json=as_json)
    if not (workdir / "dataset").is_dir():
        raise click.UsageError(f"no data set in {workdir}: run `shortlist import` first")
    if tier != "retrieval" and not (workdir / "artifacts" / "backtest").is_dir():
        raise click.UsageError(
            f"rankers learn from a trained retrieval tier, and {workdir} has none: run `shortlist "
            "train` first, or tune retrieval only"
        )
    options = {"tier": tier, "minutes": minutes, "objective": objective, "seed": seed}
    given = options if trials is None else options | {"trials": trials}
    arguments = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    workdir = workdir.resolve()
    _forget(workdir)
    run_to_end(
        module_command("training.tune", "--workdir", str(workdir), *arguments), f"tuning {tier}"
    )
    tables = {path.stem: _read(path) for path in sorted((workdir / "tuning").glob("*.csv"))}
    for name, rows in tables.items():
        terminal.out.print(_table(name, rows))
        terminal.out.print(_said(rows))
    if any(_changes(rows) for rows in tables.values()):
        terminal.out.print("run `shortlist train` to serve what was chosen")
    terminal.emit(
        {name: {"trials": rows, "changed": _changes(rows)} for name, rows in tables.items()}
    )


def _forget(workdir: Path) -> None:
    """The tables of an earlier search."""
    for path in (workdir / "tuning").glob("*.csv"):
        path.unlink()


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _table(name: str, rows: list[dict[str, str]]) -> Table:
    """The chosen values and the current ones first, then the best others."""
    columns = list(rows[0]) if rows else []
    chosen = [row for row in rows if _is(row, _CHOSEN)]
    current = [row for row in rows if _is(row, _CURRENT) and row not in chosen]
    others = [row for row in rows if row not in chosen and row not in current]
    table = Table(*columns, title=f"{name}: {len(rows)} trials")
    for row in [*chosen, *current, *_best_first(others)][:_SHOWN]:
        style = "green" if row in chosen else None
        table.add_row(*(escape(row[column]) for column in columns), style=style)
    return table


def _best_first(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """By the column before the seconds; a loss is better when it is smaller."""
    if not rows:
        return []
    measure = list(rows[0])[-3]
    sign = 1.0 if measure.endswith("loss") else -1.0

    def key(row: dict[str, str]) -> float:
        return sign * float(row[measure]) if row[measure] else float("inf")

    return sorted(rows, key=key)


def _is(row: dict[str, str], note: str) -> bool:
    return note in row["note"].split(", ")


def _changes(rows: list[dict[str, str]]) -> dict[str, Any]:
    """`parameter: [before, after]` of what was chosen."""
    before = next((row for row in rows if _is(row, _CURRENT)), None)
    after = next((row for row in rows if _is(row, _CHOSEN)), None)
    if before is None or after is None:
        return {}
    names = list(before)[1:-3]  # between the trial's number and measure, seconds, note
    return {name: [before[name], after[name]] for name in names if before[name] != after[name]}


def _said(rows: list[dict[str, str]]) -> str:
    changes = _changes(rows)
    if changes:
        return ", ".join(f"{name} {old} → {new}" for name, (old, new) in changes.items())
    if any(_is(row, _CHOSEN) for row in rows):
        return "the current values are the best that were tried"
    return "no trial ended: the current values stay; give more minutes, or see the notes"
