"""ScaNN's tree-AH index behind the `Index` protocol.

Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020.
"""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from retrieval_svc.brute_force import BruteForceIndex, Floats, Hits, check_query
from retrieval_svc.rows import EVERY_ROW, NO_ROWS, Allowed, Rows
from shortlist.errors import ArtifactCorrupt, ArtifactRefused, ShortlistError

__all__ = [
    "ScannIndex",
    "ScannSettings",
    "ScannUnavailable",
    "leaves_for",
    "nearest",
    "train_searcher",
]

_SETTINGS = "index.json"
_ASSETS = "scann_assets.pbtxt"
_DOCIDS = "scann_docids.pkl"
_FORMAT = 1

_ANISOTROPIC_THRESHOLD = 0.2
_DIMENSIONS_PER_BLOCK = 2
_TRAINING_SAMPLE = 100_000
# bfloat16 keeps 8 bits: a dot product is off by less than this part of both lengths.
_BFLOAT16_ERROR = 0.02
_ALIGNMENT_HITS = 100
# Over-fetching, where a mask lets only some through: with so much more than their share suggests,
# no query of benchmarks/filters.py got too few of a mask that has nothing to do with it.
_MARGIN = 1.3
# A row that ScaNN has to find costs as much as five that are scored: 0.3 us against 0.06 us at
# 200 k x 64. So with a fifth of the items allowed, or fewer, 1000 are found faster exactly.
_MOST_FETCHED = 0.2


class ScannUnavailable(ShortlistError):
    """The index needs ScaNN and it is not installed: `pip install shortlist[retrieval]`."""

    status_name = "FAILED_PRECONDITION"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScannSettings:
    """What `index.json` holds: the shape of the index and how to search it."""

    items: int
    dim: int
    leaves: int
    k: int  # the number of hits that the next two are tuned for
    leaves_to_search: int
    reorder: int  # rows scored again in bfloat16
    recall: float  # measured at k, on queries that took no part in tuning; 0 = not measured

    @staticmethod
    def load(folder: Path) -> ScannSettings:
        """Of the index that `ScannIndex.save` wrote. Raises `ArtifactCorrupt`."""
        return _read_settings(folder / _SETTINGS)

    def of_size(self, items: int) -> ScannSettings:
        """For another number of items, which are searched as hard: the same share of the leaves."""
        leaves = leaves_for(items)
        share = self.leaves_to_search / self.leaves
        return replace(
            self,
            items=items,
            leaves=leaves,
            leaves_to_search=math.ceil(share * leaves),
            reorder=min(items, self.reorder),
            recall=0.0,
        )

    def effort(self, fetch: int) -> tuple[int, int]:
        """`(reorder, leaves_to_search)` for `fetch` hits; more hits need more of both."""
        more = max(1.0, fetch / self.k)
        reorder = min(self.items, math.ceil(self.reorder * more))
        return reorder, min(self.leaves, math.ceil(self.leaves_to_search * more))


class ScannIndex:
    """Approximate search; the scores of the hits, and so their order, are exact."""

    kind = "scann"

    def __init__(self, searcher: Any, vectors: Floats, settings: ScannSettings) -> None:
        self.settings = settings
        self._searcher = searcher
        self._vectors = vectors  # float32 [n, dim]
        self.exact = BruteForceIndex(vectors)

    @classmethod
    def load(cls, folder: Path, vectors: Floats) -> ScannIndex:
        """Open what `save` wrote, wherever the folder is now.

        Raises:
            ArtifactCorrupt: a file is missing or damaged, or belongs to other vectors.
            ArtifactRefused: a pickle, or a path that leaves the folder.
            ScannUnavailable: the package is missing.
        """
        settings = _read_settings(folder / _SETTINGS)
        if (settings.items, settings.dim) != vectors.shape:
            raise ArtifactCorrupt(
                f"{folder / _SETTINGS}: made of {settings.items} x {settings.dim} vectors, "
                f"not of {vectors.shape[0]} x {vectors.shape[1]}"
            )
        searcher = _open_searcher(folder)
        _check_alignment(searcher, vectors, settings, folder)
        return cls(searcher, vectors, settings)

    def save(self, folder: Path) -> None:
        """Write index and settings into `folder`, without document ids: ScaNN pickles them."""
        folder.mkdir(parents=True, exist_ok=True)
        self._searcher.serialize(str(folder.resolve()), True)  # True = relative paths
        document = {"format": _FORMAT, **asdict(self.settings)}
        (folder / _SETTINGS).write_text(json.dumps(document, indent=2) + "\n", "utf-8")

    def search(self, query: Floats, k: int, allowed: Allowed = EVERY_ROW) -> Hits:
        check_query(query, self.settings.dim)
        items = self.settings.items
        count = allowed.count(items)
        wanted = min(k, count)
        if wanted <= 0:
            return NO_ROWS, np.empty(0, np.float32)
        fetch = _fetch(wanted, items, allowed)
        if fetch > _MOST_FETCHED * count:  # to score all that are allowed is faster
            return self.exact.search(query, k, allowed)
        rows = nearest(self._searcher, self.settings, query, fetch)
        rows = rows[allowed.keep(rows)]
        if len(rows) < wanted:  # the leaves searched, or the neighbourhood, hold too few
            return self.exact.search(query, k, allowed)
        return self._rescore(query, rows[:wanted])

    def _rescore(self, query: Floats, rows: Rows) -> Hits:
        """Exact scores, because shards merge by score and other shards may be exact: 40 us."""
        scores = self._vectors.take(rows, axis=0) @ query
        # Stable sorting is fast on what is nearly sorted.
        order = np.argsort(-scores, kind="stable")
        return rows[order], scores[order]


def _fetch(wanted: int, items: int, allowed: Allowed) -> int:
    """How many rows to look at so that `wanted` of them are likely allowed.

    What a query excludes may be just what is nearest to it; what passes a mask is nearest as often
    as not, but for chance and taste, which is what the margin is for.
    """
    if allowed.mask is None:
        return min(items, wanted + len(allowed.exclude))
    share = max(allowed.mask.count, 1) / items
    expected = (wanted + len(allowed.exclude)) / share
    return min(items, math.ceil(_MARGIN * expected))


def nearest(searcher: Any, settings: ScannSettings, query: Floats, fetch: int) -> Rows:
    """About the nearest `fetch` rows in the order of bfloat16 scores; perhaps fewer.

    `searcher` is ScaNN's own: its Python wrapper maps document ids in a loop, 0.4 ms at k = 1000.
    """
    reorder, leaves = settings.effort(fetch)
    rows, _ = searcher.search(query, fetch, reorder, leaves)
    return rows.astype(np.int64)


def leaves_for(items: int) -> int:
    """2000 leaves at a million rows (recall .985 in 1.3 ms), growing with the root."""
    return max(1, round(2 * math.sqrt(items)))


def train_searcher(vectors: Floats, k: int, threads: int) -> Any:
    """Partition `vectors` and quantise them, on one machine, with `threads` threads."""
    scann = _scann()
    leaves = leaves_for(len(vectors))
    # The threshold is a length. Factors of rare items are short: 0.2 would be all of most of them.
    typical = float(np.median(np.linalg.norm(vectors, axis=1)))
    return (
        scann.builder(vectors, k, "dot_product")
        .set_n_training_threads(threads)
        .tree(leaves, leaves, training_sample_size=_TRAINING_SAMPLE, quantize_centroids=True)
        .score_ah(
            _DIMENSIONS_PER_BLOCK,
            anisotropic_quantization_threshold=_ANISOTROPIC_THRESHOLD * typical,
            training_sample_size=_TRAINING_SAMPLE,
        )
        .reorder(k, scann.scann_builder.ReorderType.BFLOAT16)
        .build()
        .searcher
    )


def _read_settings(path: Path) -> ScannSettings:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"{path}: {error}") from None
    if not isinstance(document, dict) or document.pop("format", None) != _FORMAT:
        raise ArtifactCorrupt(f"{path}: not an index of format {_FORMAT}")
    try:
        return ScannSettings(**document)
    except TypeError as error:
        raise ArtifactCorrupt(f"{path}: {error}") from None


def _open_searcher(folder: Path) -> Any:
    """Not `scann.load_searcher`: that one unpickles document ids when it finds them."""
    if (folder / _DOCIDS).exists():
        raise ArtifactRefused(f"{folder / _DOCIDS}: pickles are never loaded")
    try:
        assets = (folder / _ASSETS).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactCorrupt(f"{folder / _ASSETS}: {error}") from None
    for name in re.findall(r'asset_path:\s*"([^"]*)"', assets):
        if Path(name).name != name or not (folder / name).is_file():
            raise ArtifactRefused(f"{folder / _ASSETS}: {name!r} is not a file of its folder")
    try:
        return _scann().scann_pybind.ScannNumpy(str(folder.resolve()), assets)
    except (RuntimeError, ValueError) as error:
        raise ArtifactCorrupt(f"{folder}: ScaNN cannot load it: {error}") from None


def _check_alignment(searcher: Any, vectors: Floats, settings: ScannSettings, folder: Path) -> None:
    """Rescoring would hide an index of other vectors of the same shape: compare some scores."""
    query = vectors[0]
    rows, scores = searcher.search(query, _ALIGNMENT_HITS, *settings.effort(_ALIGNMENT_HITS))
    found = vectors[rows]
    slack = _BFLOAT16_ERROR * np.linalg.norm(query) * np.linalg.norm(found, axis=1)
    if (np.abs(found @ query - scores) > slack).any():
        raise ArtifactCorrupt(f"{folder}: the index was made of other vectors than these")


def _scann() -> ModuleType:
    """ScaNN's numpy interface, imported here and nowhere else, without TensorFlow.

    `import scann` also imports TensorFlow where that is installed, for operators that we do not
    use: 6 s and 0.5 GB instead of 0.2 s. A None in `sys.modules` makes that import fail, which
    ScaNN takes for "not installed". A TensorFlow that is loaded already is left alone.
    """
    hide = "tensorflow" not in sys.modules
    if hide:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as error:
        raise ScannUnavailable(
            f"this index needs ScaNN: pip install shortlist[retrieval] ({error})"
        ) from None
    finally:
        if hide:
            del sys.modules["tensorflow"]
    return scann_ops_pybind
