"""Which items of a slice match a filter: the language of `shortlist.filters` over Arrow columns.

Logic has three values, as in SQL: about an attribute that an item does not have, nothing but EXISTS
is known, and an item matches only where the whole expression is true.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, reduce
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retrieval_svc.mask_cache import MaskCache
from retrieval_svc.rows import Bools, RowMask
from shortlist.errors import InvalidField
from shortlist.filters import (
    COMPOSED_LIMITS,
    And,
    Compare,
    Exists,
    Expression,
    Has,
    In,
    Moment,
    Not,
    Now,
    Or,
    Unless,
    Value,
    parse,
    text_of,
)

__all__ = ["FilterColumn", "ItemFilter"]

Kind = Literal["text", "number", "time"]

_MOST_MS = 2.0**62
_SAID = {
    "text": "texts",
    "number": "numbers",
    "time": "times: compare it with now(), a text like 2024-05-01T12:00:00Z or Unix milliseconds",
}
_TESTS: Mapping[str, Callable[..., pa.Array]] = {
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


class FilterColumn(NamedTuple):
    """An attribute that filters may ask about."""

    values: pa.Array  # [n] strings, lists of strings, float32 or int64
    kind: Kind


class _Verdict(NamedTuple):
    """bool [n] each; where both are false, it is not known."""

    yes: Bools
    no: Bools


class ItemFilter:
    """Finds the items that match, and remembers what it found. Any thread may ask."""

    def __init__(
        self, columns: Mapping[str, FilterColumn], repeating: Collection[str] = ()
    ) -> None:
        """`columns` have one value an item, or several; texts of `repeating` ones mostly repeat.

        Those are put into another form here, which takes 50 ns a text and saves as much in
        every filter.
        """
        self._columns = {
            name: _Column(column, repeating=column.kind == "text" and name in repeating)
            for name, column in columns.items()
        }
        self._masks: MaskCache[RowMask] = MaskCache()

    def matching(self, text: str) -> RowMask | None:
        """The mask of a filter in normal form; None for an empty one, which everything matches.

        Equal texts give one mask while it is remembered, so what follows from it is shared, too.
        Raises `InvalidField` of `filter`: not of the language, no such attribute, or not of its
        type.
        """
        if not text:
            return None
        found = self._masks.get(text)
        if found is None:
            found = RowMask(self._verdict(parse(text, limits=COMPOSED_LIMITS)).yes)
            self._masks.put(text, found, _bytes_of(found))
        return found

    def _verdict(self, expression: Expression) -> _Verdict:
        match expression:
            case And(parts):
                return reduce(_both, map(self._verdict, parts))
            case Or(parts):
                return reduce(_either, map(self._verdict, parts))
            case Not(inner):
                return _opposite(self._verdict(inner))
            case Unless(inner):
                yes = self._verdict(inner).yes
                return _Verdict(~yes, yes)
            case Exists(name):
                present = self._column(name).present
                return _Verdict(present, ~present)
            case Compare(name, comparator, value):
                return self._compare(name, comparator, value)
            case Has(name, value):
                return self._has(name, value)
            case In(name, values):
                return self._among(name, values)

    def _compare(self, name: str, comparator: str, value: Value) -> _Verdict:
        column = self._column(name)
        if column.several:
            raise _misused(name, f"has several values; ask with =, IN or HAS, not {comparator}")
        scalar = _scalar(name, column.kind, value)
        return column.verdict(lambda values: _TESTS[comparator](values, scalar))

    def _has(self, name: str, value: Value) -> _Verdict:
        if not self._column(name).several:
            raise _misused(name, "has one value; ask with =, not HAS or CONTAINS")
        return self._among(name, (value,))

    def _among(self, name: str, values: Sequence[Value]) -> _Verdict:
        column = self._column(name)
        scalars = [_scalar(name, column.kind, value).as_py() for value in values]
        wanted = pa.array(scalars, column.type)
        return column.verdict(lambda values: pc.is_in(values, value_set=wanted))

    def _column(self, name: str) -> _Column:
        if name not in self._columns:
            known = ", ".join(self._columns)
            raise InvalidField("filter", f"items have no attribute {name!r}; there are: {known}")
        return self._columns[name]


class _Column:
    """A column in the form in which it is asked.

    Texts that repeat become numbers into a list of different ones: a test runs over that list.
    """

    def __init__(self, column: FilterColumn, *, repeating: bool) -> None:
        self.kind = column.kind
        self.several = pa.types.is_list(column.values.type)
        self._lists = column.values if self.several else None
        values = column.values.values if self.several else column.values
        self.type = values.type
        self._different = values
        self._numbers: npt.NDArray[np.int32] | None = None  # -1 = null
        if repeating:
            coded = values.dictionary_encode()
            self._different = coded.dictionary
            self._numbers = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)

    @cached_property
    def present(self) -> Bools:
        """bool [n]: whether an item has the attribute at all."""
        return self._hits(pc.is_finite if self.kind == "number" else pc.is_valid)

    def verdict(self, test: Callable[[pa.Array], pa.Array]) -> _Verdict:
        """What `test` finds; of several values one is enough."""
        hit = self._hits(test)
        return _Verdict(hit, self.present & ~hit)

    def _hits(self, test: Callable[[pa.Array], pa.Array]) -> Bools:
        hit = _bools(test(self._different))
        if self._numbers is not None:
            hit = np.append(hit, False)[self._numbers]  # null, -1, is the last
        return hit if self._lists is None else _any_of_each(self._lists, hit)


def _both(one: _Verdict, other: _Verdict) -> _Verdict:
    return _Verdict(one.yes & other.yes, one.no | other.no)


def _either(one: _Verdict, other: _Verdict) -> _Verdict:
    return _Verdict(one.yes | other.yes, one.no & other.no)


def _opposite(verdict: _Verdict) -> _Verdict:
    return _Verdict(verdict.no, verdict.yes)


def _any_of_each(lists: pa.ListArray, hit: Bools) -> Bools:
    """bool [n]: whether one of a list's values is a hit; `hit` is aligned with `lists.values`."""
    before = np.zeros(len(hit) + 1, np.int32)
    np.cumsum(hit, out=before[1:])
    ends = lists.offsets.to_numpy(zero_copy_only=False)
    return (before[ends[1:]] > before[ends[:-1]]) & _bools(pc.is_valid(lists))


def _bools(values: pa.Array) -> Bools:
    """Null is false."""
    filled: Bools = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return filled


def _scalar(name: str, kind: Kind, value: Value) -> pa.Scalar:
    """The value as one of the column. Raises `InvalidField` where it is of another type."""
    if isinstance(value, Now):
        raise _misused(name, "now() must be fixed before a shard is asked")
    if kind == "time":
        return _time_scalar(name, value)
    if kind == "text" and isinstance(value, str):
        return pa.scalar(value, pa.string())
    if kind == "number" and isinstance(value, float):
        with np.errstate(over="ignore"):  # what is beyond float32 is beyond every value
            return pa.scalar(np.float32(value), pa.float32())
    raise _misused(name, f"holds {_SAID[kind]}, so {text_of(In(name, (value,)))!r} cannot be")


def _time_scalar(name: str, value: Value) -> pa.Scalar:
    """int64, Unix milliseconds; numbers are rounded to them."""
    if isinstance(value, Moment):
        return pa.scalar(value.ms, pa.int64())
    if isinstance(value, float):
        return pa.scalar(round(max(-_MOST_MS, min(value, _MOST_MS))), pa.int64())
    assert isinstance(value, str)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise _misused(name, f"holds {_SAID['time']}; {value!r} is none of these") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return pa.scalar(round(moment.timestamp() * 1000), pa.int64())


def _misused(name: str, text: str) -> InvalidField:
    return InvalidField("filter", f"attribute {name!r} {text}")


def _bytes_of(mask: RowMask) -> int:
    """With what is made of it: row numbers where they are few, masks for three indexes."""
    return 4 * len(mask) + 8 * mask.count
