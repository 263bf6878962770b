"""A new base of everything that counts now: changes become part of what is searched fast.

The artifact on disk stays as it is, and the log is durable: the new base lives in memory, and a
process that starts again catches up from the artifact.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from retrieval_svc.brute_force import Floats
from retrieval_svc.delta import LiveSnapshot
from retrieval_svc.scann_index import ScannSettings
from retrieval_svc.segment import Segment, SliceData
from retrieval_svc.snapshot import Expiries, Part, Snapshot, Standing, Times
from retrieval_svc.source_data import SourceData
from shortlist.errors import ShortlistError
from shortlist.launch import child_environment, module_command, tethered

__all__ = ["FoldFailed", "FoldPolicy", "IndexBuilder", "fold"]

Started = Callable[["subprocess.Popen[bytes]"], None]


class FoldFailed(ShortlistError):
    """A new base could not be built; the old one and its changes go on."""

    status_name = "INTERNAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldPolicy:
    """When so much has changed that a new base is worth it.

    20,000 rows are searched exactly in 0.2 ms. With 13,000 rows beside a base of 200,000, and as
    many of its own dead, a query takes 2.2 ms instead of 0.9: benchmarks/live_index.py.
    """

    share: float = 0.1  # of the base's items
    fewest: int = 2_000
    most: int = 20_000

    def due(self, changed: int, items: int) -> bool:
        return changed >= max(self.fewest, min(self.most, int(self.share * items)))


class IndexBuilder:
    """Builds ScaNN indexes in a process of its own, which gives way to whoever else has work:
    training one takes seconds to minutes, and the searches of this process go on.
    """

    def __init__(self, started: Started = lambda _: None) -> None:
        """`started` is told of the process, so that it can be ended before its time."""
        self._started = started

    def build(self, data: SliceData, old: Segment, folder: Path) -> None:
        """Write an index where `old` has one, of the same settings, into `folder`.

        Raises `FoldFailed`.
        """
        wanted = [name for name, view in old.views.items() if view.index_folder.exists()]
        for name in wanted:
            home = folder / name
            home.mkdir()
            settings = ScannSettings.load(old.views[name].index_folder)
            (home / "like.json").write_text(json.dumps(asdict(settings)), "utf-8")
            np.save(home / "vectors.npy", _vectors_of(name, data))
        if wanted:
            self._run(folder)
        for name in wanted:
            (folder / name / "vectors.npy").unlink()  # as large as all the rest

    def _run(self, folder: Path) -> None:
        command = tethered(module_command("retrieval_svc.reindex", str(folder)))
        process = subprocess.Popen(
            command, env=child_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self._started(process)
        _, errors = process.communicate()
        if process.returncode:
            raise FoldFailed(
                f"building indexes ended with {process.returncode}: {errors.decode()[-500:]}"
            )


def fold(live: LiveSnapshot, folder: Path, indexes: IndexBuilder) -> LiveSnapshot:
    """All that counts in `live` as a base without segments; indexes go into the empty `folder`.

    Raises `FoldFailed`, and what opening sources raises.
    """
    old = live.snapshot
    data = _gathered(old)
    indexes.build(data, old.base.segment, folder)
    base = live.empty.over(data, live.empty.shared(), folder)
    standing = replace(Standing.all(len(data)), expiries=Expiries.of(_expires_ms(old)))
    snapshot = Snapshot(base=Part(segment=base, standing=standing), shelf=_shelf(live))
    return replace(live, snapshot=snapshot)


def _gathered(old: Snapshot) -> SliceData:
    """Every item that there is: described by one row, and what happened to it known by one."""
    parts = old.parts
    listed = [np.flatnonzero(part.standing.listed) for part in parts]
    learned = [np.flatnonzero(part.standing.learned) for part in parts]
    items = SliceData.join(
        [part.segment.described().take(rows) for part, rows in zip(parts, listed, strict=True)]
    )

    def source(name: str) -> SourceData:
        described = name in old.base.segment.catalogue_sources
        taken, places = [], []
        for part, rows in zip(parts, listed if described else learned, strict=True):
            taken.append(part.segment.data_of(name).take(rows, len(part.segment)))
            places.append(np.searchsorted(items.keys, part.segment.keys[rows]))
        return SourceData.join(taken, places)

    return replace(items, sources={name: source(name) for name in old.base.segment.sources})


def _expires_ms(old: Snapshot) -> Times:
    """int64, of every item that there is, by key; 0 = never."""
    keys, times = [], []
    for part in old.parts:
        rows = np.flatnonzero(part.standing.listed)
        keys.append(part.segment.keys[rows])
        times.append(part.standing.expiries.of_rows(len(part.segment))[rows])
    order = np.argsort(np.concatenate(keys))
    return np.concatenate(times)[order]


def _shelf(live: LiveSnapshot) -> Part | None:
    """What was known of items that are gone: of the base's, newer ones, and those gone before."""
    old = live.snapshot
    gone: list[SliceData] = []
    found = np.empty(0, np.uint64)
    for part in (old.base, *reversed(old.segments), old.shelf):  # who comes first, knows most
        if part is not None:
            keys = part.segment.keys
            rows = np.flatnonzero(~old.has(keys) & ~np.isin(keys, found))
            gone.append(part.segment.data().take(rows))
            found = np.concatenate([found, keys[rows]])
    if not len(found):
        return None
    segment = live.empty.over(SliceData.join(gone), live.empty.shared())
    return Part(segment=segment, standing=Standing.none(len(segment)))


def _vectors_of(name: str, data: SliceData) -> Floats:
    """A source's own vectors, or those of the slice."""
    vectors: Floats = data.sources[name].columns.get("vectors", data.vectors)
    return vectors
