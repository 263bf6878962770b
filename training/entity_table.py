"""The catalogue and the users: one row an entity, one column a feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shortlist.schema import EntityTable, Feature
from training import cells
from training.bad_rows import BadRowLog, RowCheck
from training.readers import EmptySource, RawBatch, find_files, read_file

__all__ = ["EntityRows", "read_entities"]

Progress = Callable[[str, int], None]  # what is done, rows so far

_DEFAULT_SEPARATOR = "|"


@dataclass(frozen=True, kw_only=True)
class EntityRows:
    """The rows of one table, each id once."""

    ids: pa.Array  # strings [n]
    columns: dict[str, pa.Array]  # the layout's f_ columns, and "title" where the table has one
    merged: int  # rows that only repeated another one


def read_entities(
    table: EntityTable, source: Path, log: BadRowLog, progress: Progress
) -> EntityRows | None:
    """Read a table of items or users; None when it is optional and absent.

    A row that repeats another one exactly is merged; a row with the id of another one and other
    features is bad, and the first one stays. Raises `EmptySource` when no row is usable, and
    whatever `readers.read_file` raises.
    """
    files = find_files(table.path, source, optional=table.optional)
    if not files:
        return None
    readers = [_FeatureReader(name, feature) for name, feature in table.features.items()]
    parts: list[pa.Table] = []
    origins = _Origins()
    for path in files:
        for batch in read_file(path, table.format, table.source_columns, log):
            part, kept = _convert(batch, table.id, readers, log)
            parts.append(part)
            origins.add(kept)
            progress(f"reading {path.name}", log.rows)
    rows = pa.concat_tables(parts) if parts else pa.table({})
    if not rows.num_rows:
        raise EmptySource(f"{log.table}: no row is usable\n{log.describe()}")
    return _deduplicated(rows, origins, log)


def _convert(
    batch: RawBatch, id_column: str, readers: list[_FeatureReader], log: BadRowLog
) -> tuple[pa.Table, RawBatch]:
    """The columns of the rows that are good, and those rows as they were read."""
    check = RowCheck(len(batch))
    columns = {"id": cells.ids(batch.columns[id_column], check, "id")}
    for reader in readers:
        columns |= reader.read(batch, check)
    check.report(log, batch.where, batch.show)
    good = check.good
    return pa.table(columns).filter(pa.array(good)), batch.keep(good)


class _Origins:
    """Where the rows of a table came from, kept only to name the bad ones."""

    def __init__(self) -> None:
        self._batches: list[RawBatch] = []
        self._ends = [0]

    def add(self, batch: RawBatch) -> None:
        self._batches.append(RawBatch(columns={}, path=batch.path, lines=batch.lines))
        self._ends.append(self._ends[-1] + len(batch))

    def where(self, row: int) -> str:
        at = int(np.searchsorted(self._ends, row, side="right")) - 1
        return self._batches[at].where(row - self._ends[at])


def _deduplicated(rows: pa.Table, origins: _Origins, log: BadRowLog) -> EntityRows:
    codes = _codes(rows["id"])
    _, first = np.unique(codes, return_index=True)
    repeats = np.setdiff1d(np.arange(len(codes)), first)
    merged = 0
    if len(repeats):
        kept = first[codes[repeats]]
        copies = rows.take(pa.array(repeats)).to_pylist()
        for row, copy, original in zip(
            repeats, copies, rows.take(pa.array(kept)).to_pylist(), strict=True
        ):
            if copy == original:
                merged += 1
            else:
                log.add("duplicate id", origins.where(int(row)), _show(copy))
        rows = rows.take(pa.array(np.sort(first)))
    columns = {name: rows[name].combine_chunks() for name in rows.column_names}
    return EntityRows(ids=columns.pop("id"), columns=columns, merged=merged)


def _codes(ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """The same number for the same id, in the order of first appearance."""
    encoded = ids.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64)


def _show(row: dict[str, object]) -> str:
    return ", ".join(f"{name}={'' if cell is None else cell}" for name, cell in row.items())


class _FeatureReader:
    """Makes the columns of one feature, batch by batch."""

    def __init__(self, name: str, feature: Feature) -> None:
        self._name, self._feature = name, feature
        self._times = cells.TimeColumn(unit=feature.time_unit, years=True)

    def read(self, batch: RawBatch, check: RowCheck) -> dict[str, pa.Array]:
        """The feature's columns [n]; rows whose cells make no sense are marked in `check`."""
        if self._feature.has_coordinates:
            return self._coordinates(batch, check)
        raw = batch.columns[self._feature.column or self._name]
        if self._feature.extract:
            raw = cells.extracted(raw, self._feature.extract)
        column = "title" if self._feature.role == "title" else f"f_{self._name}"
        return {column: self._values(raw, check)}

    def _values(self, raw: pa.Array, check: RowCheck) -> pa.Array:
        if self._feature.is_list:
            return cells.lists(raw, self._feature.separator or _DEFAULT_SEPARATOR)
        if self._feature.role == "numeric":
            return _floats32(self._numbers(raw, check))
        if self._feature.role == "timestamp":
            times = self._times.read(raw)
            check.fail(times.bad, f"unparsable time in `{self._name}`")
            return pa.array(times.ms, mask=times.missing | times.bad)
        return cells.text(raw)

    def _coordinates(self, batch: RawBatch, check: RowCheck) -> dict[str, pa.Array]:
        columns = {}
        sources = self._feature.source_columns(self._name)
        for source, short, limit in zip(sources, ("lat", "lon"), (90.0, 180.0), strict=True):
            degrees = self._numbers(batch.columns[source], check)
            check.fail(np.abs(degrees) > limit, f"`{source}` is beyond {limit:g} degrees")
            columns[f"f_{self._name}_{short}"] = _floats32(degrees)
        return columns

    def _numbers(self, raw: pa.Array, check: RowCheck) -> npt.NDArray[np.float64]:
        numbers = cells.numbers(raw, words_are_missing=True)
        check.fail(numbers.bad, f"unparsable number in `{self._name}`")
        too_big = np.abs(numbers.values) > np.finfo(np.float32).max
        check.fail(numbers.not_finite | too_big, f"infinite number in `{self._name}`")
        return np.where(too_big, np.nan, numbers.values)


def _floats32(values: npt.NDArray[np.float64]) -> pa.Array:
    return pc.cast(pa.array(values, from_pandas=True), pa.float32())
