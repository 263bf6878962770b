"""Every search engine swept to one recall on the same vectors and queries, then timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from benchmarks.engines.searchers import SEARCHERS, Effort, SearchCase, Searcher
from benchmarks.retrieval import clustered_vectors, users_between
from benchmarks.serving.sgemm import sgemm_gflops

__all__ = ["SearchPlan", "SearchRow", "compare_searchers"]

Floats = npt.NDArray[np.float32]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """What to compare."""

    items: int
    dim: int
    k: int
    recall_target: float
    queries: int  # that are timed; as many others choose the effort
    rounds: int
    seed: int
    engines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRow:
    """One engine. Times of a search on one thread, in milliseconds, medians over the rounds."""

    engine: str
    skipped: str = ""  # why there are no figures
    effort: Effort = ()
    recall: float = 0.0  # of queries that did not choose the effort
    reached: bool = False  # whether any effort reached the target on those that did
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_ms: float = 0.0  # mean
    spread_ms: tuple[float, float] = (0.0, 0.0)  # of the rounds' p50
    build_s: float = 0.0
    index_mb: float = 0.0  # on disk, without our vectors
    gflops: float = 0.0  # of one core, just before its rounds


@dataclass(slots=True)
class _Entry:
    """An engine that takes part, and what was seen of it."""

    engine: str
    searcher: Searcher
    build_s: float
    effort: Effort
    reached: bool
    index_mb: float
    recalls: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    gflops: list[float] = field(default_factory=list)


def compare_searchers(plan: SearchPlan, tell: Tell) -> list[SearchRow]:
    """A row an engine, in the order of `plan.engines`."""
    vectors = clustered_vectors(plan.items, plan.dim, plan.seed)
    queries = users_between(vectors, 2 * plan.queries, plan.seed)
    lessons, exam = queries[: plan.queries], queries[plan.queries :]
    truth = [_truth(vectors, part, plan.k) for part in (lessons, exam)]
    rows: dict[str, SearchRow] = {}
    entries: list[_Entry] = []
    with TemporaryDirectory() as folder:
        for engine in plan.engines:
            tell(f"building {engine}")
            try:
                entries.append(_enter(engine, vectors, lessons, truth[0], plan, Path(folder)))
            except ImportError as error:
                rows[engine] = SearchRow(engine=engine, skipped=f"not installed: {error.name}")
        for number in range(plan.rounds):
            for entry in entries:
                tell(f"round {number + 1}, {entry.engine}")
                _time(entry, exam, truth[1])
    for entry in entries:
        rows[entry.engine] = _row(entry)
    return [rows[engine] for engine in plan.engines]


def _enter(
    engine: str,
    vectors: Floats,
    lessons: Floats,
    truth: Sequence[npt.NDArray[np.int64]],
    plan: SearchPlan,
    folder: Path,
) -> _Entry:
    home, saved = folder / engine.replace("/", " "), folder / f"{engine} saved"
    home.mkdir()
    saved.mkdir()
    started = time.perf_counter()
    searcher = SEARCHERS[engine](
        SearchCase(
            vectors=vectors,
            queries=lessons,
            k=plan.k,
            recall_target=plan.recall_target,
            folder=home,
        )
    )
    build_s = time.perf_counter() - started
    effort, reached = _least_effort(searcher, lessons, truth, plan)
    searcher.save(saved)
    size = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file())
    return _Entry(engine, searcher, build_s, effort, reached, size / 1e6)


def _least_effort(
    searcher: Searcher,
    queries: Floats,
    truth: Sequence[npt.NDArray[np.int64]],
    plan: SearchPlan,
) -> tuple[Effort, bool]:
    """The fastest setting that reaches the target, and whether there is one; else the strongest."""

    def recall(effort: Effort) -> float:
        found = [searcher.search(query, effort) for query in queries]
        return _recall(found, truth)

    passing: list[Effort] = []
    lines = searcher.efforts
    for line in lines:
        low, high = 0, len(line)  # of the first that passes; recall grows along a line
        while low < high:
            middle = (low + high) // 2
            if recall(line[middle]) >= plan.recall_target:
                high = middle
            else:
                low = middle + 1
        if low < len(line):
            passing.append(line[low])
    if not passing:
        return lines[-1][-1], False
    return min(passing, key=lambda effort: _seconds(searcher, queries, effort)), True


def _seconds(searcher: Searcher, queries: Floats, effort: Effort) -> float:
    started = time.perf_counter()
    for query in queries:
        searcher.search(query, effort)
    return time.perf_counter() - started


def _time(entry: _Entry, queries: Floats, truth: Sequence[npt.NDArray[np.int64]]) -> None:
    entry.gflops.append(sgemm_gflops())
    took, found = [], []
    cpu = time.process_time()
    for query in queries:
        started = time.perf_counter()
        found.append(entry.searcher.search(query, entry.effort))
        took.append(1000 * (time.perf_counter() - started))
    entry.cpu_ms.append(1000 * (time.process_time() - cpu) / len(queries))
    entry.p50_ms.append(float(np.quantile(took, 0.5)))
    entry.p99_ms.append(float(np.quantile(took, 0.99)))
    entry.recalls.append(_recall(found, truth))


def _row(entry: _Entry) -> SearchRow:
    return SearchRow(
        engine=entry.engine,
        effort=entry.effort,
        recall=float(np.mean(entry.recalls)),
        reached=entry.reached,
        p50_ms=float(np.median(entry.p50_ms)),
        p99_ms=float(np.median(entry.p99_ms)),
        cpu_ms=float(np.median(entry.cpu_ms)),
        spread_ms=(min(entry.p50_ms), max(entry.p50_ms)),
        build_s=entry.build_s,
        index_mb=entry.index_mb,
        gflops=float(np.median(entry.gflops)),
    )


def _truth(vectors: Floats, queries: Floats, k: int) -> list[npt.NDArray[np.int64]]:
    return [np.argpartition(-(vectors @ query), k)[:k] for query in queries]


def _recall(
    found: Sequence[npt.NDArray[np.int64]], truth: Sequence[npt.NDArray[np.int64]]
) -> float:
    pairs = zip(found, truth, strict=True)
    return float(np.mean([np.intersect1d(mine, true).size / true.size for mine, true in pairs]))
