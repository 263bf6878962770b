"""What this machine could do at most: nothing but the search and the model's matrix products.

bound_rps = cores / (CPU of a search + FLOPs of the model / sgemm rate of a core)
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.serving.rankers import flops, load_weights
from benchmarks.serving.sgemm import best_sgemm_gflops
from benchmarks.serving.world import Probes, retrieval_version
from retrieval_svc.index import Index, load_index
from retrieval_svc.rows import Allowed, Keys, rows_of
from retrieval_svc.slice_files import slice_folder
from shortlist.artifacts import ArtifactStore

__all__ = ["Bound", "bound_of", "open_index", "search_cost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Of one ranker's form."""

    rps: float
    cores: int
    search_cpu_ms: float
    recall: float  # of the searches that were timed
    model_mflop: float
    gflops: float  # of one core, in the library that multiplies fastest


def open_index(workdir: Path, shards: int = 1) -> tuple[Keys, Index]:
    """The index of the first of so many shards, of all items by default; the keys of its rows."""
    version = retrieval_version(shards)
    folder = slice_folder(ArtifactStore(workdir / "artifacts").open("retrieval", version).path, 0)
    keys = np.load(folder / "keys.npy", allow_pickle=False)
    vectors = np.load(folder / "vectors.npy", allow_pickle=False)
    return keys, load_index(folder / "two_tower" / "index", vectors)


def search_cost(workdir: Path, shards: int = 1) -> tuple[float, float]:
    """CPU milliseconds of a search of one of so many shards, and the share of all items' exact
    neighbours that it finds."""
    keys, index = open_index(workdir, shards)
    probes = Probes.load(workdir / "probes.npz")
    found, seconds = [], []
    for vector, seen, exact in zip(probes.vectors, probes.seen, probes.exact, strict=True):
        rows, known = rows_of(keys, seen[seen != 0])
        allowed = Allowed(exclude=np.sort(rows[known]))
        started = time.thread_time()
        hits, _ = index.search(vector, exact.size, allowed)
        seconds.append(time.thread_time() - started)
        found.append(np.isin(keys[hits], exact, assume_unique=True).mean())
    return 1000 * float(np.median(seconds)), float(np.mean(found))


def bound_of(workdir: Path, form: str, candidates: int) -> Bound:
    """For one process that nothing else disturbs."""
    artifact = ArtifactStore(workdir / "artifacts").open("ranking", form)
    search_ms, recall = search_cost(workdir)
    work = flops(load_weights(artifact.path), candidates)
    gflops, cores = best_sgemm_gflops(), os.cpu_count() or 1
    return Bound(
        rps=cores / (search_ms / 1000 + work / gflops / 1e9),
        cores=cores,
        search_cpu_ms=search_ms,
        recall=recall,
        model_mflop=work / 1e6,
        gflops=gflops,
    )
