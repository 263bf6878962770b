"""How a snapshot becomes the next one: changes of the catalogue and events are taken in.

New and changed items become rows of small segments, as in a log-structured merge tree: those that
come in are put together with the newest segments as long as these are not much larger, so an item
is copied a few times in all, and there are a few segments. Nothing is ever changed in place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from retrieval_svc.catalogue import ReadItems
from retrieval_svc.rows import Bools, Keys, Rows, rows_of
from retrieval_svc.segment import Segment, SliceData
from retrieval_svc.snapshot import Expiries, Part, Snapshot, Standing, Times
from retrieval_svc.source_data import SourceData
from retrieval_svc.sources.observed import LearningSource
from shortlist.live import EventColumns

__all__ = ["Drafts", "LiveSnapshot"]

# Segments of up to so many items are built anew with each batch: 1000 items take some 5 ms.
_SMALL = 1024
_GROWTH = 2  # newer segments are put together with one that is not larger than so many times them


@dataclass(frozen=True, kw_only=True)
class Drafts:
    """A stretch of the log as one slice takes it in."""

    items: ReadItems  # of this slice, new or changed: the m rows of `data`
    data: SliceData  # m rows; of the sources only those that know items by the catalogue
    kept: Keys  # changed, but cannot be described anew: what the base says stays
    kept_expires_ms: Times  # int64, of `kept`; 0 = never
    gone: Keys  # deleted or hidden, or of no use
    events: EventColumns  # of all items


@dataclass(frozen=True, kw_only=True)
class LiveSnapshot:
    """A snapshot, and what is needed to make the next one. Immutable."""

    snapshot: Snapshot
    empty: Segment  # no items; its sources have observed what the others have
    newest_ms: int = 0  # of all events so far

    @staticmethod
    def of(snapshot: Snapshot) -> LiveSnapshot:
        return LiveSnapshot(snapshot=snapshot, empty=snapshot.base.segment.empty())

    @property
    def changed_items(self) -> int:
        """How far it is from its base: rows of segments, and rows of the base that are dead."""
        base = self.snapshot.base
        dead = int(np.count_nonzero(~base.standing.learned))
        return sum(len(part.segment) for part in self.snapshot.segments) + dead

    def changed(self, drafts: Drafts) -> LiveSnapshot:
        """With the items as they are now, and all events counted."""
        return self._with_items(drafts)._with_events(drafts.events)

    def _with_items(self, drafts: Drafts) -> LiveSnapshot:
        now = np.concatenate([drafts.data.keys, drafts.kept])
        touched = np.unique(np.concatenate([now, drafts.gone]))
        if not len(touched):
            return self
        old = self.snapshot
        base = _base_after(old.base, touched, drafts)
        segments = [_without(part, touched) for part in old.segments]
        if len(drafts.data):
            data = replace(drafts.data, sources=self._sources_of(drafts))
            segments = self._merged(base, segments, data, drafts.items.expires_ms)
        segments = [part for part in segments if len(part.rows_to_keep(touched[:0]))]
        after = Snapshot(base=base, segments=tuple(segments), shelf=old.shelf)
        return replace(self, snapshot=after)

    def _merged(
        self, base: Part, segments: list[Part], data: SliceData, expires_ms: Times
    ) -> list[Part]:
        """The segments with one more, which has taken in the newest of them."""
        segments = list(segments)
        parts, listed, times = [data], [np.ones(len(data), np.bool_)], [expires_ms]
        count = len(data)
        while segments and segments[-1].standing.items <= max(_GROWTH * count, _SMALL - count):
            part = segments.pop()
            rows = part.rows_to_keep(np.concatenate([one.keys for one in parts]))
            parts.append(part.segment.data().take(rows))
            listed.append(part.standing.listed[rows])
            times.append(part.standing.expiries.of_rows(len(part.segment))[rows])
            count += int(np.count_nonzero(listed[-1]))
        order = np.argsort(np.concatenate([one.keys for one in parts]))
        merged = self._part(
            base,
            SliceData.join(parts),
            np.concatenate(listed)[order],
            np.concatenate(times)[order],
        )
        return [*segments, merged]

    def _part(self, base: Part, data: SliceData, listed: Bools, expires_ms: Times) -> Part:
        rows, known = rows_of(base.segment.keys, data.keys)
        return Part(
            segment=self.empty.over(data, self.empty.shared()),
            standing=Standing(
                listed=listed,
                learned=listed & ~known,
                expiries=Expiries.of(expires_ms),
                homes=np.where(known, rows, -1),
            ),
        )

    def _sources_of(self, drafts: Drafts) -> dict[str, SourceData]:
        """What every source is to know of the drafts, whose rows are those of `drafts.data`."""
        described = drafts.data.sources
        return {
            name: described[name] if name in described else self._happened(name, drafts)
            for name in self.empty.sources
        }

    def _happened(self, name: str, drafts: Drafts) -> SourceData:
        """What a source knows of the items that happened to them: of a new item nothing yet; of one
        that was new before it changed, what its former row knows.
        """
        met = [self.snapshot.shelf, *self.snapshot.segments]
        in_base, _ = _where(self.snapshot.base, drafts.data.keys)
        left = np.setdiff1d(np.arange(len(drafts.data)), in_base)
        parts, places = [], []
        for part in reversed([part for part in met if part is not None]):
            here, rows = _where(part, drafts.data.keys[left])
            if len(here):
                order = np.argsort(rows)
                data = part.segment.data_of(name)
                parts.append(data.take(rows[order], len(part.segment)))
                places.append(left[here[order]])
                left = np.delete(left, here)
        new = np.sort(np.concatenate([left, in_base]))
        return SourceData.join([self._of_new(name, drafts.items.take(new)), *parts], [new, *places])

    def _of_new(self, name: str, items: ReadItems) -> SourceData:
        source = self.empty.sources[name]
        if isinstance(source, LearningSource):
            return source.new_items(source.learned().shared, items.items)
        return self.empty.views[name].data.blank(len(items))

    def _with_events(self, events: EventColumns) -> LiveSnapshot:
        if not len(events):
            return self
        newest_ms = max(self.newest_ms, int(events.times_ms.max()))

        def told(part: Part) -> Part:
            return part.observing(events, newest_ms)

        old = self.snapshot
        return LiveSnapshot(
            snapshot=replace(
                old,
                base=told(old.base),
                segments=tuple(map(told, old.segments)),
                shelf=old.shelf and told(old.shelf),
            ),
            empty=self.empty.observing(events, newest_ms),
            newest_ms=newest_ms,
        )


def _base_after(base: Part, touched: Keys, drafts: Drafts) -> Part:
    """Rows of changed items describe nothing any more, but go on knowing what happened to those
    that stay.
    """
    dead, _ = _rows_in(base, touched)
    if not len(dead):
        return base
    standing = base.standing
    listed, learned = standing.listed.copy(), standing.learned.copy()
    stay, kept = _rows_in(base, drafts.kept)
    moved, changed = _rows_in(base, drafts.data.keys)
    listed[dead] = learned[dead] = False
    learned[moved] = listed[stay] = learned[stay] = True
    expiries = standing.expiries.changed(dead, np.zeros(len(dead), np.int64))
    expiries = expiries.changed(moved, drafts.items.expires_ms[changed])
    expiries = expiries.changed(stay, drafts.kept_expires_ms[kept])
    return replace(base, standing=Standing(listed=listed, learned=learned, expiries=expiries))


def _without(part: Part, touched: Keys) -> Part:
    rows, _ = _rows_in(part, touched)
    return replace(part, standing=part.standing.without(rows))


def _rows_in(part: Part, keys: Keys) -> tuple[Rows, Rows]:
    """Rows of the part that have one of `keys`, ascending, and each one's place among `keys`."""
    places, rows = _where(part, keys)
    order = np.argsort(rows)
    return rows[order], places[order]


def _where(part: Part, keys: Keys) -> tuple[Rows, Rows]:
    """Places in `keys` of those that the part has rows of, and these rows, aligned."""
    rows, known = rows_of(part.segment.keys, keys)
    return np.flatnonzero(known), rows[known]
