"""`python -m benchmarks.retrieval`: ScaNN, as a shard builds and asks it, against brute force.

One row a size, one thread, both engines asked the same questions in turn. The vectors lie in
clusters; users lie between three items, where the tuner never looked.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # numpy reads it when it is loaded

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from retrieval_svc.index import BruteForceIndex, Index, build_index, load_index
from retrieval_svc.rows import NO_ROWS, Allowed, Rows

__all__ = ["clustered_vectors", "main", "measure", "users_between"]

Floats = npt.NDArray[np.float32]

_CLUSTER = 200  # items
_SPREAD = 0.6  # length of an item's offset from the centre of its cluster, which has length 1
_EXCLUDED = 200  # best items of a query, excluded where that is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was measured at one size; times of a query in milliseconds."""

    items: int
    dim: int
    k: int
    kind: str
    leaves: int
    leaves_to_search: int
    reorder: int
    build_s: float  # with tuning
    load_s: float
    index_share: float  # bytes of the index on disk / bytes of the vectors
    recall: float
    p50_ms: float
    p99_ms: float
    excluding_p50_ms: float
    exact_p50_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure at each size."""

    dim: int
    k: int
    recall_target: float
    queries: int
    seed: int


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--items",
    "sizes",
    multiple=True,
    type=click.IntRange(1),
    default=(30_000, 200_000),
    show_default=True,
    help="Items of the slice; may be given several times.",
)
@click.option("--dim", type=click.IntRange(4), default=64, show_default=True)
@click.option("--k", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--recall-target", type=click.FloatRange(0, 1), default=0.97, show_default=True)
@click.option("--queries", type=click.IntRange(10), default=200, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
def main(sizes: tuple[int, ...], as_json: bool, **plan: Any) -> None:
    """Measure retrieval from one slice.

    \b
      python -m benchmarks.retrieval
      python -m benchmarks.retrieval --items 30000 --items 1000000 --dim 64 --json
    """
    rows = [measure(items, Plan(**plan)) for items in sizes]
    if as_json:
        click.echo(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 140).print(_table(rows))


def measure(items: int, plan: Plan) -> Row:
    """Build one index, load it again, and ask it and brute force in turn."""
    vectors = clustered_vectors(items, plan.dim, plan.seed)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "index"
        report = build_index(
            vectors,
            folder,
            exact_below=0,
            recall_target=plan.recall_target,
            k=plan.k,
            seed=plan.seed,
        )
        started = time.perf_counter()
        index = load_index(folder, vectors)
        load_s = time.perf_counter() - started
        index_bytes = sum(file.stat().st_size for file in folder.glob("*"))
    asked = _ask(
        index, BruteForceIndex(vectors), users_between(vectors, plan.queries, plan.seed), plan.k
    )
    return Row(
        items=items,
        dim=plan.dim,
        k=plan.k,
        kind=report.kind,
        leaves=report.leaves,
        leaves_to_search=report.leaves_to_search,
        reorder=report.reorder,
        build_s=report.build_s,
        load_s=load_s,
        index_share=index_bytes / vectors.nbytes,
        recall=float(np.mean(asked.recalls)),
        p50_ms=float(np.quantile(asked.index_ms, 0.5)),
        p99_ms=float(np.quantile(asked.index_ms, 0.99)),
        excluding_p50_ms=float(np.quantile(asked.excluding_ms, 0.5)),
        exact_p50_ms=float(np.quantile(asked.exact_ms, 0.5)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One entry a query."""

    recalls: list[float]
    index_ms: list[float]
    excluding_ms: list[float]
    exact_ms: list[float]


def _ask(index: Index, exact: Index, queries: Floats, k: int) -> _Asked:
    asked = _Asked(recalls=[], index_ms=[], excluding_ms=[], exact_ms=[])
    for query in queries:
        truth = _timed(asked.exact_ms, exact, query, k, NO_ROWS)
        found = _timed(asked.index_ms, index, query, k, NO_ROWS)
        asked.recalls.append(np.intersect1d(found, truth).size / len(truth))
        _timed(asked.excluding_ms, index, query, k, np.sort(truth[:_EXCLUDED]))
    return asked


def _timed(times_ms: list[float], index: Index, query: Floats, k: int, exclude: Rows) -> Rows:
    started = time.perf_counter()
    rows, _ = index.search(query, k, Allowed(exclude=exclude))
    times_ms.append((time.perf_counter() - started) * 1000)
    return rows


def clustered_vectors(items: int, dim: int, seed: int) -> Floats:
    """Unit vectors, float32 [items, dim], in clusters of some 200."""
    rng = np.random.default_rng(seed)
    centres = _unit(rng.normal(size=(max(1, items // _CLUSTER), dim)))
    offsets = rng.standard_normal((items, dim), np.float32) * (_SPREAD / np.sqrt(dim))
    return _unit(centres[rng.integers(len(centres), size=items)] + offsets)


def users_between(vectors: Floats, count: int, seed: int) -> Floats:
    """Unit vectors, float32 [count, dim], each between three items."""
    rng = np.random.default_rng(seed + 1)
    return _unit(vectors[rng.integers(len(vectors), size=(count, 3))].sum(axis=1))


def _unit(vectors: npt.NDArray[Any]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _table(rows: list[Row]) -> Table:
    table = Table(title="Retrieval from one slice, one thread")
    for name in ("items", "index", "leaves", "reorder", "build s", "load s", "index/vectors"):
        table.add_column(name, justify="right")
    for name in ("recall", "p50 ms", "p99 ms", f"p50 -{_EXCLUDED} ms", "exact p50 ms"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row.items:,} x {row.dim}",
            row.kind,
            f"{row.leaves_to_search} of {row.leaves}",
            str(row.reorder),
            f"{row.build_s:.1f}",
            f"{row.load_s:.2f}",
            f"{row.index_share:.2f}",
            f"{row.recall:.4f}",
            f"{row.p50_ms:.2f}",
            f"{row.p99_ms:.2f}",
            f"{row.excluding_p50_ms:.2f}",
            f"{row.exact_p50_ms:.2f}",
        )
    return table


if __name__ == "__main__":
    main()
