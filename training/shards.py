"""The files of a retrieval artifact: written slice by slice, source by source, and read back.

What a file means is said in `retrieval_svc.slice_files` and `retrieval_svc.source_data`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_svc.index import build_source_index
from retrieval_svc.rows import Rows
from retrieval_svc.slice_files import RetrievalMeta, slice_folder
from retrieval_svc.source_data import SharedData, SourceData
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.config import Config, RetrievalConfig
from shortlist.ids import shard_of, shard_quota
from shortlist.starting import resliced
from training.sources.base import TrainedSource

__all__ = ["Slices", "Writer", "read_slices", "read_source", "reshard", "sources_of"]

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]

TOWER_SOURCE = "two_tower"


@dataclass(frozen=True, kw_only=True)
class Slices:
    """The items of all slices of an artifact, by ascending key."""

    keys: Keys
    vectors: Floats  # of the two-tower, unit length
    items: pa.Table
    places: tuple[Rows, ...]  # a slice each: where its rows are among these


class Writer:
    """Writes the slices of an artifact into a folder that is being staged.

    Slices and sources may be written in any order, by several processes at once.
    """

    def __init__(self, folder: Path, keys: Keys, config: RetrievalConfig, shards: int) -> None:
        self._folder, self._config = folder, config
        self._items = len(keys)
        owner = shard_of(keys, shards)
        self._rows = [np.flatnonzero(owner == shard) for shard in range(shards)]

    @property
    def items_per_shard(self) -> list[int]:
        return [len(rows) for rows in self._rows]

    def make_folders(self) -> None:
        """To be called once, before anything is written."""
        for shard in range(len(self._rows)):
            slice_folder(self._folder, shard).mkdir()

    def write_items(self, keys: Keys, vectors: Floats, items: pa.Table, shard: int) -> None:
        """What a slice has besides its sources; the arguments are of all items."""
        folder, mine = slice_folder(self._folder, shard), self._rows[shard]
        np.save(folder / "keys.npy", keys[mine])
        np.save(folder / "vectors.npy", vectors[mine])
        pq.write_table(items.take(mine), folder / "items.parquet", compression="zstd")

    def write_shared(self, name: str, shared: SharedData) -> None:
        """What every shard needs of a source."""
        (self._folder / name).mkdir()
        shared.save(self._folder / name)

    def write_source(self, name: str, data: SourceData, shard: int) -> None:
        """A source's part in one slice; `data` is of all items."""
        folder = slice_folder(self._folder, shard) / name
        folder.mkdir()
        data.take(self._rows[shard], self._items).save(folder)

    def write_index(
        self, name: str, vectors: Floats, shard: int, *, queries: Floats | None, seed: int
    ) -> dict[str, Any]:
        """Index a source's vectors of all items for one slice; what came of it."""
        report = build_source_index(
            np.ascontiguousarray(vectors[self._rows[shard]]),
            slice_folder(self._folder, shard) / name / "index",
            exact_below=self._config.exact_below,
            recall_target=self._config.recall_target,
            k=shard_quota(self._config.candidates, len(self._rows)),
            seed=seed,
            queries=queries,
        )
        return asdict(report)

    def write_trained(self, trained: TrainedSource, seed: int) -> list[dict[str, Any]]:
        """All of a source; the reports of its indices."""
        self.write_shared(trained.name, trained.shared)
        reports = []
        for shard in range(len(self._rows)):
            self.write_source(trained.name, trained.data, shard)
            if trained.index_column is not None:
                vectors = trained.data.columns[trained.index_column]
                reports.append(
                    self.write_index(trained.name, vectors, shard, queries=None, seed=seed)
                )
        return reports


def sources_of(artifact: Artifact) -> tuple[str, ...]:
    """The sources that a retrieval artifact has, in the order in which we list them."""
    return tuple(RetrievalMeta.of(artifact).sources)


def read_slices(artifact: Artifact) -> Slices:
    """All slices of an artifact as one."""
    folders = _folders(artifact)
    keys = [np.load(folder / "keys.npy", allow_pickle=False) for folder in folders]
    vectors = [np.load(folder / "vectors.npy", allow_pickle=False) for folder in folders]
    items = pa.concat_tables([pq.read_table(folder / "items.parquet") for folder in folders])
    together = np.concatenate(keys)
    order = np.argsort(together)
    return Slices(
        keys=together[order],
        vectors=np.concatenate(vectors)[order],
        items=items.take(order),
        places=tuple(np.searchsorted(together[order], own) for own in keys),
    )


def read_source(artifact: Artifact, name: str, places: Sequence[Rows]) -> SourceData:
    """What a source knows of all items; `places` as in `Slices`."""
    parts = [
        SourceData.load(folder / name, len(rows))
        for folder, rows in zip(_folders(artifact), places, strict=True)
    ]
    return SourceData.join(parts, places)


def reshard(workdir: Path, shards: int, *, version: str | None = None) -> str:
    """The version with its items divided over another number of shards; published, not promoted.

    Every source knows the same of every item, so it proposes what its parent does. Made once; later
    calls find it. Raises `InvalidField` or what opening the parent raises.
    """
    store = ArtifactStore(workdir / "artifacts")
    parent = store.open("retrieval", version)
    meta = RetrievalMeta.of(parent)
    if meta.shards == shards:
        return parent.version
    name = resliced(parent.version, shards)
    if name in store.versions("retrieval"):
        return name
    config = Config.load(workdir / "shortlist.yaml").retrieval
    whole = read_slices(parent)
    with store.stage("retrieval") as staged:
        writer = Writer(staged.path, whole.keys, config, shards)
        writer.make_folders()
        shutil.copytree(parent.path / "tower", staged.path / "tower")
        for shard in range(shards):
            writer.write_items(whole.keys, whole.vectors, whole.items, shard)
        entries: dict[str, Any] = dict(parent.manifest.meta)
        for source in meta.sources:
            _divide(writer, parent, whole, source, entries["indexed"].get(source), shards)
        entries |= {"shards": shards, "items_per_shard": writer.items_per_shard}
        parents = parent.manifest.parents | {"retrieval": parent.version}
        staged.publish(version=name, meta=entries, parents=parents)
    return name


def _divide(
    writer: Writer, parent: Artifact, whole: Slices, source: str, column: str | None, shards: int
) -> None:
    """Write one source of `parent` anew; `column` is the one that has an index."""
    data = read_source(parent, source, whole.places)
    writer.write_shared(source, SharedData.load(parent.path / source))
    for shard in range(shards):
        writer.write_source(source, data, shard)
        if column is not None:
            vectors = whole.vectors if source == TOWER_SOURCE else data.columns[column]
            writer.write_index(source, vectors, shard, queries=None, seed=0)


def _folders(artifact: Artifact) -> list[Path]:
    return [
        slice_folder(artifact.path, shard) for shard in range(RetrievalMeta.of(artifact).shards)
    ]
