"""The item table of a ranker that follows the log: events and new items change it while it serves.

There is one writer, and any number of readers that no lock holds up. What belongs to an item is
written in place, row by row, so a reader that gathers rows meanwhile may see an item with the
popularity of just now and the price of just before; it never sees half a number, and never a row
of a new item before it is complete, because nobody finds its key until then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ranking_svc.item_counts import ItemCounts, statistics
from ranking_svc.item_table import Floats, ItemTable, Keys, Rows
from shortlist.errors import ArtifactCorrupt
from shortlist.features import FeatureEncoder
from shortlist.live import CatalogItem, Changes, EventColumns, ItemChange
from shortlist.places import coordinates_of, points_on_earth
from shortlist.tiers import AttributeValue

__all__ = ["LiveItemTable"]

_log = logging.getLogger(__name__)

# Rows kept free for new items: as many as there are, at least so many. They cost no memory before
# they are used.
_LEAST_SPARE = 200_000
# Columns that changes write to; of the others there is what was trained.
_WRITTEN = (
    "published_ms",
    "first_event_ms",
    "last_event_ms",
    "tokens",
    "token_weights",
    "numeric",
    "places",
)
# Half-lives after which counts are told as of a later moment, so that no number grows too large.
_STEP = 64.0

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What a reader has to see as one. A snapshot, but for the rows of the counts."""

    counts: ItemCounts  # rows as of the table
    sums: Doubles  # float64 [s + 1], of the counts' speeds over all items
    new_keys: Keys  # uint64 [m], ascending: items that training did not know
    new_rows: Rows  # int64 [m]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Events:
    """Known events, added up by item: what they change. Nothing is written yet."""

    rows: Rows  # int64 [u], unique
    speeds: Doubles  # float64 [u, s + 1], to be added
    events: npt.NDArray[np.int64]  # int64 [u], to be added
    values: Doubles  # float64 [u], to be added
    valued: npt.NDArray[np.int64]  # int64 [u], to be added
    first_ms: npt.NDArray[np.int64]  # int64 [u]
    last_ms: npt.NDArray[np.int64]  # int64 [u]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Items:
    """Items that are new or have changed, encoded. Nothing is written yet."""

    keys: Keys  # uint64 [u], unique
    rows: Rows  # int64 [u]
    new: npt.NDArray[np.bool_]  # bool [u]
    tokens: npt.NDArray[np.int32]
    token_weights: Floats
    numeric: Floats
    published_ms: npt.NDArray[np.int64]
    places: Floats


class LiveItemTable(ItemTable):
    """n rows in key order, the row of zeros for unknown items, then rows of new items.

    New items have attributes and counts. Vectors, tastes and neighbours come with the next
    training: until then they are those of the row for unknown items, and the columns of these are
    the files, to which nobody writes. `statistics` is not kept up to date: see `statistics_of`.
    """

    __slots__ = ("_encoder", "_located", "_state")

    _encoder: FeatureEncoder
    _located: tuple[str, ...]
    _state: _State

    @staticmethod
    def of(
        table: ItemTable, counts: ItemCounts, encoder: FeatureEncoder, located: Sequence[str]
    ) -> LiveItemTable:
        """`located` are the features that fill `places`, in its order.

        Raises `ArtifactCorrupt` when they are not as many.
        """
        if table.places.shape[1] != len(located):
            raise ArtifactCorrupt(
                f"items/places.npy has {table.places.shape[1]} places an item, "
                f"meta.located names {len(located)}"
            )
        n = len(table.keys)
        rows = n + 1 + max(n, _LEAST_SPARE)
        columns = {field.name: getattr(table, field.name) for field in fields(ItemTable)}
        columns |= {name: _with_room(columns[name], rows) for name in _WRITTEN}
        live = LiveItemTable(**columns)
        state = _State(
            counts=replace(
                counts,
                speeds=_with_room(counts.speeds, rows),
                events=_with_room(counts.events, rows),
                values=_with_room(counts.values, rows),
                valued=_with_room(counts.valued, rows),
            ),
            sums=counts.speeds.sum(axis=0),
            new_keys=np.empty(0, np.uint64),
            new_rows=np.empty(0, np.int64),
        )
        for name, value in (("encoder", encoder), ("located", tuple(located)), ("state", state)):
            live._set(name, value)
        return live

    @property
    def size(self) -> int:
        return len(self.keys) + len(self._state.new_keys)

    def rows_of(self, keys: Keys) -> Rows:
        rows, state = ItemTable.rows_of(self, keys), self._state
        if len(state.new_keys) == 0:
            return rows
        places = np.minimum(np.searchsorted(state.new_keys, keys), len(state.new_keys) - 1)
        return np.where(state.new_keys[places] == keys, state.new_rows[places], rows)

    def statistics_of(self, rows: Rows) -> Floats:
        state = self._state
        counts = state.counts
        return statistics(
            counts.speeds.take(rows, axis=0),
            state.sums / max(self.size, 1),
            counts.events.take(rows),
            counts.values.take(rows),
            counts.valued.take(rows),
        )

    def follow(self, changes: Changes, refresh: Callable[[Rows], None]) -> None:
        """Take in a stretch of the log: the items, then the events.

        `refresh` is told which rows of items have been written, before a new one is found. When
        this raises, the same changes may be given again: events are counted last, all or none.
        """
        self._put(changes.items, refresh)
        self._count(changes.events)

    def _put(self, changes: Sequence[ItemChange], refresh: Callable[[Rows], None]) -> None:
        """Give new items a row, and changed ones their new attributes; deleted ones keep theirs,
        as nobody proposes them.
        """
        items = self._encoded({one.key: one.item for one in changes if one.item is not None})
        if len(items.keys) == 0:
            return
        self.tokens[items.rows] = items.tokens
        self.token_weights[items.rows] = items.token_weights
        self.numeric[items.rows] = items.numeric
        self.published_ms[items.rows] = items.published_ms
        self.places[items.rows] = items.places
        refresh(items.rows)
        self._let_be_found(items.keys[items.new], items.rows[items.new])

    def _let_be_found(self, keys: Keys, rows: Rows) -> None:
        """New items, by ascending key."""
        state = self._state
        places = np.searchsorted(state.new_keys, keys)
        new_keys = np.insert(state.new_keys, places, keys)
        new_rows = np.insert(state.new_rows, places, rows)
        self._set("state", replace(state, new_keys=new_keys, new_rows=new_rows))

    def _count(self, events: EventColumns) -> None:
        """Count events of items that have a row."""
        found = self.rows_of(events.item_keys)
        known = np.flatnonzero(found != len(self.keys))
        if len(known) == 0:
            return
        self._tell_as_of(int(events.times_ms[known].max()))
        added = self._added_up(events, known, found[known])
        state, rows = self._state, added.rows
        counts = state.counts
        counts.speeds[rows] += added.speeds
        counts.events[rows] += added.events
        counts.values[rows] += added.values
        counts.valued[rows] += added.valued
        self.first_event_ms[rows] = added.first_ms
        self.last_event_ms[rows] = added.last_ms
        self._set("state", replace(state, sums=state.sums + added.speeds.sum(axis=0)))

    def _added_up(self, events: EventColumns, known: Rows, found: Rows) -> _Events:
        """The events `known`, of the items in the rows `found`."""
        rows, item = np.unique(found, return_inverse=True)
        times = events.times_ms[known]
        weights = self._weights(events.weights[known].astype(np.float64), times)
        values, valued = self._standard(events.values[known])
        first = self.first_event_ms[rows]
        first_ms = np.where(first == 0, np.iinfo(np.int64).max, first)
        last_ms = self.last_event_ms[rows]
        np.minimum.at(first_ms, item, times)
        np.maximum.at(last_ms, item, times)

        def add_up(amounts: npt.NDArray[Any]) -> Doubles:
            return np.bincount(item, weights=amounts, minlength=len(rows)).astype(np.float64)

        return _Events(
            rows=rows,
            speeds=np.stack([add_up(each) for each in weights], axis=1),
            events=np.bincount(item, minlength=len(rows)),
            values=add_up(values),
            valued=add_up(valued).astype(np.int64),
            first_ms=first_ms,
            last_ms=last_ms,
        )

    def _weights(self, weights: Doubles, times_ms: npt.NDArray[np.int64]) -> list[Doubles]:
        """What each event counts at each speed."""
        counts = self._state.counts
        ages = counts.as_of_ms - times_ms
        return [*(weights * 0.5 ** (ages / one) for one in counts.half_lives_ms), weights]

    def _standard(self, values: Floats) -> tuple[Doubles, npt.NDArray[np.bool_]]:
        """Values in standard deviations, 0 for none; and which events have one."""
        counts = self._state.counts
        if counts.value_std == 0:  # no model has learned what a value says
            return np.zeros(len(values)), np.zeros(len(values), np.bool_)
        valued = np.isfinite(values)
        standard = (values.astype(np.float64) - counts.value_mean) / counts.value_std
        return np.where(valued, standard, 0), valued

    def _tell_as_of(self, newest_ms: int) -> None:
        """Tell the counts as of a later moment, when too much time has passed since theirs.

        Relative to their means they stay the same. Readers go on with what they have: a new array,
        never written to in place.
        """
        state, counts = self._state, self._state.counts
        passed = newest_ms - counts.as_of_ms
        if not counts.half_lives_ms or passed <= _STEP * min(counts.half_lives_ms):
            return
        faded = np.array([*(0.5 ** (passed / one) for one in counts.half_lives_ms), 1.0])
        used = 1 + self.size
        speeds = _with_room(counts.speeds[:used] * faded, len(counts.speeds))
        told = replace(counts, speeds=speeds, as_of_ms=newest_ms)
        self._set("state", replace(state, counts=told, sums=state.sums * faded))

    def _encoded(self, changes: Mapping[int, CatalogItem]) -> _Items:
        """By ascending key."""
        keys = np.array(sorted(changes), np.uint64)
        rows = self.rows_of(keys)
        new = rows == len(self.keys)
        rows[new] = 1 + self.size + np.arange(np.count_nonzero(new))
        room = rows < len(self.tokens)
        if not room.all():
            _log.warning(
                "no room for %d new items: they are scored as unknown ones until the next training",
                np.count_nonzero(~room),
            )
        keys, rows, new = keys[room], rows[room], new[room]
        items = [changes[key] for key in keys.tolist()]
        encoded = self._encoder.encode(self._columns(items), len(items))
        return _Items(
            keys=keys,
            rows=rows,
            new=new,
            tokens=encoded.tokens,
            token_weights=encoded.weights,
            numeric=encoded.numeric,
            published_ms=np.array([item.published_ms for item in items], np.int64),
            places=self._places_of(items),
        )

    def _columns(self, items: Sequence[CatalogItem]) -> dict[str, list[AttributeValue | None]]:
        """Values by feature name, as the encoder wants them."""
        names = [one.name for one in self._encoder.token_features]
        names += [one.name for one in self._encoder.numeric_features]
        columns = {name: [item.attributes.get(name) for item in items] for name in names}
        titles: list[AttributeValue | None] = [item.title for item in items]
        named = {one.name: titles for one in self._encoder.token_features if one.role == "title"}
        return columns | named

    def _places_of(self, items: Sequence[CatalogItem]) -> Floats:
        """float32 [m, p, 3]; zeros where the item says no coordinates."""
        nowhere = (np.nan, np.nan)
        points = np.zeros((len(items), len(self._located), 3), np.float32)
        for place, name in enumerate(self._located):
            found = [coordinates_of(item.attributes.get(name)) or nowhere for item in items]
            latitudes, longitudes = [one[0] for one in found], [one[1] for one in found]
            points[:, place] = points_on_earth(latitudes, longitudes)
        return points

    def _set(self, name: str, value: Any) -> None:
        # An ItemTable is frozen: nothing of it is ever replaced but what is a snapshot here.
        object.__setattr__(self, f"_{name}", value)


def _with_room(array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """The array with rows of zeros at its end, which take memory only when they are written to."""
    wide = np.zeros((rows, *array.shape[1:]), array.dtype)
    wide[: len(array)] = array
    return wide
