"""What a training job learns from: the import, and what the store has logged since, up to a number.

Items and users that only the live system knows join; items that are gone leave with their
interactions; users who were deleted are in neither. Rows are merged and ordered as an import of
the same events would have done. A snapshot without anything logged is the imported data set.

Every event is counted once: a version learns from the logged events up to `Snapshot.log_sequence`,
and serving follows the log from there. What is held out to judge by is therefore what came last to
the log, whatever time it tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retrieval_svc.catalogue import CatalogueReader
from shortlist.config import Config
from shortlist.errors import InvalidField
from shortlist.ids import check_collisions, keys_of
from shortlist.live import CatalogItem
from shortlist.schema import EventType, Schema, SplitPlan
from shortlist.stores.opening import STORE_FILE, open_store, store_url
from shortlist.tiers import Keys
from training.dataset import UNKNOWN_TIME_MS, Dataset, DatasetInfo, Interactions, once_in_order
from training.event_log import LoggedEvents, read_changed_items, read_events
from training.forget import load_remembered
from training.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    Learned,
    SplitImpossible,
    TimeCut,
    held_out_of_log,
)

__all__ = ["EXPIRES", "Snapshot", "log_head", "take_snapshot"]

EXPIRES: Final = "expires_ms"  # column of items, where one has a time from when on it is not shown

_MOST_EVENT_TYPES = int(np.iinfo(np.int8).max) + 1

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A data set as of a number of the log."""

    dataset: Dataset
    upto: int  # events up to this number are in it; items are as they were when it was read
    learned: Learned  # what the serving version may learn from
    logged: int  # interactions that are not the import's
    forgotten_sequence: int = 0  # nobody who was deleted up to this change is in it

    @property
    def log_sequence(self) -> int:
        """Changes up to it are part of a version that learns from `serving_window`."""
        return self.learned.log_sequence

    @property
    def meta(self) -> dict[str, Any]:
        """What a manifest says of where its version's data ends."""
        return {
            "log_sequence": self.learned.log_sequence,
            "imported_before_ms": self.learned.imported_before_ms,
            "snapshot_sequence": self.upto,
            "logged_interactions": self.logged,
            "forgotten_sequence": self.forgotten_sequence,
        }


def take_snapshot(
    workdir: Path,
    config: Config,
    *,
    upto: int | None = None,
    learned: Learned | None = None,
    catalogue: pa.Table | None = None,
) -> Snapshot:
    """The workdir's data set with what was logged up to the number `upto`, or until now.

    `learned` says what a version that is to be judged has learned from: all else is the test part.
    Without it the newest is held out. `catalogue` are the items, by ascending key, instead of those
    of now. Raises `InvalidField` when the log does not reach `upto`,
    `ProfilesUnavailable`, and `DatasetUnreadable`.
    """
    remembered = load_remembered(workdir, config)
    joined = _joined(workdir, config, remembered.dataset, upto, learned, catalogue)
    return replace(joined, forgotten_sequence=remembered.forgotten_sequence)


def _joined(
    workdir: Path,
    config: Config,
    dataset: Dataset,
    upto: int | None,
    learned: Learned | None,
    catalogue: pa.Table | None,
) -> Snapshot:
    if not store_url(config.store) and not (workdir / STORE_FILE).exists():
        _refuse_beyond(0, upto)
        return _imported(dataset, 0)
    read = asyncio.run(_read(workdir, config, dataset.schema, upto))
    if not len(read.events) and not read.items:
        return _imported(dataset, read.upto)
    return _Joining(dataset, read, catalogue).snapshot(learned)


def log_head(workdir: Path, config: Config) -> int:
    """The number of the newest change. Raises `ProfilesUnavailable`."""
    if not store_url(config.store) and not (workdir / STORE_FILE).exists():
        return 0

    async def ask() -> int:
        store = open_store(config.store, workdir)
        try:
            return await store.head()
        finally:
            await store.close()

    return asyncio.run(ask())


@dataclass(frozen=True, kw_only=True)
class _Read:
    """All that the store knows beside an import."""

    upto: int
    items: dict[int, CatalogItem | None]
    events: LoggedEvents


async def _read(workdir: Path, config: Config, schema: Schema, upto: int | None) -> _Read:
    store = open_store(config.store, workdir)
    try:
        head = await store.head()
        _refuse_beyond(head, upto)
        end = head if upto is None else upto
        contexts = tuple(schema.context_features)
        return _Read(
            upto=end,
            # Events first: an item that comes with one is there by then.
            events=await read_events(store, upto=end, contexts=contexts),
            items=await read_changed_items(store) if end else {},
        )
    finally:
        await store.close()


def _refuse_beyond(head: int, upto: int | None) -> None:
    if upto is not None and not 0 <= upto <= head:
        raise InvalidField("log_sequence", f"{upto} is not in the log, which ends at {head}")


def _imported(dataset: Dataset, upto: int) -> Snapshot:
    return Snapshot(dataset=dataset, upto=upto, learned=_learned_of_import(dataset, upto), logged=0)


def _learned_of_import(dataset: Dataset, upto: int) -> Learned:
    tests = dataset.info.split_method == "time" and bool((dataset.events.split == TEST).any())
    return Learned(
        log_sequence=upto, imported_before_ms=dataset.validation_end_ms if tests else None
    )


class _Joining:
    """One import and one log: the steps in their order."""

    def __init__(self, dataset: Dataset, read: _Read, catalogue: pa.Table | None) -> None:
        self._imported, self._read, self._catalogue = dataset, read, catalogue

    def snapshot(self, learned: Learned | None) -> Snapshot:
        items, published_ms = self._items()
        users = self._users()
        item_keys, user_keys = items["key"].to_numpy(), users["key"].to_numpy()
        rows = self._rows(item_keys, user_keys)
        split, learned, info = self._split(rows, learned)
        return Snapshot(
            dataset=Dataset(
                items=items,
                users=users,
                events=replace(rows.events, split=split),
                info=replace(info, event_types=rows.event_types),
                item_keys=item_keys,
                user_keys=user_keys,
                published_ms=published_ms,
            ),
            upto=self._read.upto,
            learned=learned,
            logged=rows.logged,
        )

    def _items(self) -> tuple[pa.Table, Int64s]:
        """The catalogue by key, and when each item was published."""
        items = self._items_of_now() if self._catalogue is None else self._catalogue
        return items, items["published_ms"].fill_null(UNKNOWN_TIME_MS).to_numpy()

    def _items_of_now(self) -> pa.Table:
        known, changed = self._imported.items, self._read.items
        if not changed:
            return known
        stays = ~np.isin(self._imported.item_keys, np.array(list(changed), np.uint64))
        roles = {name: one.role for name, one in self._imported.schema.item_features.items()}
        reader = CatalogueReader(known.drop_columns(["key"]).schema, roles)
        read = reader.read([item for item in changed.values() if item is not None])
        fresh = reader.table(read).add_column(0, "key", pa.array(read.keys))
        table = pa.concat_tables([known.filter(pa.array(stays)), fresh])
        if read.expires_ms.any():
            expires = np.concatenate([np.zeros(int(stays.sum()), np.int64), read.expires_ms])
            table = table.append_column(EXPIRES, pa.array(expires, mask=expires == 0))
        return table.take(pa.array(np.argsort(table["key"].to_numpy()))).combine_chunks()

    def _users(self) -> pa.Table:
        """Those of the import, and those who came with an event, of whom nothing else is known."""
        known, events = self._imported.users, self._read.events
        ids = pc.unique(events.user.dictionary)
        new = ids.filter(pc.invert(pc.is_in(ids, value_set=known["id"].combine_chunks())))
        if not len(new):
            return known
        keys = keys_of(new.to_pylist())
        fresh = {"key": pa.array(keys), "id": new}
        for one in known.schema:
            fresh.setdefault(one.name, pa.nulls(len(new), one.type))
        table = pa.concat_tables([known, pa.table(fresh, schema=known.schema)])
        check_collisions(table["id"].to_pylist(), table["key"].to_numpy())
        return table.take(pa.array(np.argsort(table["key"].to_numpy()))).combine_chunks()

    def _rows(self, item_keys: Keys, user_keys: Keys) -> _Rows:
        """The import's interactions with the logged ones, each once, by time.

        Without those of items that are gone, or that nobody has described yet.
        """
        imported, logged = self._imported, self._read.events
        event_types, codes = _event_types(imported.info, logged)
        old = _Columns.of_import(imported, item_keys, user_keys)
        new = _Columns.of_log(logged, codes, item_keys, user_keys)
        weight = _weights(new.event, new.value, event_types, imported.schema)
        time_ms = new.time_ms if imported.has_time else np.zeros_like(new.time_ms)
        rows = _Rows(
            sequence=_both(np.zeros(len(old.rows)), logged.sequence[new.rows], np.int64),
            events=Interactions(
                user=_both(old.user, new.user, np.int32),
                item=_both(old.item, new.item, np.int32),
                event=_both(old.event, new.event, np.int8),
                value=_both(old.value, new.value, np.float32),
                weight=_both(imported.events.weight[old.rows], weight, np.float32),
                time_ms=_both(old.time_ms, time_ms, np.int64),
                split=_both(
                    imported.events.split[old.rows], np.full(len(new.rows), TRAIN), np.int8
                ),
                context={
                    name: pa.concat_arrays(
                        [
                            column.take(pa.array(old.rows)),
                            logged.context[name].take(pa.array(new.rows)),
                        ]
                    )
                    for name, column in imported.events.context.items()
                },
            ),
            event_types=event_types,
        )
        return rows.once_in_order() if len(new.rows) else rows

    def _split(
        self, rows: _Rows, learned: Learned | None
    ) -> tuple[npt.NDArray[np.int8], Learned, DatasetInfo]:
        """The part of each row, what is learned from, and the moments of the cuts."""
        dataset, upto = self._imported, self._read.upto
        info = dataset.info
        if info.split_method != "time":
            known = learned or Learned(log_sequence=upto, imported_before_ms=None)
            return _parts_left(rows, known.log_sequence), known, info
        if learned is None:
            if not rows.logged:
                return rows.events.split, _learned_of_import(dataset, upto), info
            learned = self._newest_held_out(rows)
        codes, cut = _parts_by_time(rows, learned, dataset.schema.split or SplitPlan())
        return codes, learned, replace(info, **asdict(cut))

    def _newest_held_out(self, rows: _Rows) -> Learned:
        """All but the newest, in the order of their arrival."""
        info, plan = self._imported.info, self._imported.schema.split or SplitPlan()
        tested = int(np.count_nonzero(self._imported.events.split == TEST))
        held_out = held_out_of_log(rows.logged, plan, tested=tested)
        sequence = np.sort(rows.sequence[rows.sequence > 0])
        if held_out == 0:
            return Learned(log_sequence=self._read.upto, imported_before_ms=None)
        if held_out <= len(sequence):
            return Learned(log_sequence=int(sequence[-held_out]) - 1, imported_before_ms=None)
        imported = rows.events.time_ms[rows.sequence == 0]  # ascending
        place = max(len(imported) - (held_out - len(sequence)), 0)
        # Never less than an earlier version may have learned from.
        before = max(int(imported[place]), info.validation_end_ms or 0) if len(imported) else None
        return Learned(log_sequence=int(sequence[0]) - 1, imported_before_ms=before)


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """The interactions of one of both that count: `rows` of it, and their columns."""

    rows: Int64s
    user: Int64s
    item: Int64s
    event: Int64s
    value: npt.NDArray[np.float32]
    time_ms: Int64s

    @staticmethod
    def of_import(dataset: Dataset, item_keys: Keys, user_keys: Keys) -> _Columns:
        events = dataset.events
        item = _rows_of(dataset.item_keys, item_keys)[events.item]
        user = _rows_of(dataset.user_keys, user_keys)[events.user]
        return _Columns.chosen(item >= 0, user, item, events.event, events.value, events.time_ms)

    @staticmethod
    def of_log(logged: LoggedEvents, codes: Int64s, item_keys: Keys, user_keys: Keys) -> _Columns:
        """`codes` are those of its types, -1 = none."""
        item = _rows_of(_keys(logged.item), item_keys)[logged.item.indices.to_numpy()]
        user = _rows_of(_keys(logged.user), user_keys)[logged.user.indices.to_numpy()]
        event = codes[logged.event.indices.to_numpy()]
        counts = (item >= 0) & (event >= 0)
        return _Columns.chosen(counts, user, item, event, logged.value, logged.time_ms)

    @staticmethod
    def chosen(
        counts: npt.NDArray[np.bool_],
        user: Int64s,
        item: Int64s,
        event: npt.NDArray[Any],
        value: npt.NDArray[np.float32],
        time_ms: Int64s,
    ) -> _Columns:
        rows = np.flatnonzero(counts)
        return _Columns(
            rows=rows,
            user=user[rows],
            item=item[rows],
            event=event[rows],
            value=value[rows],
            time_ms=time_ms[rows],
        )


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Interactions of both."""

    sequence: Int64s  # int64 [n], of the log; 0 = imported
    events: Interactions
    event_types: tuple[str, ...]

    @property
    def logged(self) -> int:
        return int(np.count_nonzero(self.sequence))

    def once_in_order(self) -> _Rows:
        """By time; of rows that repeat each other the last one to arrive stays: if serving counts
        it, nobody has learned from it."""
        events = self.events
        order = once_in_order(events.user, events.item, events.event, events.time_ms)
        columns = {
            name: getattr(events, name)[order]
            for name in ("user", "item", "event", "value", "weight", "time_ms", "split")
        }
        context = {name: column.take(pa.array(order)) for name, column in events.context.items()}
        return replace(
            self,
            sequence=self.sequence[order],
            events=Interactions(**columns, context=context),
        )


def _parts_by_time(
    rows: _Rows, learned: Learned, plan: SplitPlan
) -> tuple[npt.NDArray[np.int8], TimeCut]:
    """What is not learned is the test; the newest of what is, validation."""
    time_ms = rows.events.time_ms
    known = learned.of(rows.sequence, time_ms)
    codes = np.full(len(known), TEST, np.int8)
    if not known.any():
        raise SplitImpossible("everything would be held out, so there is nothing to learn from")
    times = time_ms[known]
    place = len(times) - round(plan.validation_fraction * len(known))
    train_end = int(times[place]) if place < len(times) else int(times[-1]) + 1
    codes[known] = np.where(times < train_end, TRAIN, VALIDATION)
    cut = TimeCut(
        train_end_ms=train_end,
        validation_end_ms=int(times[-1]) + 1,
        test_end_ms=int(time_ms[-1]) + 1,
    )
    return codes, cut


def _parts_left(rows: _Rows, learned_upto: int) -> npt.NDArray[np.int8]:
    """The import's parts. A pair of user and item that was logged again is no secret any more: all
    of its rows are learned from. What was logged after `learned_upto` is test.
    """
    pairs = rows.events.user.astype(np.int64) << 32 | rows.events.item
    codes = rows.events.split.copy()
    codes[rows.sequence > learned_upto] = TEST
    again = (rows.sequence > 0) & (rows.sequence <= learned_upto)
    codes[np.isin(pairs, pairs[again])] = TRAIN
    return codes


def _event_types(info: DatasetInfo, logged: LoggedEvents) -> tuple[tuple[str, ...], Int64s]:
    """All types by code, and the code of each of the log's; -1 = the schema has no such type.

    A schema without types takes any: new ones are put behind those of the import.
    """
    types = list(info.event_types)
    found = logged.event.dictionary.to_pylist()
    if not info.schema.events:
        types += sorted(set(found) - set(types))[: _MOST_EVENT_TYPES - len(types)]
    place = {name: code for code, name in enumerate(types)}
    return tuple(types), np.array([place.get(name, -1) for name in found], np.int64)


def _weights(
    event: Int64s, value: npt.NDArray[np.float32], types: Sequence[str], schema: Schema
) -> npt.NDArray[np.float32]:
    """What `EventType.weight_of` says of each event."""
    plans: list[EventType] = [schema.event(name) for name in types]
    weight = np.array([plan.weight for plan in plans], np.float32)[event]
    for code, plan in enumerate(plans):
        if plan.positive_at is not None:
            weight[(event == code) & (value < plan.positive_at)] = 0.0
    return weight


def _keys(column: pa.DictionaryArray) -> Keys:
    """Of the different strings of a column."""
    return keys_of(column.dictionary.to_pylist())


def _rows_of(wanted: Keys, keys: Keys) -> Int64s:
    """The row of each of `wanted` among the ascending `keys`, -1 = not there."""
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    rows = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[rows] == wanted, rows, -1)


def _both(old: npt.NDArray[Any], new: npt.NDArray[Any], kind: Any) -> npt.NDArray[Any]:
    return np.concatenate([old.astype(kind, copy=False), new.astype(kind, copy=False)])
