"""`python -m benchmarks.filters`: what a filter costs a shard, and what it costs in recall.

One row a share of the items that match. Half of the rows are masks that have nothing to do with
what users want; the others match by cluster, so that some users have all of their neighbourhood and
others none of it. The same questions go to the index as a shard asks it, and to brute force.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")  # numpy reads it when it is loaded

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from retrieval_svc.index import BruteForceIndex, Index, build_index, load_index
from retrieval_svc.item_filter import FilterColumn, ItemFilter
from retrieval_svc.rows import Allowed, RowMask
from retrieval_svc.sources.chart import Chart

Floats = npt.NDArray[np.float32]
T = TypeVar("T")

_SHARES = (1.0, 0.5, 0.2, 0.1, 0.01, 0.001)
_SEEN = 200  # best items of a query, excluded beside the filter
_CLUSTER = 200  # items
_SPREAD = 0.6  # length of an item's offset from the centre of its cluster, which has length 1
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRow:
    """What was measured at one share; medians of a query, in milliseconds."""

    share: float  # of the items that match
    by_cluster: bool
    matching: int
    index_ms: float
    exact_ms: float
    recall: float  # of the index against brute force
    least_recall: float  # of any query
    found: float  # hits of a query, as a part of those that it should have: below 1 is too few
    chart_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRow:
    """What it costs to find out who matches, in milliseconds."""

    filter: str
    matching: int
    first_ms: float
    again_ms: float  # the mask is remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    items: int
    dim: int
    k: int
    recall_target: float
    queries: int
    seed: int


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--items", type=click.IntRange(2000), default=200_000, show_default=True)
@click.option("--dim", type=click.IntRange(4), default=64, show_default=True)
@click.option("--k", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--recall-target", type=click.FloatRange(0, 1), default=0.97, show_default=True)
@click.option("--queries", type=click.IntRange(4), default=60, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no tables.")
def main(as_json: bool, **plan: Any) -> None:
    """Measure filters in one slice.

    \b
      python -m benchmarks.filters
      python -m benchmarks.filters --items 1000000 --json
    """
    searches, masks = measure_searches(Plan(**plan)), measure_masks(Plan(**plan))
    if as_json:
        rows = {"searches": list(map(asdict, searches)), "masks": list(map(asdict, masks))}
        click.echo(json.dumps(rows, indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_search_table(searches, plan["k"]))
    console.print(_mask_table(masks))


def measure_searches(plan: Plan) -> list[SearchRow]:
    """Each share of the items, by chance and by cluster, asked of one index."""
    rng = np.random.default_rng(plan.seed)
    clusters = rng.integers(max(1, plan.items // _CLUSTER), size=plan.items)
    vectors = _vectors(clusters, plan.dim, rng)
    users = _unit(vectors[rng.integers(plan.items, size=(plan.queries, 3))].sum(axis=1))
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "index"
        build_index(
            vectors,
            folder,
            exact_below=0,
            recall_target=plan.recall_target,
            k=plan.k,
            seed=plan.seed,
        )
        index = load_index(folder, vectors)
        return [
            _search(index, BruteForceIndex(vectors), users, mask, share, by_cluster, plan.k)
            for by_cluster in (False, True)
            for share in _SHARES
            if (mask := _mask(clusters, share, by_cluster, rng)).count
        ]


def _mask(
    clusters: npt.NDArray[np.int64], share: float, by_cluster: bool, rng: np.random.Generator
) -> RowMask:
    if not by_cluster:
        return RowMask(rng.random(len(clusters)) < share)
    passes = rng.random(int(clusters.max()) + 1) < share
    return RowMask(passes[clusters])


def _search(
    index: Index,
    exact: Index,
    users: Floats,
    mask: RowMask,
    share: float,
    by_cluster: bool,
    k: int,
) -> SearchRow:
    index_ms: list[float] = []
    exact_ms: list[float] = []
    chart_ms: list[float] = []
    recalls, found = [], []
    chart = Chart(np.random.default_rng(0).random(len(mask), np.float32))
    for user in users:
        seen, _ = exact.search(user, _SEEN)
        allowed = Allowed(exclude=np.sort(seen), mask=mask)
        truth, _ = _timed(exact_ms, partial(exact.search, user, k, allowed))
        rows, _ = _timed(index_ms, partial(index.search, user, k, allowed))
        _timed(chart_ms, partial(chart.best, k, allowed))
        recalls.append(np.isin(truth, rows).mean() if len(truth) else 1.0)
        found.append(len(rows) / len(truth) if len(truth) else 1.0)
    return SearchRow(
        share=share,
        by_cluster=by_cluster,
        matching=mask.count,
        index_ms=float(np.median(index_ms)),
        exact_ms=float(np.median(exact_ms)),
        recall=float(np.mean(recalls)),
        least_recall=float(np.min(recalls)),
        found=float(np.min(found)),
        chart_ms=float(np.median(chart_ms)),
    )


def measure_masks(plan: Plan) -> list[MaskRow]:
    """Some filters over columns as an import writes them."""
    rng = np.random.default_rng(plan.seed)
    n = plan.items
    names = pa.array([f"category {number}" for number in range(50)])
    tags = names.take(pa.array(rng.integers(50, size=3 * n)))
    columns = {
        "category": FilterColumn(names.take(pa.array(rng.integers(50, size=n))), "text"),
        "tags": FilterColumn(pa.ListArray.from_arrays(np.arange(0, 3 * n + 1, 3), tags), "text"),
        "price": FilterColumn(pa.array(rng.random(n, np.float32) * 100), "number"),
        "published_at": FilterColumn(pa.array(rng.integers(365, size=n) * _DAY_MS), "time"),
    }
    filters = (
        f"published_at > time({300 * _DAY_MS})",
        "price <= 20",
        'category IN ("category 1", "category 2")',
        'NOT tags IN ("category 1", "category 2")',
        f'category = "category 1" AND price < 50 AND published_at > time({200 * _DAY_MS})',
    )
    return [_mask_row(columns, filter) for filter in filters]


def _mask_row(columns: dict[str, FilterColumn], filter: str) -> MaskRow:
    first_ms: list[float] = []
    again_ms: list[float] = []
    for _ in range(5):
        items = ItemFilter(columns, repeating=("category", "tags"))
        mask = _timed(first_ms, partial(items.matching, filter))
        _timed(again_ms, partial(items.matching, filter))
    assert mask is not None
    return MaskRow(
        filter=filter,
        matching=mask.count,
        first_ms=float(np.median(first_ms)),
        again_ms=float(np.median(again_ms)),
    )


def _timed(times_ms: list[float], work: Callable[[], T]) -> T:
    started = time.perf_counter()
    answer = work()
    times_ms.append((time.perf_counter() - started) * 1000)
    return answer


def _vectors(clusters: npt.NDArray[np.int64], dim: int, rng: np.random.Generator) -> Floats:
    centres = _unit(rng.normal(size=(int(clusters.max()) + 1, dim)))
    offsets = rng.standard_normal((len(clusters), dim), np.float32) * (_SPREAD / np.sqrt(dim))
    return _unit(centres[clusters] + offsets)


def _unit(vectors: npt.NDArray[Any]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _search_table(rows: list[SearchRow], k: int) -> Table:
    table = Table(title=f"The best {k} of what matches, {_SEEN} of the best excluded, one thread")
    for name in ("match", "by", "items", "index ms", "exact ms", "recall", "worst", "found"):
        table.add_column(name, justify="right")
    table.add_column("chart ms", justify="right")
    for row in rows:
        table.add_row(
            f"{row.share:.1%}",
            "cluster" if row.by_cluster else "chance",
            f"{row.matching:,}",
            f"{row.index_ms:.2f}",
            f"{row.exact_ms:.2f}",
            f"{row.recall:.4f}",
            f"{row.least_recall:.3f}",
            f"{row.found:.3f}",
            f"{row.chart_ms:.3f}",
        )
    return table


def _mask_table(rows: list[MaskRow]) -> Table:
    table = Table(title="Who matches")
    for name in ("filter", "items", "first ms", "again ms"):
        table.add_column(name, justify="left" if name == "filter" else "right")
    for row in rows:
        table.add_row(row.filter, f"{row.matching:,}", f"{row.first_ms:.2f}", f"{row.again_ms:.4f}")
    return table


if __name__ == "__main__":
    main()
