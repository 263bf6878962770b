"""`shortlist evaluate`: measure what is trained on the events that were held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from shortlist.commands.options import json_option, workdir_option
from shortlist.commands.terminal import Terminal

__all__ = ["evaluate", "measure", "show_evaluation", "show_summary"]

Result = Mapping[str, Any]

_USERS = 2000
_SYSTEMS = (
    "recall@20",
    "ndcg@20",
    "mrr",
    "value@20",
    "coverage",
    "diversity",
    "novelty",
)
_SUMMARY = ("recall@20", "ndcg@20", "value@20", "coverage", "diversity")
_RETRIEVAL = ("recall@20", "recall@100", "recall@1000", "items")
_RANKERS = (
    "auc",
    "gauc",
    "ndcg@20",
    "conditional_ndcg@20",
    "log_loss",
    "log_loss_base_rate",
    "calibration_error",
)
_STAGES = ("items", "relevant", "share")
_SOURCES = ("hits", "unique_hits", "recall_lost", "blend_fractional", "page_fractional")
_COLD_ITEMS = ("recall@20", "ndcg@20", "mrr")


@click.command()
@workdir_option
@click.option(
    "--users",
    type=click.IntRange(min=2),
    default=_USERS,
    show_default=True,
    show_envvar=True,
    help="Most held-out users to ask for; fewer are faster and less sure.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    show_envvar=True,
    help="Equal seeds choose equal users and draw equal intervals.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    show_envvar=True,
    help="Where the report goes.  [default: W/evaluation.html]",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    show_envvar=True,
    help="Also draw the page and its parts: this file as SVG, and beside it a PNG.",
)
@json_option
def evaluate(
    workdir: Path,
    users: int,
    seed: int,
    html: Path | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Measure the trained tiers, and the whole page, on held-out events.

    Asks for a page for each held-out user with what was known before, and compares it with what the
    user went on to like, beside every single source, every ranker alone, and items at random. Also:
    how much retrieval finds and what each source adds (funnel), how well each ranker orders and
    whether what it foretells comes true (calibration), who is served how well (cohorts), new users
    and new items (cold start), and what variety and freshness cost (trade-offs). Means come with
    bootstrap intervals of 95 %.

    All figures are kept in W/evaluation.json, a report with plots in W/evaluation.html; the
    figures are explained in docs/evaluation.md.

    \b
      shortlist evaluate --workdir W
      shortlist evaluate --workdir W --users 500 --html report.html --picture picture.svg
      shortlist evaluate --workdir W --json | jq '.systems.page, .comparisons'
    """
    terminal = Terminal(as_json=as_json)
    with terminal.only_json():
        result = measure(workdir, terminal, users=users, seed=seed)
        report = _write_report(result, html or workdir / "evaluation.html")
        if picture:
            _write_picture(result, picture)
    show_evaluation(result, terminal)
    terminal.out.print(f"[green]✓[/] The report: {report}", soft_wrap=True)
    terminal.emit(result)


def measure(
    workdir: Path, terminal: Terminal, *, users: int = _USERS, seed: int = 0
) -> dict[str, Any]:
    """Evaluate with a progress bar a part."""
    from training.evaluation import evaluate as run

    with terminal.progress() as report:
        return run(workdir, users=users, seed=seed, progress=report)


def _write_report(result: Result, path: Path) -> Path:
    from training.evaluation.report import write_report

    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(dict(result), path)
    return path


def _write_picture(result: Result, path: Path) -> None:
    from training.evaluation.report import write_picture

    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(result, path)


def show_summary(result: Result, terminal: Terminal) -> None:
    """What matters most, in two small tables."""
    terminal.out.print(_table("systems", result["systems"], _SUMMARY))
    terminal.out.print(_table("rankers", result["rankers"], ("auc", "ndcg@20", "value@20")))
    terminal.out.print(_verdict(result))


def show_evaluation(result: Result, terminal: Terminal) -> None:
    """A section a part of the evaluation."""
    out = terminal.out
    users, data = result["users"], result["data"]
    out.print(
        f"{data['name']}: {users['evaluated']:,} held-out users, "
        f"{users['without_history']:,} of them new; split: {result['split']}"
    )
    out.print(_table("systems: what a user would see", result["systems"], _SYSTEMS, interval=True))
    out.print(_verdict(result))
    out.print(_table("retrieval: what is found", result["retrieval"], _RETRIEVAL))
    stages = {one["stage"]: one for one in result["funnel"]["stages"]}
    out.print(_table("funnel: where relevant items are lost", stages, _STAGES))
    out.print(_table("sources: what each adds", result["funnel"]["sources"], _SOURCES))
    out.print(_table("rankers: how well each orders", result["rankers"], _RANKERS))
    out.print(_cohorts(result["cohorts"], result["comparisons"]))
    _show_cold_start(result["cold_start"], terminal)
    _show_tradeoffs(result["tradeoffs"], terminal)


def _verdict(result: Result) -> str:
    """The page beside the best single source and the best ranker, in words."""
    lines = []
    for kind in ("best_source", "best_ranker"):
        name = result["comparisons"][kind]
        gap = result["comparisons"]["page_minus"][name]["ndcg@20"]
        ends = "to".join(f" {_signed(end)} " for end in gap["ci"]).strip()
        what = kind.replace("_", " ")
        lines.append(f"page minus {what} ({name}): nDCG@20 {_signed(gap['difference'])} ({ends})")
    return "\n".join(lines)


def _cohorts(cohorts: Sequence[Result], comparisons: Result) -> Table:
    rivals = ("page", comparisons["best_source"], comparisons["best_ranker"])
    rows = {
        one["name"]: {
            "users": one["users"],
            **{f"{name} ndcg@20": one["systems"][name]["ndcg@20"] for name in rivals},
        }
        for one in cohorts
    }
    return _table("cohorts: who is served how well", rows)


def _show_cold_start(cold: Result, terminal: Terminal) -> None:
    users = cold["users"]
    if reason := users.get("absent"):
        terminal.out.print(f"new users: {reason}")
    else:
        terminal.out.print(_cuts(users))
    for part, title in (("items", "only new items"), ("both", "the same, new users")):
        if reason := cold[part].get("absent"):
            terminal.out.print(f"{title}: {reason}")
        else:
            about = f"{title}: {cold[part]['users']} users"
            terminal.out.print(_table(about, cold[part]["among_cold"], _COLD_ITEMS))


def _cuts(users: Result) -> Table:
    columns = {_known(cut): cut["systems"] for cut in users["cuts"]}
    names = list(users["cuts"][0]["systems"])
    rows = {
        name: {column: systems[name]["ndcg@20"] for column, systems in columns.items()}
        for name in names
    }
    return _table(f"new users: nDCG@20 of {users['users']} users by known events", rows)


def _known(cut: Result) -> str:
    return "all" if cut["events"] is None else str(cut["events"])


def _show_tradeoffs(tradeoffs: Result, terminal: Terminal) -> None:
    for part, dial in (("diversity", "strength"), ("freshness", "minimum")):
        if reason := tradeoffs[part].get("absent"):
            terminal.out.print(f"{part}: {reason}")
            continue
        rows = {
            str(point[dial]): {name: value for name, value in point.items() if name != dial}
            for point in tradeoffs[part]["points"]
        }
        terminal.out.print(_table(f"{part}: by {dial}, {tradeoffs[part]['served']} serves", rows))


def _table(
    title: str,
    rows: Mapping[str, Result],
    columns: Iterable[str] | None = None,
    *,
    interval: bool = False,
) -> Table:
    """`columns` of the rows, or all; with the interval of nDCG@20 where it is wanted."""
    names = list(columns or dict.fromkeys(name for row in rows.values() for name in row))
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
        if interval and name == "ndcg@20":
            table.add_column("95 %", justify="right", style="dim")
    for label, row in rows.items():
        cells = []
        for name in names:
            cells.append(_shown(row.get(name)))
            if interval and name == "ndcg@20":
                cells.append("-".join(_shown(end) for end in row["ci"][name]))
        table.add_row(label, *cells)
    return table


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _signed(value: float | None) -> str:
    return "?" if value is None else f"{value:+.4f}"
