"""Interactions: from files to aligned columns of codes, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shortlist.schema import InteractionTable, Schema
from training import cells
from training.bad_rows import BadRowLog, RowCheck
from training.dataset import SPLITS
from training.readers import EmptySource, RawBatch, find_files, read_file

__all__ = ["InteractionReader", "InteractionRows"]

Progress = Callable[[str, int], None]  # what is done, rows so far


@dataclass(frozen=True, kw_only=True)
class CodedStrings:
    """Strings as codes into the distinct ones. A code of -1 is a null."""

    codes: npt.NDArray[np.int32]  # [n]
    strings: pa.Array  # [n distinct]

    def take(self, rows: npt.NDArray[np.int64]) -> pa.Array:
        """The strings of `rows`, null for the code -1."""
        codes = self.codes[rows]
        return self.strings.take(pa.array(codes, mask=codes < 0))


@dataclass(frozen=True, kw_only=True)
class InteractionRows:
    """All interactions in the order of the files."""

    user: CodedStrings
    item: CodedStrings
    event: CodedStrings
    value: npt.NDArray[np.float32]  # NaN where there is none
    time_ms: npt.NDArray[np.int64]  # 0 where the table has no time
    split: npt.NDArray[np.int8]  # what the table says; 0 where it says nothing
    context: dict[str, CodedStrings]

    def __len__(self) -> int:
        return len(self.value)


class InteractionReader:
    """Reads the interaction tables of a schema one after the other."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._contexts = tuple(schema.context_features)
        self._parts: list[_Part] = []

    def read(
        self, table: InteractionTable, source: Path, log: BadRowLog, progress: Progress
    ) -> bool:
        """Add the rows of a table. False when it is optional and absent.

        Raises `EmptySource` when no row is usable, and whatever `readers.read_file` raises.
        """
        files = find_files(table.path, source, optional=table.optional)
        times = cells.TimeColumn(unit=table.time_unit)
        before = len(self._parts)
        for path in files:
            for batch in read_file(path, table.format, table.source_columns, log):
                part = self._convert(batch, table, times, log)
                if len(part.value):
                    self._parts.append(part)
                progress(f"reading {path.name}", log.rows)
        if files and len(self._parts) == before:
            raise EmptySource(f"{log.table}: no row is usable\n{log.describe()}")
        return bool(files)

    def rows(self) -> InteractionRows:
        """Everything read so far. The reader is empty afterwards, to free memory step by step."""
        parts, self._parts = self._parts, []
        return InteractionRows(
            user=_coded([part.user for part in parts]),
            item=_coded([part.item for part in parts]),
            event=_coded([part.event for part in parts]),
            value=np.concatenate([part.value for part in parts]),
            time_ms=np.concatenate([part.time_ms for part in parts]),
            split=np.concatenate([np.full(len(p.value), p.split, dtype=np.int8) for p in parts]),
            context={
                name: _coded([part.context[name] for part in parts]) for name in self._contexts
            },
        )

    def _convert(
        self, batch: RawBatch, table: InteractionTable, times: cells.TimeColumn, log: BadRowLog
    ) -> _Part:
        check = RowCheck(len(batch))
        user = cells.ids(batch.columns[table.user], check, "user id")
        item = cells.ids(batch.columns[table.item], check, "item id")
        event = self._events(batch, table, check)
        value = _values(batch, table, check)
        time_ms = _times(batch, table, times, check)
        context = self._context(batch, table)
        check.report(log, batch.where, batch.show)
        good = check.good
        chosen = pa.array(good)
        return _Part(
            user=user.filter(chosen).dictionary_encode(),
            item=item.filter(chosen).dictionary_encode(),
            event=event.filter(chosen).dictionary_encode(),
            value=value[good],
            time_ms=time_ms[good],
            split=SPLITS.index(table.split or "train"),
            context={name: c.filter(chosen).dictionary_encode() for name, c in context.items()},
        )

    def _events(self, batch: RawBatch, table: InteractionTable, check: RowCheck) -> pa.Array:
        if table.event is None:
            return pa.repeat(pa.scalar(table.constant_event), len(batch))
        events = cells.text(batch.columns[table.event])
        check.fail(_mask(events.is_null()), "empty event type")
        if self._schema.events:
            known = pc.is_in(events, value_set=pa.array(list(self._schema.events)))
            check.fail(~_mask(known), "unknown event type")
        return events

    def _context(self, batch: RawBatch, table: InteractionTable) -> dict[str, pa.Array]:
        columns = {name: pa.nulls(len(batch), pa.string()) for name in self._contexts}
        for name, feature in table.context.items():
            raw = batch.columns[feature.column or name]
            columns[name] = (
                cells.extracted(raw, feature.extract) if feature.extract else cells.text(raw)
            )
        return columns


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The good rows of one batch."""

    user: pa.DictionaryArray
    item: pa.DictionaryArray
    event: pa.DictionaryArray
    value: npt.NDArray[np.float32]
    time_ms: npt.NDArray[np.int64]
    split: int
    context: dict[str, pa.DictionaryArray] = field(default_factory=dict)


def _values(batch: RawBatch, table: InteractionTable, check: RowCheck) -> npt.NDArray[np.float32]:
    if table.value is None:
        return np.full(len(batch), np.nan, dtype=np.float32)
    numbers = cells.numbers(batch.columns[table.value])
    check.fail(numbers.bad, "unparsable value")
    too_big = np.abs(numbers.values) > np.finfo(np.float32).max
    check.fail(numbers.not_finite | too_big, "value is NaN or infinite")
    return np.where(too_big, np.nan, numbers.values).astype(np.float32)


def _times(
    batch: RawBatch, table: InteractionTable, times: cells.TimeColumn, check: RowCheck
) -> npt.NDArray[np.int64]:
    if table.time is None:
        return np.zeros(len(batch), dtype=np.int64)
    read = times.read(batch.columns[table.time])
    check.fail(read.missing, "empty time")
    check.fail(read.bad, "unparsable time")
    return read.ms


def _coded(parts: Sequence[pa.DictionaryArray]) -> CodedStrings:
    unified = pa.chunked_array(parts).unify_dictionaries()
    codes = [part.indices.fill_null(-1).to_numpy() for part in unified.chunks]
    return CodedStrings(codes=np.concatenate(codes), strings=unified.chunk(0).dictionary)


def _mask(column: pa.Array) -> npt.NDArray[np.bool_]:
    return column.to_numpy(zero_copy_only=False).astype(bool)
