"""Items of a slice that are searched together: the base of a version, or some changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from retrieval_svc.brute_force import BruteForceIndex, Floats
from retrieval_svc.item_table import ItemTable
from retrieval_svc.rows import Keys, Rows, rows_of
from retrieval_svc.slice_files import RetrievalMeta
from retrieval_svc.source_data import SharedData, SourceData
from retrieval_svc.sources import SOURCES, SliceView, Source
from retrieval_svc.sources.base import CatalogueSource, SearchingSource, SharingSource
from retrieval_svc.sources.observed import LearningSource, ObservedEvents
from shortlist.errors import ArtifactRefused
from shortlist.live import EventColumns

__all__ = ["Segment", "SliceData"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceData:
    """All that is known of n items, in columns: segments are cut from it and put together of it."""

    keys: Keys  # uint64 [n], ascending
    vectors: Floats  # float32 [n, dim], unit length
    table: pa.Table  # n rows, in the layout of the slice's items
    sources: Mapping[str, SourceData]  # of n items each

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Rows) -> SliceData:
        """The items of `rows`, which ascend."""
        return SliceData(
            keys=self.keys[rows],
            vectors=self.vectors[rows],
            table=self.table.take(pa.array(rows)),
            sources={name: data.take(rows, len(self)) for name, data in self.sources.items()},
        )

    @staticmethod
    def join(parts: Sequence[SliceData]) -> SliceData:
        """All items of the parts, of which no two have the same."""
        together = np.concatenate([part.keys for part in parts])
        order = np.argsort(together)
        keys = together[order]
        places = [np.searchsorted(keys, part.keys) for part in parts]
        return SliceData(
            keys=keys,
            vectors=np.concatenate([part.vectors for part in parts])[order],
            table=pa.concat_tables([part.table for part in parts]).take(pa.array(order)),
            sources={
                name: SourceData.join([part.sources[name] for part in parts], places)
                for name in parts[0].sources
            },
        )


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Items with every source over them. Immutable; any thread may ask."""

    keys: Keys  # uint64 [n], ascending
    vectors: Floats  # float32 [n, dim], unit length
    items: ItemTable
    sources: Mapping[str, Source]
    views: Mapping[str, SliceView]  # what each source was opened with

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def catalogue_sources(self) -> frozenset[str]:
        """Those that know items by what the catalogue says of them; the others, by events."""
        sources = self.sources.items()
        return frozenset(name for name, source in sources if isinstance(source, CatalogueSource))

    @cached_property
    def misses(self) -> frozenset[str]:
        """Sources that may miss some of what they look for."""
        return frozenset(
            name
            for name, source in self.sources.items()
            if isinstance(source, SearchingSource) and source.index.kind != BruteForceIndex.kind
        )

    @cached_property
    def exact(self) -> Segment:
        """The same with sources that miss nothing."""
        sources = {
            name: source.exact() if isinstance(source, SearchingSource) else source
            for name, source in self.sources.items()
        }
        return replace(self, sources=sources)

    @staticmethod
    def open(
        artifact: Path,
        folder: Path,
        meta: RetrievalMeta,
        keys: Keys,
        vectors: Floats,
        items: ItemTable,
    ) -> Segment:
        """The sources that the manifest names, over what they stored in `folder`, a slice of
        `artifact`; what it needs of the files, each checks.
        """
        views: dict[str, SliceView] = {}
        for name in meta.sources:
            if name not in SOURCES:
                raise ArtifactRefused(f"{artifact}: its manifest names a source {name!r}")
            own, shared = folder / name, artifact / name
            views[name] = SliceView(
                source=name,
                keys=keys,
                vectors=vectors,
                watermark_ms=meta.watermark_ms,
                data=SourceData.load(own, len(keys)) if own.exists() else SourceData(),
                shared=SharedData.load(shared) if shared.exists() else SharedData(),
                slice_folder=folder,
                artifact=artifact,
                siblings=views,
            )
        sources = {name: SOURCES[name].open(view) for name, view in views.items()}
        return Segment(keys=keys, vectors=vectors, items=items, sources=sources, views=views)

    def over(
        self,
        data: SliceData,
        shared: Mapping[str, SharedData] | None = None,
        folder: Path | None = None,
    ) -> Segment:
        """The same sources over other items, searched exactly but where `folder` has an index.

        `shared` is what sources have learned since the version was published, by name.
        """
        views: dict[str, SliceView] = {}
        for name, view in self.views.items():
            views[name] = replace(
                view,
                keys=data.keys,
                vectors=data.vectors,
                data=data.sources[name],
                shared=(shared or {}).get(name, view.shared),
                slice_folder=folder or view.artifact / "in-memory",
                siblings=views,
            )
        return Segment(
            keys=data.keys,
            vectors=data.vectors,
            items=self.items.over(data.table),
            sources={name: _reopened(self.sources[name], view) for name, view in views.items()},
            views=views,
        )

    def empty(self) -> Segment:
        """The same sources over no items."""
        nothing = SliceData(
            keys=self.keys[:0],
            vectors=self.vectors[:0],
            table=self.items.columns.slice(0, 0),
            sources={name: view.data.blank(0) for name, view in self.views.items()},
        )
        return self.over(nothing, self.shared())

    def data(self) -> SliceData:
        """All that is known of the items by now."""
        return replace(
            self.described(), sources={name: self.data_of(name) for name in self.sources}
        )

    def described(self) -> SliceData:
        """The items without what sources know of them."""
        return SliceData(keys=self.keys, vectors=self.vectors, table=self.items.columns, sources={})

    def data_of(self, name: str) -> SourceData:
        source = self.sources[name]
        if isinstance(source, LearningSource):
            return source.learned().data
        return self.views[name].data

    def shared(self) -> Mapping[str, SharedData]:
        """What the sources have learned of no item in particular."""
        return {
            name: source.learned().shared
            for name, source in self.sources.items()
            if isinstance(source, LearningSource)
        }

    def observing(self, events: EventColumns, newest_ms: int) -> Segment:
        """The segment whose sources know of `events`, too."""
        rows, known = rows_of(self.keys, events.item_keys)
        observed = ObservedEvents(
            rows=np.where(known, rows, -1),
            times_ms=events.times_ms,
            weights=events.weights,
            values=events.values,
            places=events.places,
            newest_ms=newest_ms,
        )
        sources = {
            name: source.observing(observed) if isinstance(source, LearningSource) else source
            for name, source in self.sources.items()
        }
        return replace(self, sources=sources)


def _reopened(source: Source, view: SliceView) -> Source:
    return source.over(view) if isinstance(source, SharingSource) else type(source).open(view)
