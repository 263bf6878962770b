"""The files of one slice of a retrieval artifact, each checked while it is read.

tower/                          the user tower, and the item tower (`item_*`)
<source>/                       what every shard needs of a source: see source_data.py
shard-00000/keys.npy            uint64 [n], ascending
shard-00000/vectors.npy         float32 [n, dim], unit length, the two-tower's; rows as the keys
shard-00000/items.parquet       key, id, title, f_<feature> ..., expires_ms where an item expires
shard-00000/<source>/           what a source knows of the slice's items: see source_data.py
shard-00000/<source>/index/     only where the search is not exact
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from retrieval_svc.brute_force import Floats
from retrieval_svc.index import check_vectors
from retrieval_svc.rows import Keys
from shortlist.artifacts import Artifact
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from shortlist.ids import shard_of

__all__ = [
    "Fusion",
    "RetrievalMeta",
    "load_keys",
    "load_vectors",
    "slice_bytes",
    "slice_folder",
]

_UNIT_TOLERANCE = 1e-3

Fusion = Annotated[list[Annotated[FiniteFloat, Field(ge=0)]], Field(min_length=2, max_length=2)]
"""[weight, offset] of a source in the blend: rank r (0 = best) gives weight / (offset + 1 + r)."""


class RetrievalMeta(BaseModel):
    """What the manifest of a retrieval artifact says of it; other keys are for people."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    dim: Annotated[int, Field(ge=1)]
    shards: Annotated[int, Field(ge=1)]
    items_total: Annotated[int, Field(ge=1)]  # over all shards; an empty catalogue is refused
    items_per_shard: list[Annotated[int, Field(ge=0)]]
    watermark_ms: int  # newest event that it was trained on
    log_sequence: Annotated[int, Field(ge=0)] = 0  # of the change log: all up to here is part of it
    item_features: dict[str, str]  # feature -> role, as the schema has them
    sources: list[str]
    absent: dict[str, str] = {}  # source that was wanted -> why the version has none
    fusion: dict[str, Fusion] = {}  # by source; one without an entry has the blend's defaults

    @staticmethod
    def of(artifact: Artifact) -> RetrievalMeta:
        """Raises `ArtifactRefused` naming the entry."""
        return RetrievalMeta.read(artifact.manifest.meta, artifact.path)

    @staticmethod
    def read(entries: Mapping[str, Any], folder: Path) -> RetrievalMeta:
        """From what is, or will be, the manifest's `meta` of `folder`. Raises `ArtifactRefused`."""
        manifest = folder / "manifest.json"
        try:
            meta = RetrievalMeta.model_validate(entries)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, ("meta", *first["loc"])))
            raise ArtifactRefused(f"{manifest}: {where}: {first['msg']}") from None
        if (
            len(meta.items_per_shard) != meta.shards
            or sum(meta.items_per_shard) != meta.items_total
        ):
            raise ArtifactRefused(
                f"{manifest}: meta.items_per_shard {meta.items_per_shard} does not make "
                f"{meta.items_total} items on {meta.shards} shards"
            )
        return meta


def slice_folder(artifact: Path, shard: int) -> Path:
    """Where the files of a shard are; the trainer writes them there."""
    return artifact / f"shard-{shard:05d}"


def slice_bytes(artifact: Artifact, shard: int) -> int:
    """The size of the files that a shard reads: its own, and those that are everybody's."""
    mine = slice_folder(Path(), shard).name
    return sum(
        entry.size
        for name, entry in artifact.manifest.files.items()
        if not name.startswith("shard-") or name.partition("/")[0] == mine
    )


def load_keys(path: Path, meta: RetrievalMeta, shard: int) -> Keys:
    """Raises `ArtifactCorrupt` unless they are ascending, and all and only of this shard."""
    keys = _load(path, np.dtype(np.uint64), (meta.items_per_shard[shard],))
    if not (keys[1:] > keys[:-1]).all():
        raise ArtifactCorrupt(f"{path}: keys are not ascending")
    if not (shard_of(keys, meta.shards) == shard).all():
        raise ArtifactCorrupt(f"{path}: holds keys of other shards than {shard} of {meta.shards}")
    return keys


def load_vectors(path: Path, shape: tuple[int, int]) -> Floats:
    """Raises `ArtifactRefused` unless they are finite and of unit length."""
    vectors = _load(path, np.dtype(np.float32), shape)
    check_vectors(vectors, str(path))
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    if (bad := np.flatnonzero(np.abs(lengths - 1) > _UNIT_TOLERANCE)).size:
        raise ArtifactRefused(f"{path}: row {bad[0]} has length {lengths[bad[0]]:.4f} instead of 1")
    return vectors


def _load(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactCorrupt(f"{path}: {error}") from None
    if array.dtype != dtype or array.shape != shape:
        raise ArtifactCorrupt(
            f"{path}: holds {array.dtype} {array.shape} instead of {dtype} {shape}"
        )
    return np.asarray(array)
