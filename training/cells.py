"""From cells as files hold them to values: text, lists, numbers, times.

Every function takes an Arrow array as `readers` yields it: strings, lists of strings, int64,
float64 or timestamp[ms]. Nothing loops over cells in Python; only those that fail are looked at
one by one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shortlist.schema import TimeUnit
from training.bad_rows import RowCheck

__all__ = [
    "Numbers",
    "TimeColumn",
    "Times",
    "cast_or_null",
    "extracted",
    "lists",
    "numbers",
    "text",
]

# What other programs write into a number's place when they have none.
_NO_NUMBER: Final = pa.array(["", "null", "none", "nan", "na", "n/a", "\\n"])
_MS_OF_UNIT: Final = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_FIRST_MS: Final = -62_135_596_800_000  # 0001-01-01
_LAST_MS: Final = 253_402_300_799_999  # 9999-12-31
_ZONED: Final = r"\d:\d.*([Zz]|[+-]\d{2}(:?\d{2})?)$"

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Aligned with the cells: float64 values, NaN where missing or bad."""

    values: npt.NDArray[np.float64]
    bad: Mask  # not a number
    not_finite: Mask  # NaN or infinity, spelled out


@dataclass(frozen=True, kw_only=True)
class Times:
    """Aligned with the cells: int64 milliseconds since 1970 UTC, 0 where missing or bad."""

    ms: npt.NDArray[np.int64]
    missing: Mask
    bad: Mask


def text(cells: pa.Array) -> pa.Array:
    """Strings, null where the cell is empty. Whole floats lose their ".0"; lists are joined."""
    if pa.types.is_list(cells.type):
        cells = pc.binary_join(cells, " ")
    elif pa.types.is_floating(cells.type):
        cells = _float_text(cells)
    elif not pa.types.is_string(cells.type):
        cells = cells.cast(pa.string())
    return pc.if_else(pc.equal(pc.binary_length(cells), 0), pa.scalar(None, pa.string()), cells)


def ids(cells: pa.Array, check: RowCheck, what: str) -> pa.Array:
    """Strings; an empty id is bad, and so is one with a line break: an unclosed quote ate lines."""
    found = text(cells)
    check.fail(_mask(found.is_null()), f"empty {what}")
    broken = pc.fill_null(pc.match_substring(found, "\n"), False)
    check.fail(_mask(broken), f"line break in {what}")
    return found


def lists(cells: pa.Array, separator: str) -> pa.Array:
    """Lists of strings: a cell is split at `separator`, parts are trimmed, empty parts dropped."""
    if not pa.types.is_list(cells.type):
        cells = pc.split_pattern(text(cells), separator)
    parts = pc.utf8_trim_whitespace(pc.list_flatten(cells))
    row_of_part = pc.list_parent_indices(cells).to_numpy(zero_copy_only=False)
    kept = pc.fill_null(pc.greater(pc.binary_length(parts), 0), False)
    lengths = np.bincount(row_of_part[_mask(kept)], minlength=len(cells))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), parts.filter(kept), mask=cells.is_null())


def extracted(cells: pa.Array, pattern: str) -> pa.Array:
    """Group 1 of the first match of `pattern` in each cell's text, trimmed; null for no match."""
    find = re.compile(pattern).search
    encoded = text(cells).dictionary_encode()
    matches = [find(value) for value in encoded.dictionary.to_pylist()]
    values = [match.group(1) if match else None for match in matches]
    found = pa.array([value and value.strip() for value in values], pa.string())
    return found.take(encoded.indices)


def numbers(cells: pa.Array, *, words_are_missing: bool = False) -> Numbers:
    """Numbers in decimal notation. An empty cell is missing.

    `words_are_missing` takes "NULL", "NaN", "N/A" and the like for missing as well.
    """
    if pa.types.is_string(cells.type):
        cells = pc.utf8_trim_whitespace(cells)
        words = _NO_NUMBER if words_are_missing else _NO_NUMBER[:1]
        none = pc.is_in(pc.utf8_lower(cells), value_set=words)
        cells = pc.if_else(none, pa.scalar(None, pa.string()), cells)
    elif pa.types.is_list(cells.type) or pa.types.is_timestamp(cells.type):
        cells = text(cells)
    parsed = cast_or_null(cells, pa.float64())
    present = _mask(cells.is_valid())
    values = _floats(parsed)
    not_finite = _mask(parsed.is_valid()) & ~np.isfinite(values)
    if words_are_missing:
        not_finite &= ~np.isnan(values)
    values[not_finite] = np.nan
    return Numbers(values=values, bad=present & _mask(parsed.is_null()), not_finite=not_finite)


@dataclass(kw_only=True)
class TimeColumn:
    """Reads one column of times, batch by batch.

    With unit `auto` the first batch decides for the whole column: text is ISO-8601 (without a zone:
    UTC), numbers are seconds, milli-, micro- or nanoseconds by their magnitude, and with
    `years` four digits are a year.
    """

    unit: TimeUnit | str = "auto"
    years: bool = False
    _decided: str | None = field(default=None, init=False)

    def read(self, cells: pa.Array) -> Times:
        if pa.types.is_timestamp(cells.type):
            return _checked(cells.cast(pa.int64()), present=_mask(cells.is_valid()))
        if pa.types.is_string(cells.type) or pa.types.is_list(cells.type):
            cells = text(pc.utf8_trim_whitespace(text(cells)))
        present = _mask(cells.is_valid())
        unit = self._unit_of(cells)
        if unit == "iso":
            return _checked(_iso_ms(text(cells)), present=present)
        number = _floats(cast_or_null(cells, pa.float64()))
        number[~np.isfinite(number)] = np.nan
        ms = _years_ms(number) if unit == "year" else np.round(number * _MS_OF_UNIT[unit])
        return _checked(pa.array(ms, from_pandas=True), present=present)

    def _unit_of(self, cells: pa.Array) -> str:
        if self.unit != "auto":
            return self.unit
        if self._decided is None and cells.null_count < len(cells):
            self._decided = _guess_unit(cells.drop_null(), self.years)
        return self._decided or "s"


def cast_or_null(cells: pa.Array, to: pa.DataType) -> pa.Array:
    """Cast, with null for each cell that cannot be: halves what fails until one cell is left."""
    done: list[pa.Array] = []
    todo = [cells]
    while todo:
        part = todo.pop()
        try:
            done.append(part.cast(to))
        except pa.ArrowInvalid:
            if len(part) == 1:
                done.append(pa.nulls(1, to))
            else:
                middle = len(part) // 2
                todo += [part[middle:], part[:middle]]
    return pa.concat_arrays(done)


def _float_text(cells: pa.Array) -> pa.Array:
    """Whole numbers as integers: a column of ids with a gap is float in many a file."""
    cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, pa.float64()), cells)
    whole = pc.and_(pc.equal(pc.floor(cells), cells), pc.less(pc.abs(cells), 2.0**53))
    integers = pc.if_else(whole, cells, pa.scalar(None, pa.float64())).cast(pa.int64())
    return pc.coalesce(integers.cast(pa.string()), cells.cast(pa.string()))


def _guess_unit(cells: pa.Array, years: bool) -> str:
    sample = _floats(cast_or_null(cells[:1000], pa.float64()))
    sample = np.abs(sample[np.isfinite(sample)])
    if 2 * len(sample) < min(len(cells), 1000):
        return "iso"
    middle = float(np.median(sample))
    if years and 1000 <= middle <= 9999:
        return "year"
    bounds = (("s", 1e11), ("ms", 1e14), ("us", 1e17))  # 1e11 s is the year 5138
    return next((unit for unit, bound in bounds if middle < bound), "ns")


def _iso_ms(cells: pa.Array) -> pa.Array:
    """ISO-8601 to milliseconds, null where it is not; a date alone is its midnight."""
    # Arrow reads six digits of a second; some programs write seven or nine.
    cells = pc.replace_substring_regex(cells, r"(\.\d{6})\d+", r"\1")
    zoned = pc.fill_null(pc.match_substring_regex(cells, _ZONED), False)
    ms = np.full(len(cells), np.nan)
    for rows, to in (
        (_mask(zoned), pa.timestamp("us", "UTC")),
        (~_mask(zoned), pa.timestamp("us")),
    ):
        if rows.any():
            micros = cast_or_null(cells.filter(pa.array(rows)), to).cast(pa.int64())
            ms[rows] = np.floor(_floats(micros.cast(pa.float64())) / 1000)
    return pa.array(ms, from_pandas=True)


def _years_ms(years: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    valid = np.isfinite(years) & (years == np.floor(years)) & (years >= 1) & (years <= 9999)
    ms = np.full(len(years), np.nan)
    months = (years[valid].astype(np.int64) - 1970).astype("datetime64[Y]")
    ms[valid] = months.astype("datetime64[ms]").astype(np.int64)
    return ms


def _checked(ms: pa.Array, *, present: Mask) -> Times:
    values = _floats(ms.cast(pa.float64()))
    good = (values >= _FIRST_MS) & (values <= _LAST_MS)
    return Times(
        ms=np.where(good, values, 0.0).astype(np.int64), missing=~present, bad=present & ~good
    )


def _floats(cells: pa.Array) -> npt.NDArray[np.float64]:
    """A writable float64 array, NaN for null."""
    return np.array(cells.to_numpy(zero_copy_only=False), dtype=np.float64)


def _mask(cells: pa.Array) -> npt.NDArray[Any]:
    return cells.to_numpy(zero_copy_only=False).astype(bool)
