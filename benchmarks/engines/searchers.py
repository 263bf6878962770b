"""Search engines behind one protocol: built once, asked with more or less effort.

Each is set up as its makers' pages say for inner products of some hundred thousand vectors, and
searches on one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from retrieval_svc.index import BruteForceIndex, build_index, load_index

__all__ = ["SEARCHERS", "Effort", "SearchCase", "Searcher"]

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Effort = tuple[int, ...]

_CORES = os.cpu_count() or 1
_SHARES = np.geomspace(0.003, 1.0, 80)  # of lists
_BEAMS = np.geomspace(1.0, 16.0, 60)  # times k
_REFINED = (2, 4, 8)  # times k
_GRAPH_DEGREE, _BUILD_BEAM = 16, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchCase:
    """What an engine is built for."""

    vectors: Floats  # float32 [n, dim]
    queries: Floats  # float32 [q, dim], to tune with, where an engine does that by itself
    k: int
    recall_target: float
    folder: Path  # empty; of the engine alone


class Searcher(Protocol):
    """One engine over the vectors of a case."""

    @property
    def efforts(self) -> Sequence[Sequence[Effort]]:
        """Lines of settings, each from the least effort to the most."""
        ...

    def search(self, query: Floats, effort: Effort) -> Rows:
        """Rows of about the k best, best first."""
        ...

    def save(self, folder: Path) -> None:
        """Write what the engine needs, without the vectors where they are ours."""
        ...


class Scann:
    """Ours: what a shard builds, tunes for the target by itself, and asks; scores are exact."""

    efforts = ([()],)

    def __init__(self, case: SearchCase) -> None:
        self._k, self._home = case.k, case.folder / "index"
        build_index(
            case.vectors,
            self._home,
            exact_below=0,
            recall_target=case.recall_target,
            k=case.k,
            seed=0,
            queries=case.queries,
            threads=_CORES,
        )
        self._index = load_index(self._home, case.vectors)

    def search(self, query: Floats, effort: Effort) -> Rows:  # noqa: ARG002 - it knows its own
        return self._index.search(query, self._k)[0]

    def save(self, folder: Path) -> None:
        if self._home.exists():  # an exact index has no files
            self._home.rename(folder / "scann")


class Exact:
    """Ours: every vector is scored."""

    efforts = ([()],)

    def __init__(self, case: SearchCase) -> None:
        self._k, self._index = case.k, BruteForceIndex(case.vectors)

    def search(self, query: Floats, effort: Effort) -> Rows:  # noqa: ARG002 - there is one only
        return self._index.search(query, self._k)[0]

    def save(self, folder: Path) -> None:
        """It has nothing but the vectors."""


class FaissSq8:
    """Inverted lists of vectors in 8 bits a number."""

    def __init__(self, case: SearchCase) -> None:
        lists = _lists_for(len(case.vectors))
        self._k, self._faiss = case.k, _faiss()
        self._index = _trained_faiss(self._faiss, f"IVF{lists},SQ8", case.vectors)
        self.efforts = [[(n,) for n in _shares_of(lists)]]

    def search(self, query: Floats, effort: Effort) -> Rows:
        (self._index.nprobe,) = effort
        return self._index.search(query[None], self._k)[1][0]

    def save(self, folder: Path) -> None:
        self._faiss.write_index(self._index, str(folder / "faiss"))


class FaissFastScan:
    """Inverted lists of 4-bit product codes, scanned in registers; the best are scored again in 8
    bits a number."""

    def __init__(self, case: SearchCase) -> None:
        lists = _lists_for(len(case.vectors))
        recipe = f"IVF{lists},PQ{case.vectors.shape[1] // 2}x4fs,Refine(SQ8)"
        self._k, self._faiss = case.k, _faiss()
        self._index = _trained_faiss(self._faiss, recipe, case.vectors)
        self.efforts = [[(n, refined) for n in _shares_of(lists)] for refined in _REFINED]

    def search(self, query: Floats, effort: Effort) -> Rows:
        lists, refined = effort
        options = self._faiss.IndexRefineSearchParameters(
            k_factor=refined,
            base_index_params=self._faiss.SearchParametersIVF(nprobe=lists),
        )
        return self._index.search(query[None], self._k, params=options)[1][0]

    def save(self, folder: Path) -> None:
        self._faiss.write_index(self._index, str(folder / "faiss"))


class Hnswlib:
    """A navigable graph over float32 vectors."""

    def __init__(self, case: SearchCase) -> None:
        import hnswlib

        items, dim = case.vectors.shape
        self._k, self._index = case.k, hnswlib.Index(space="ip", dim=dim)
        self._index.init_index(items, M=_GRAPH_DEGREE, ef_construction=_BUILD_BEAM)
        self._index.add_items(case.vectors, num_threads=_CORES)
        self._index.set_num_threads(1)
        self.efforts = [_beams(case.k)]

    def search(self, query: Floats, effort: Effort) -> Rows:
        self._index.set_ef(*effort)
        return self._index.knn_query(query, self._k)[0][0].astype(np.int64)

    def save(self, folder: Path) -> None:
        self._index.save_index(str(folder / "hnswlib"))


class Usearch:
    """A navigable graph over bfloat16 vectors."""

    def __init__(self, case: SearchCase) -> None:
        from usearch.index import Index

        self._k, self._index = (
            case.k,
            Index(
                ndim=case.vectors.shape[1],
                metric="ip",
                dtype="bf16",
                connectivity=_GRAPH_DEGREE,
                expansion_add=_BUILD_BEAM,
            ),
        )
        self._index.add(np.arange(len(case.vectors)), case.vectors, threads=_CORES)
        self.efforts = [_beams(case.k)]

    def search(self, query: Floats, effort: Effort) -> Rows:
        (self._index.expansion_search,) = effort
        return self._index.search(query, self._k, threads=1).keys.astype(np.int64)

    def save(self, folder: Path) -> None:
        self._index.save(str(folder / "usearch"))


SEARCHERS: dict[str, Callable[[SearchCase], Searcher]] = {
    "ScaNN (ours)": Scann,
    "faiss IVF-SQ8": FaissSq8,
    "faiss IVF-PQ fast scan + refine": FaissFastScan,
    "hnswlib": Hnswlib,
    "usearch bf16": Usearch,
    "exact (ours)": Exact,
}


def _faiss() -> Any:
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss


def _trained_faiss(faiss: Any, recipe: str, vectors: Floats) -> Any:
    faiss.omp_set_num_threads(_CORES)
    index = faiss.index_factory(vectors.shape[1], recipe, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    faiss.omp_set_num_threads(1)
    return index


def _lists_for(items: int) -> int:
    """4 to 16 times the root, as faiss' guidelines to choose an index say."""
    return max(1, round(4 * items**0.5))


def _beams(k: int) -> list[Effort]:
    return [(round(times * k),) for times in _BEAMS.tolist()]


def _shares_of(lists: int) -> list[int]:
    return sorted({max(1, round(share * lists)) for share in _SHARES.tolist()})
