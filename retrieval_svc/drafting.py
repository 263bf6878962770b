"""From the log of changes to the rows that a slice takes in: items are read, encoded, described."""

from __future__ import annotations

import logging

import numpy as np

from retrieval_svc.brute_force import Floats
from retrieval_svc.catalogue import CatalogueReader, ReadItems
from retrieval_svc.delta import Drafts
from retrieval_svc.generation import Generation
from retrieval_svc.rows import Bools, Keys
from retrieval_svc.segment import SliceData
from retrieval_svc.source_data import SourceData
from retrieval_svc.sources.base import CatalogueItems, CatalogueSource
from shortlist.ids import shard_of
from shortlist.live import Changes, ItemChange

__all__ = ["Drafter"]

_log = logging.getLogger(__name__)

_UNIT_TOLERANCE = 1e-3


class Drafter:
    """Makes drafts for one generation. Called from one thread.

    Items of other slices are described, too: a history here may hold them.
    """

    def __init__(self, generation: Generation) -> None:
        base = generation.base
        self._generation = generation
        self._reader = CatalogueReader(base.items.columns.schema, generation.roles)
        self._layouts = {name: view.data for name, view in base.views.items()}
        self._describers = {
            name: source.describer(base.views[name])
            for name, source in base.sources.items()
            if isinstance(source, CatalogueSource)
        }
        self.skipped = 0  # items that could not be encoded
        self.misfits = 0  # values of attributes that were of a wrong type

    def draft(self, changes: Changes) -> Drafts:
        """What the changes mean to this slice; histories know the items from now on."""
        newest = {change.key: change for change in changes.items}
        shown = [one.item for one in newest.values() if one.item and not one.item.hidden]
        read = self._reader.read(shown)
        self._count_misfits(read)
        gone = _keys_of([one for one in newest.values() if not one.item or one.item.hidden])
        encoder = self._generation.item_encoder
        if encoder is None:
            return self._without_encoder(read, gone, changes)
        vectors = encoder.encode(read.keys, read.columns)
        good = _of_unit_length(vectors)
        self._count_skipped(read, ~good)
        useless = read.keys[~good]
        read, vectors = read.take(np.flatnonzero(good)), vectors[good]
        described = self._describe(read, vectors)
        mine = np.flatnonzero(self._mine(read.keys))
        own = read.take(mine)
        return Drafts(
            items=own,
            data=SliceData(
                keys=own.keys,
                vectors=vectors[mine],
                table=self._reader.table(own),
                sources={name: data.take(mine, len(read)) for name, data in described.items()},
            ),
            kept=own.keys[:0],
            kept_expires_ms=own.expires_ms[:0],
            gone=self._own(np.concatenate([gone, useless])),
            events=changes.events,
        )

    def _describe(self, read: ReadItems, vectors: Floats) -> dict[str, SourceData]:
        """What every source that knows items by the catalogue has to know of them."""
        items = CatalogueItems(
            keys=read.keys,
            columns=read.columns,
            published_ms=read.published_ms,
            vectors=vectors,
        )
        described = {}
        for name, describer in self._describers.items():
            data = describer.describe(items)
            if len(items):
                describer.remember(items, data)
            layout = self._layouts[name]
            described[name] = SourceData(
                columns={column: data.columns[column] for column in layout.columns},
                lists={lists: data.lists[lists] for lists in layout.lists},
            )
        return described

    def _without_encoder(self, read: ReadItems, gone: Keys, changes: Changes) -> Drafts:
        """A version from before items could be encoded goes on with the items it has."""
        known = np.isin(read.keys, self._generation.keys)
        self._count_skipped(read, ~known & self._mine(read.keys))
        kept, nothing = read.take(np.flatnonzero(known)), read.take(np.empty(0, np.int64))
        vectors = self._generation.vectors[:0]
        return Drafts(
            items=nothing,
            data=SliceData(
                keys=nothing.keys,
                vectors=vectors,
                table=self._reader.table(nothing),
                sources=self._describe(nothing, vectors),
            ),
            kept=kept.keys,
            kept_expires_ms=kept.expires_ms,
            gone=self._own(gone),
            events=changes.events,
        )

    def _own(self, keys: Keys) -> Keys:
        return np.unique(keys[self._mine(keys)])

    def _mine(self, keys: Keys) -> Bools:
        return shard_of(keys, self._generation.shards) == self._generation.shard

    def _count_skipped(self, read: ReadItems, bad: Bools) -> None:
        if count := int(np.count_nonzero(bad)):
            self.skipped += count
            first = read.items[int(np.flatnonzero(bad)[0])].id
            _log.warning("%d items cannot be encoded and are left out: %r ...", count, first)

    def _count_misfits(self, read: ReadItems) -> None:
        if read.misfits:
            self.misfits += read.misfits
            _log.warning("%d attributes of items have values of a wrong type", read.misfits)


def _keys_of(changes: list[ItemChange]) -> Keys:
    return np.array([change.key for change in changes], np.uint64)


def _of_unit_length(vectors: Floats) -> Bools:
    """An index never sees any other vector: a NaN would be found by nobody, or abort ScaNN."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    good: Bools = np.abs(lengths - 1) <= _UNIT_TOLERANCE  # NaN is not
    return good
