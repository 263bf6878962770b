"""From a folder of files and a schema to a data set: read, join, order, split, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shortlist.ids import Keys, check_collisions, keys_of
from shortlist.schema import EntityTable, Feature, Schema, SplitPlan
from training import splits
from training.bad_rows import BadRowLog
from training.dataset import SPLITS, DatasetInfo, entity_fields, once_in_order, write_dataset
from training.entity_table import EntityRows, read_entities
from training.interaction_table import CodedStrings, InteractionReader, InteractionRows
from training.readers import DataError

__all__ = ["ImportReport", "NoPositives", "TooManyEventTypes", "import_dataset"]

Progress = Callable[[str, int, int | None], None]
Int64s = npt.NDArray[np.int64]

_MOST_EVENT_TYPES = int(np.iinfo(np.int8).max) + 1


class TooManyEventTypes(DataError):
    """The column that should hold the event type holds something else."""


class NoPositives(DataError):
    """No interaction has a weight above 0, so there is nothing to learn."""


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import did."""

    users: int
    items: int
    interactions: int
    train: int
    validation: int
    test: int
    users_without_features: int  # known from interactions only
    items_without_features: int
    event_types: tuple[str, ...]
    has_time: bool
    split_method: str
    notes: tuple[str, ...]  # decisions that the import took by itself, for a person
    merged_rows: dict[str, int]  # table -> rows that only repeated another one
    bad_rows: tuple[BadRowLog, ...]  # one a table, those without bad rows included


def import_dataset(
    schema: Schema, source: Path, out: Path, *, progress: Progress | None = None
) -> ImportReport:
    """Import the files that `schema` names in the folder `source` to the data set folder `out`.

    `progress(what, done, total)` is called now and then. A data set that is at `out` already is
    replaced after everything has succeeded, and stays as it is otherwise. Raises `DataError`,
    `TooManyBadRows`, `KeyCollision` or `SplitImpossible`; their texts are meant for users.
    """
    return _Import(schema, source, progress or _no_progress).run(out)


class _Import:
    """One run: the steps in their order, and what they note on the way."""

    def __init__(self, schema: Schema, source: Path, progress: Progress) -> None:
        self._schema, self._source, self._progress = schema, source, progress
        self._logs: list[BadRowLog] = []
        self._merged: dict[str, int] = {}
        self._notes: list[str] = []

    def run(self, out: Path) -> ImportReport:
        rows, has_time = self._read_interactions()
        item_tables = self._read_entities("items", self._schema.items)
        user_tables = self._read_entities("users", self._schema.users)
        self._progress("numbering users and items", 0, None)
        items = _Ids.of([rows.item.strings, *(table.ids for table in item_tables)])
        users = _Ids.of([rows.user.strings, *(table.ids for table in user_tables)])
        self._progress("sorting and splitting", 0, None)
        interactions, info = self._interactions(rows, users, items, has_time)
        self._progress("writing", 0, None)
        write_dataset(
            out,
            items=_item_table(items, item_tables, self._schema.item_features),
            users=_user_table(users, user_tables, self._schema.user_features),
            interactions=interactions,
            info=info,
        )
        parts = np.bincount(interactions["split"].to_numpy(), minlength=len(SPLITS))
        return ImportReport(
            users=len(users.ids),
            items=len(items.ids),
            interactions=interactions.num_rows,
            train=int(parts[splits.TRAIN]),
            validation=int(parts[splits.VALIDATION]),
            test=int(parts[splits.TEST]),
            users_without_features=users.absent_from(user_tables),
            items_without_features=items.absent_from(item_tables),
            event_types=info.event_types,
            has_time=has_time,
            split_method=info.split_method,
            notes=tuple(self._notes),
            merged_rows=self._merged,
            bad_rows=tuple(self._logs),
        )

    def _read_interactions(self) -> tuple[InteractionRows, bool]:
        """All interactions, and whether every one of them has a time."""
        reader = InteractionReader(self._schema)
        has_time = True
        for at, table in enumerate(self._schema.interactions):
            log = self._new_log(f"interactions[{at}]")
            if reader.read(table, self._source, log, self._rows_read):
                log.refuse_above(self._schema.bad_rows.max_fraction)
                has_time &= table.time is not None
            else:
                self._notes.append(f"{log.table}: {', '.join(table.path)} is absent")
        return reader.rows(), has_time

    def _read_entities(self, kind: str, tables: Sequence[EntityTable]) -> list[EntityRows]:
        found = []
        for at, table in enumerate(tables):
            log = self._new_log(f"{kind}[{at}]")
            rows = read_entities(table, self._source, log, self._rows_read)
            if rows is None:
                self._notes.append(f"{log.table}: {', '.join(table.path)} is absent")
            else:
                log.refuse_above(self._schema.bad_rows.max_fraction)
                self._merged[log.table] = rows.merged
                found.append(rows)
        return found

    def _interactions(
        self, rows: InteractionRows, users: _Ids, items: _Ids, has_time: bool
    ) -> tuple[pa.Table, DatasetInfo]:
        """The table in its final order, and what is known about it."""
        event_types = _event_types(self._schema, rows.event)
        user, item = users.rows_of(rows.user), items.rows_of(rows.item)
        event = _codes_in(rows.event, event_types)
        order = _order(user, item, event, rows)
        self._merged["interactions"] = len(rows) - len(order)
        user, item, event = user[order], item[order], event[order]
        value, time_ms = rows.value[order], rows.time_ms[order]
        weight = _weights(event, value, event_types, self._schema)
        if not weight.any():
            raise NoPositives(
                "no interaction is a positive: look at `weight` and `positive_at` of the events"
            )
        method, split, cut = self._split(
            user, item, weight > 0, time_ms, rows.split[order], has_time
        )
        table = pa.table(
            {
                "user": user,
                "item": item,
                "event": event,
                "value": value,
                "weight": weight,
                "time_ms": time_ms if has_time else np.zeros_like(time_ms),
                "split": split,
                **{f"ctx_{name}": column.take(order) for name, column in rows.context.items()},
            }
        )
        info = DatasetInfo(
            schema=self._schema,
            event_types=event_types,
            has_time=has_time,
            split_method=method,
            train_end_ms=cut.train_end_ms if cut else None,
            validation_end_ms=cut.validation_end_ms if cut else None,
            test_end_ms=cut.test_end_ms if cut else None,
            notes=tuple(self._notes),
            bad_rows={log.table: log.to_json() for log in self._logs},
            merged_rows=self._merged,
        )
        return table, info

    def _split(
        self,
        user: npt.NDArray[np.int32],
        item: npt.NDArray[np.int32],
        positive: npt.NDArray[np.bool_],
        time_ms: Int64s,
        given: npt.NDArray[np.int8],
        has_time: bool,
    ) -> tuple[str, npt.NDArray[np.int8], splits.TimeCut | None]:
        """The method used, the part of each row, and the moments of a cut by time."""
        plan = self._plan(has_time)
        if plan.method == "time":
            cut = splits.cut_by_time(time_ms, plan)
            return plan.method, cut.codes(time_ms), cut
        if plan.method == "leave_last_out":
            return plan.method, splits.leave_last_out(user, item, positive), None
        if plan.method == "random":
            return plan.method, splits.random_by_user(user, item, plan), None
        if plan.validation_fraction and not (given == splits.VALIDATION).any():
            self._notes.append(
                f"no validation file is given: {plan.validation_fraction:.0%} of each user's "
                "training items are taken for it at random"
            )
            given = splits.carve_validation(user, item, given, plan)
        return plan.method, given, None

    def _plan(self, has_time: bool) -> SplitPlan:
        plan = self._schema.split
        if plan is None and not has_time:
            self._notes.append("the data has no times: each user's items are split at random")
            return SplitPlan(method="random")
        plan = plan or SplitPlan()
        if plan.method == "time" and not has_time:
            without = [
                f"interactions[{at}]"
                for at, table in enumerate(self._schema.interactions)
                if table.time is None
            ]
            raise splits.SplitImpossible(
                f"split.method time needs a `time` column; {', '.join(without)} has none"
            )
        return plan

    def _new_log(self, table: str) -> BadRowLog:
        self._logs.append(BadRowLog(table=table))
        return self._logs[-1]

    def _rows_read(self, what: str, rows: int) -> None:
        self._progress(what, rows, None)


@dataclass(frozen=True, kw_only=True)
class _Ids:
    """All users, or all items: the id and key of each row, ascending by key."""

    ids: pa.Array  # strings [n]
    keys: Keys  # [n]

    @classmethod
    def of(cls, sources: Sequence[pa.Array]) -> _Ids:
        ids = pa.chunked_array(sources, pa.string()).unique()
        texts = ids.to_pylist()
        keys = keys_of(texts)
        check_collisions(texts, keys)
        order = np.argsort(keys)
        return cls(ids=ids.take(pa.array(order)), keys=keys[order])

    def rows_of(self, strings: CodedStrings) -> npt.NDArray[np.int32]:
        rows = pc.index_in(strings.strings, value_set=self.ids).to_numpy()
        return rows.astype(np.int32)[strings.codes]

    def absent_from(self, tables: Sequence[EntityRows]) -> int:
        """How many of the ids no table has a row for."""
        if not tables:
            return len(self.ids)
        known = pa.chunked_array([table.ids for table in tables], pa.string()).unique()
        return len(self.ids) - len(known)

    def align(self, table: EntityRows) -> dict[str, pa.Array]:
        """The columns of `table` in the order of the ids, null where it has no row."""
        rows = pc.index_in(self.ids, value_set=table.ids)
        return {name: column.take(rows) for name, column in table.columns.items()}


def _item_table(ids: _Ids, tables: Sequence[EntityRows], features: dict[str, Feature]) -> pa.Table:
    published = next((n for n, feature in features.items() if feature.role == "timestamp"), None)
    own = [pa.field("title", pa.string()), pa.field("published_ms", pa.int64())]
    columns = _aligned(ids, tables)
    if published and f"f_{published}" in columns:
        columns["published_ms"] = columns[f"f_{published}"]
    return _table(ids, columns, own + entity_fields(features))


def _user_table(ids: _Ids, tables: Sequence[EntityRows], features: dict[str, Feature]) -> pa.Table:
    return _table(ids, _aligned(ids, tables), entity_fields(features))


def _aligned(ids: _Ids, tables: Sequence[EntityRows]) -> dict[str, pa.Array]:
    return {name: column for table in tables for name, column in ids.align(table).items()}


def _table(ids: _Ids, columns: dict[str, pa.Array], fields: Sequence[pa.Field]) -> pa.Table:
    known = {"key": pa.array(ids.keys), "id": ids.ids}
    for each in fields:
        known[each.name] = columns.get(each.name, pa.nulls(len(ids.ids), each.type))
    return pa.table(known)


def _event_types(schema: Schema, events: CodedStrings) -> tuple[str, ...]:
    """In code order: as the schema lists them, else by name."""
    types = tuple(schema.events) or tuple(sorted(events.strings.to_pylist()))
    if len(types) > _MOST_EVENT_TYPES:
        raise TooManyEventTypes(
            f"{len(types)} event types, {types[0]!r}, {types[1]!r}, ...; "
            f"at most {_MOST_EVENT_TYPES} are possible. Is `event` the right column?"
        )
    return types


def _codes_in(events: CodedStrings, types: Sequence[str]) -> npt.NDArray[np.int8]:
    codes = pc.index_in(events.strings, value_set=pa.array(types, pa.string())).to_numpy()
    return codes.astype(np.int8)[events.codes]


def _order(
    user: npt.NDArray[np.int32],
    item: npt.NDArray[np.int32],
    event: npt.NDArray[np.int8],
    rows: InteractionRows,
) -> Int64s:
    """The rows in their order, each (user, item, event, time, given part) once."""
    # event < 2**7 and split < 2**2, so both fit into one small key.
    kind = event.astype(np.int16) << 2 | rows.split
    return once_in_order(user, item, kind, rows.time_ms)


def _weights(
    event: npt.NDArray[np.int8],
    value: npt.NDArray[np.float32],
    types: Sequence[str],
    schema: Schema,
) -> npt.NDArray[np.float32]:
    """The weight of each row's event type; 0 below the value that makes it a positive."""
    plans = [schema.event(name) for name in types]
    weight = np.array([plan.weight for plan in plans], dtype=np.float32)[event]
    for code, plan in enumerate(plans):
        if plan.positive_at is not None:
            # A row without a value says nothing either way, so it is no positive.
            weight[(event == code) & ~(value >= plan.positive_at)] = 0.0
    return weight


def _no_progress(what: str, done: int, total: int | None) -> None:
    """Nobody watches."""
