"""`python -m benchmarks.engines`: other libraries that search and score, beside ours.

One thread, equal recall or equal scores, in turns: A B C, A B C, ... An engine that is not
installed is left out and named.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # numpy reads it when it is loaded

import click
from rich.table import Table

from benchmarks.engines.rankers import RankerRow, compare_networks, compare_trees
from benchmarks.engines.retrieval import SearchPlan, SearchRow, compare_searchers
from benchmarks.engines.searchers import SEARCHERS
from benchmarks.folders import kept_or_temporary
from benchmarks.serving.rankers import FORMS
from benchmarks.serving.world import WorldShape, prepare
from shortlist.commands.terminal import Terminal
from shortlist.errors import ShortlistError

__all__ = ["main"]

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
_rounds = click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Compare engines.

    \b
      python -m benchmarks.engines retrieval --items 200000
      python -m benchmarks.engines rankers --workdir W --form fast
    """


@main.command()
@_json
@_rounds
@click.option("--items", type=click.IntRange(2000), default=200_000, show_default=True)
@click.option("--dim", type=click.IntRange(4), default=64, show_default=True)
@click.option("--k", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--recall-target", type=click.FloatRange(0, 1), default=0.97, show_default=True)
@click.option("--queries", type=click.IntRange(10), default=200, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--engine",
    "engines",
    type=click.Choice(list(SEARCHERS)),
    multiple=True,
    default=list(SEARCHERS),
    help="Only this one; may be repeated.",
)
def retrieval(
    as_json: bool,
    rounds: int,
    items: int,
    dim: int,
    k: int,
    recall_target: float,
    queries: int,
    seed: int,
    engines: tuple[str, ...],
) -> None:
    """Search engines, each with the least effort that reaches the recall."""
    terminal = Terminal(as_json=as_json)
    plan = SearchPlan(
        items=items,
        dim=dim,
        k=min(k, items // 2),
        recall_target=recall_target,
        queries=queries,
        rounds=rounds,
        seed=seed,
        engines=tuple(dict.fromkeys(engines)),
    )
    with terminal.only_json():
        rows = compare_searchers(plan, terminal.err.print)
    terminal.out.print(_search_table(plan, rows))
    terminal.emit({**asdict(plan), "rows": [asdict(row) for row in rows]})


@main.command()
@_json
@_rounds
@click.option("--form", type=click.Choice(list(FORMS)), default="stacked", show_default=True)
@click.option("--candidates", type=click.IntRange(20), default=1000, show_default=True)
@click.option("--items", type=click.IntRange(2000), default=20_000, show_default=True)
@click.option("--users", type=click.IntRange(100), default=300, show_default=True)
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    help="A world of benchmarks.serving; default: a small one that is gone afterwards.",
)
@click.option("--trees/--no-trees", default=True, show_default=True)
def rankers(
    as_json: bool,
    rounds: int,
    form: str,
    candidates: int,
    items: int,
    users: int,
    workdir: Path | None,
    trees: bool,
) -> None:
    """Engines that run the rankers' network, and trees; equal weights, checked scores."""
    terminal = Terminal(as_json=as_json)
    shape = WorldShape(items=items, users=users, candidates=candidates)
    try:
        with terminal.only_json(), kept_or_temporary(workdir, "engines") as folder:
            if not (folder / "world.json").exists():
                prepare(folder, shape, terminal.err.print)
            rows = compare_networks(folder, form, candidates, rounds, terminal.err.print)
            if trees:
                rows += compare_trees(candidates, rounds, terminal.err.print)
    except ShortlistError as error:
        raise click.ClickException(str(error)) from None
    terminal.out.print(_rankers_table(form, candidates, rows))
    terminal.emit({"form": form, "candidates": candidates, "rows": [asdict(row) for row in rows]})


def _search_table(plan: SearchPlan, rows: list[SearchRow]) -> Table:
    title = f"{plan.items:,} x {plan.dim}, k = {plan.k}, recall >= {plan.recall_target}, one thread"
    table = Table("engine", title=title)
    for name in ("recall", "p50 ms", "p99 ms", "CPU ms", "build s", "index MB", "effort"):
        table.add_column(name, justify="right")
    for row in rows:
        if row.skipped:
            table.add_row(row.engine, row.skipped)
            continue
        table.add_row(
            row.engine,
            f"{row.recall:.4f}" + ("" if row.reached else " (most)"),
            f"{row.p50_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.cpu_ms:.2f}",
            f"{row.build_s:.1f}",
            f"{row.index_mb:.1f}",
            " ".join(map(str, row.effort)),
        )
    return table


def _rankers_table(form: str, candidates: int, rows: list[RankerRow]) -> Table:
    table = Table("engine", title=f"{form} network, {candidates} candidates, one thread")
    for name in ("p50 ms", "rounds", "CPU ms", "of sgemm", "difference", "same best 20"):
        table.add_column(name, justify="right")
    for row in rows:
        if row.skipped:
            table.add_row(row.engine, row.skipped)
            continue
        table.add_row(
            row.engine,
            f"{row.p50_ms:.2f}",
            "{:.2f} - {:.2f}".format(*row.spread_ms),
            f"{row.cpu_ms:.2f}",
            f"{row.of_sgemm:.2f}" if row.of_sgemm else "",
            f"{row.difference:.1e}",
            "yes" if row.same_head else "no",
        )
    return table


if __name__ == "__main__":
    main()
