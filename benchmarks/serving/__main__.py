"""`python -m benchmarks.serving`: what a page costs, and how far that is from the machine's limit.

Systems run in processes of their own and are asked over gRPC by another, in an open loop at rising
rates. Every figure belongs to one run on one machine; `bound_rps` is measured in the same run.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # numpy reads it when it is loaded

import click
import numpy as np
from rich.table import Table

from benchmarks.folders import kept_or_temporary
from benchmarks.serving.bound import Bound, bound_of
from benchmarks.serving.measuring import Effort
from benchmarks.serving.peers.preparing import prepare_peers
from benchmarks.serving.rankers import FORMS
from benchmarks.serving.rounds import Contestant, Turn, compete, ratio, summary
from benchmarks.serving.systems import KINDS, PEERS, running, running_peers
from benchmarks.serving.targets import targets_of
from benchmarks.serving.wire import of_peers, of_shortlist
from benchmarks.serving.world import WorldShape, prepare
from shortlist.commands.terminal import Terminal
from shortlist.errors import ShortlistError

__all__ = ["main"]

_ASKED_USERS = 4000


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
@click.option("--items", type=click.IntRange(2000), default=1_000_000, show_default=True)
@click.option("--users", type=click.IntRange(100), default=20_000, show_default=True)
@click.option("--candidates", type=click.IntRange(20), default=1000, show_default=True)
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the world here, and use it again; default: a temporary folder.",
)
@click.option(
    "--form",
    "forms",
    type=click.Choice(list(FORMS)),
    multiple=True,
    default=list(FORMS),
    help="Measure only this form of the ranker; may be repeated.",
)
@click.option(
    "--system",
    "kinds",
    type=click.Choice(KINDS),
    multiple=True,
    default=KINDS,
    help="Measure only this one; may be repeated.",
)
@click.option("--peers", is_flag=True, help="Measure what users would build instead, too.")
@click.option(
    "--peer",
    "some_peers",
    type=click.Choice(PEERS),
    multiple=True,
    help="Only this of them; may be repeated.",
)
@click.option("--rankers", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="In which each system has its turn.",
)
@click.option("--seconds", type=float, default=6.0, show_default=True, help="Of a steady load.")
@click.option("--rising-seconds", type=float, default=2.5, show_default=True, help="At each rate.")
def main(
    as_json: bool,
    items: int,
    users: int,
    candidates: int,
    workdir: Path | None,
    forms: tuple[str, ...],
    kinds: tuple[str, ...],
    peers: bool,
    some_peers: tuple[str, ...],
    rankers: int,
    rounds: int,
    seconds: float,
    rising_seconds: float,
) -> None:
    """Measure pages of a catalogue of --items items, --candidates of which are ranked.

    \b
      python -m benchmarks.serving --workdir W --json
      python -m benchmarks.serving --items 50000 --form fast --system distributed
    """
    terminal = Terminal(as_json=as_json)
    shape = WorldShape(items=items, users=users, candidates=candidates)
    effort = Effort(rounds=rounds, rising_s=rising_seconds, steady_s=seconds)
    sizes = {"items": items, "candidates": candidates, "rankers": rankers, "rounds": rounds}
    chosen = tuple(one for one in PEERS if peers or one in some_peers)
    measured: dict[str, dict[str, Any]] = {}
    try:
        with terminal.only_json(), kept_or_temporary(workdir, "serving") as folder:
            prepare(folder, shape, terminal.err.print)
            if chosen:
                prepare_peers(folder, terminal.err.print)
            run = _Run(
                folder=folder,
                users=_users(shape),
                candidates=candidates,
                rankers=rankers,
                effort=effort,
                terminal=terminal,
            )
            for form in dict.fromkeys(forms):
                measured[form] = _measure_form(run, form, kinds, chosen)
    except ShortlistError as error:
        raise click.ClickException(str(error)) from None
    targets = targets_of(measured)
    terminal.out.print(_table(sizes, measured))
    terminal.out.print(_targets_table(targets))
    terminal.emit(_finite({**sizes, **measured, "targets": targets}))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What all measurements of a run have in common."""

    folder: Path
    users: list[str]
    candidates: int
    rankers: int
    effort: Effort
    terminal: Terminal

    def contestants(
        self, form: str, kinds: Sequence[str], peers: Sequence[str]
    ) -> Iterator[Contestant]:
        for kind in dict.fromkeys(kinds):
            yield Contestant(
                name=kind,
                start=partial(running, self.folder, kind, form, rankers=self.rankers),
                api=of_shortlist(self.users),
                first_shares=(0.5, 0.8),
                other_shares=(0.5,),
            )
        for engine in peers:
            yield Contestant(
                name=engine,
                start=partial(running_peers, self.folder, engine, form, rankers=self.rankers),
                api=of_peers(self.users),
                first_shares=(0.5,),
                other_shares=(),
            )


def _measure_form(
    run: _Run, form: str, kinds: Sequence[str], peers: Sequence[str]
) -> dict[str, Any]:
    """Every system in turns, and the bound before and after them."""
    run.terminal.err.rule(form)
    bounds = [_bound(run.folder, form, run.candidates)]
    contestants = list(run.contestants(form, kinds, peers))
    turns = asyncio.run(compete(contestants, run.folder, run.effort, run.terminal.err.print))
    bounds.append(_bound(run.folder, form, run.candidates))
    best = max(bounds, key=lambda bound: bound.rps)
    figures = {name: _figures(taken, best) for name, taken in turns.items()}
    ours = [name for name in turns if name in KINDS]
    return {
        **{name: figures[name] for name in ours},
        "bound_rps": best.rps,
        "bounds": [asdict(bound) for bound in bounds],
        "peers": {name: figures[name] for name in peers},
        "ratios": {
            name: {"bound": figures[name]["of_bound"]}
            | {peer: ratio(turns[name], turns[peer]) for peer in peers}
            for name in ours
        },
    }


def _figures(turns: Sequence[Turn], bound: Bound) -> dict[str, Any]:
    figures = summary(turns)
    half = figures["at_50%"]
    # The index of all items, whoever holds it: its search is the same each time.
    recall = half["recall"] if half["recall"] is not None else bound.recall
    return {
        **figures,
        "of_bound": figures["saturation_rps"] / bound.rps,
        "p99_ms": half["p99_ms"],
        "recall@1000": recall,
        "orchestrator_cpu_ms": half["orchestrator_cpu_ms"],
    }


def _bound(folder: Path, form: str, candidates: int) -> Bound:
    """In a process of its own, whose memory is free again afterwards."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(bound_of, folder, form, candidates).result()


def _users(shape: WorldShape) -> list[str]:
    rng = np.random.default_rng(5)
    numbers = rng.integers(shape.users, size=min(_ASKED_USERS, shape.users))
    return [f"user-{number:06d}" for number in numbers]


def _finite(value: Any) -> Any:
    """With null where there is no figure, as of latencies when nothing was answered."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(sizes: dict[str, Any], forms: dict[str, dict[str, Any]]) -> Table:
    table = Table(
        "", title=f"{sizes['items']:,} items, {sizes['candidates']} candidates, medians of rounds"
    )
    columns: list[dict[str, Any]] = []
    for form, result in forms.items():
        for kind in (kind for kind in KINDS if kind in result):
            table.add_column(f"{form}, {kind}", justify="right")
            columns.append(result[kind])
        for engine, figures in result["peers"].items():
            table.add_column(f"{form}, peer {engine}", justify="right")
            columns.append(figures)

    def row(name: str, *path: str, of: str = "{:.1f}") -> None:
        values: list[Any] = columns
        for step in path:
            values = [value.get(step) if isinstance(value, dict) else None for value in values]
        shown = (value is not None and math.isfinite(value) for value in values)
        table.add_row(
            name, *(of.format(v) if show else "" for v, show in zip(values, shown, strict=True))
        )

    row("saturation, req/s", "saturation_rps", of="{:.0f}")
    row("of the bound", "of_bound", of="{:.2f}")
    row("Recall@k under load", "recall@1000", of="{:.4f}")
    for share in ("at_50%", "at_80%"):
        for q in ("p50", "p95", "p99"):
            row(f"page {q} ms {share.replace('_', ' ')}", share, "page_ms", q)
    row("retrieval p99 ms at 50%", "p99_ms", "retrieval")
    row("ranking p99 ms at 50%", "p99_ms", "ranking")
    row("orchestrator CPU ms a page", "orchestrator_cpu_ms", of="{:.2f}")
    row("all CPU ms a page", "at_50%", "all_cpu_ms", of="{:.2f}")
    row("coverage", "at_50%", "coverage", of="{:.4f}")
    row("cores taken by others", "others_busy", of="{:.2f}")
    return table


def _targets_table(targets: list[dict[str, Any]]) -> Table:
    table = Table("target", "wanted", "measured", "met")
    for one in targets:
        measured = one["measured"]
        table.add_row(
            one["name"],
            f"{'<=' if one['at_most'] else '>='} {one['wanted']:g}",
            "" if measured is None else f"{measured:.3g}",
            "yes" if one["met"] else "no",
        )
    return table


if __name__ == "__main__":
    main()
