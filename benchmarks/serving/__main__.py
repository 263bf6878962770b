"""`python -m benchmarks.serving`: what a page costs, and how far that is from the machine's limit.

Systems run in processes of their own and are asked over gRPC by another, in an open loop at rising
rates. Every figure belongs to one run on one machine; `bound_rps` is measured in the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # numpy reads it when it is loaded

import click
import numpy as np
from rich.table import Table

from benchmarks.serving.bound import Bound, bound_of
from benchmarks.serving.measuring import Effort, measure
from benchmarks.serving.rankers import FORMS
from benchmarks.serving.systems import KINDS, running
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
@click.option("--rankers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--seconds", type=float, default=20.0, show_default=True, help="Of a steady load.")
@click.option("--rising-seconds", type=float, default=5.0, show_default=True, help="At each rate.")
def main(
    as_json: bool,
    items: int,
    users: int,
    candidates: int,
    workdir: Path | None,
    forms: tuple[str, ...],
    kinds: tuple[str, ...],
    rankers: int,
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
    effort = Effort(rising_s=rising_seconds, steady_s=seconds)
    result: dict[str, Any] = {"items": items, "candidates": candidates, "rankers": rankers}
    try:
        with terminal.only_json(), _folder(workdir) as folder:
            prepare(folder, shape, terminal.err.print)
            for form in dict.fromkeys(forms):
                result[form] = _measure_form(
                    folder, shape, form, tuple(dict.fromkeys(kinds)), rankers, effort, terminal
                )
    except ShortlistError as error:
        raise click.ClickException(str(error)) from None
    terminal.out.print(_table(result, forms, kinds))
    terminal.emit(_finite(result))


def _measure_form(
    folder: Path,
    shape: WorldShape,
    form: str,
    kinds: tuple[str, ...],
    rankers: int,
    effort: Effort,
    terminal: Terminal,
) -> dict[str, Any]:
    """The bound before and after, as other things may run on the machine, and every system."""
    users = _users(shape)
    bounds = [_bound(folder, form, shape.candidates)]
    result: dict[str, Any] = {}
    for kind in kinds:
        terminal.err.rule(f"{form}, {kind}")
        result[kind] = asyncio.run(
            _measure_system(folder, kind, form, rankers, users, effort, terminal)
        )
        bounds.append(_bound(folder, form, shape.candidates))
    best = max(bounds, key=lambda bound: bound.rps)
    result |= {"bound_rps": best.rps, "bounds": [asdict(bound) for bound in bounds]}
    for kind in kinds:
        result[kind]["of_bound"] = result[kind]["saturation_rps"] / best.rps
        # One index, whoever holds it, and a search that is the same each time.
        if result[kind]["recall@1000"] is None:
            result[kind]["recall@1000"] = best.recall
    return result


async def _measure_system(
    folder: Path,
    kind: str,
    form: str,
    rankers: int,
    users: list[str],
    effort: Effort,
    terminal: Terminal,
) -> dict[str, Any]:
    async with running(folder, kind, form, rankers=rankers) as system:
        return await measure(system, folder, users, effort, terminal.err.print)


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


@contextlib.contextmanager
def _folder(workdir: Path | None) -> Iterator[Path]:
    if workdir is not None:
        yield workdir.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="shortlist-serving-") as folder:
        yield Path(folder)


def _table(result: dict[str, Any], forms: tuple[str, ...], kinds: tuple[str, ...]) -> Table:
    table = Table("", title=f"{result['items']:,} items, {result['candidates']} candidates")
    columns = [(form, kind) for form in dict.fromkeys(forms) for kind in dict.fromkeys(kinds)]
    for form, kind in columns:
        table.add_column(f"{form}, {kind}", justify="right")

    def row(name: str, *path: str, of: str = "{:.1f}") -> None:
        cells = []
        for form, kind in columns:
            value: Any = result[form][kind]
            for step in path:
                value = value[step]
            cells.append("" if value is None else of.format(value))
        table.add_row(name, *cells)

    row("saturation, req/s", "saturation_rps", of="{:.0f}")
    row("of the bound", "of_bound", of="{:.2f}")
    row("Recall@k under load", "recall@1000", of="{:.4f}")
    for share in ("at_50%", "at_80%"):
        for q in ("p50", "p95", "p99"):
            row(f"page {q} ms {share.replace('_', ' ')}", share, "page_ms", q)
    row("retrieval p99 ms at 50%", "p99_ms", "retrieval")
    row("ranking p99 ms at 50%", "p99_ms", "ranking")
    row("orchestrator CPU ms a page", "orchestrator_cpu_ms", of="{:.2f}")
    row("coverage", "at_50%", "coverage", of="{:.4f}")
    return table


if __name__ == "__main__":
    main()
