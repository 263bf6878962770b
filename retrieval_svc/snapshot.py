"""What a slice knows at one moment: its base, segments of what has changed, and which rows count.

An item has one row that describes it, in the base or, once it has changed, in a segment; and one
row that knows what happened to it, which stays the base's as long as the base has the item. Sources
that know items by the catalogue see the first, the others the second. An item that is deleted,
hidden or expired has neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from retrieval_svc.brute_force import Floats
from retrieval_svc.item_table import CardColumns
from retrieval_svc.rows import NO_ROWS, Allowed, Bools, Keys, RowMask, Rows, kept, rows_of
from retrieval_svc.segment import Segment
from retrieval_svc.sources import SourceQuery
from shortlist.live import EventColumns
from shortlist.tiers import RetrieveQuery

__all__ = ["NEVER_MS", "Expiries", "Part", "Question", "Snapshot", "Standing", "Times"]

Times = npt.NDArray[np.int64]

NEVER_MS = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiries:
    """When items fall out by themselves; of most there is no such time."""

    rows: Rows  # int64 [m], ascending: rows that count for such an item
    times_ms: Times  # int64 [m]

    @staticmethod
    def none() -> Expiries:
        return Expiries(rows=np.empty(0, np.int64), times_ms=np.empty(0, np.int64))

    @staticmethod
    def of(expires_ms: Times) -> Expiries:
        """`expires_ms` is int64 [n], of every row; 0 = never."""
        rows = np.flatnonzero(expires_ms)
        return Expiries(rows=rows, times_ms=expires_ms[rows])

    def changed(self, rows: Rows, expires_ms: Times) -> Expiries:
        """With other times of some rows, which ascend; 0 = never."""
        if not len(self.rows) and not expires_ms.any():
            return self
        others = kept(self.rows, rows)
        together = np.concatenate([self.rows[others], rows[expires_ms > 0]])
        times = np.concatenate([self.times_ms[others], expires_ms[expires_ms > 0]])
        order = np.argsort(together)
        return Expiries(rows=together[order], times_ms=times[order])

    def of_rows(self, n: int) -> Times:
        """int64 [n], 0 = never."""
        expires_ms = np.zeros(n, np.int64)
        expires_ms[self.rows] = self.times_ms
        return expires_ms


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Which of the n rows of a segment count."""

    listed: Bools  # bool [n]: the row describes its item
    learned: Bools  # bool [n]: the row knows what happened to its item
    expiries: Expiries
    homes: Rows | None = None  # int64 [n]: the base's row that knows what happened, -1 = this one

    @staticmethod
    def all(n: int) -> Standing:
        every = np.ones(n, np.bool_)
        return Standing(listed=every, learned=every, expiries=Expiries.none())

    @staticmethod
    def none(n: int) -> Standing:
        nobody = np.zeros(n, np.bool_)
        return Standing(listed=nobody, learned=nobody, expiries=Expiries.none())

    @cached_property
    def items(self) -> int:
        """How many items are described."""
        return int(np.count_nonzero(self.listed))

    @cached_property
    def listed_rows(self) -> RowMask | None:
        """None = all."""
        return None if self.items == len(self.listed) else RowMask(self.listed)

    @cached_property
    def learned_rows(self) -> RowMask | None:
        """None = all."""
        return None if self.learned.all() else RowMask(self.learned)

    @cached_property
    def knows_happenings(self) -> bool:
        return bool(self.learned.any())

    @cached_property
    def next_expiry_ms(self) -> int:
        """When the next item falls out by itself."""
        rows = self.expiries.rows
        times = self.expiries.times_ms[self.listed[rows] | self.learned[rows]]
        return int(times.min(initial=NEVER_MS))

    def at(self, now_ms: int) -> Standing:
        """Without what has expired."""
        if now_ms < self.next_expiry_ms:
            return self
        return self.without(self.expiries.rows[self.expiries.times_ms <= now_ms])

    def without(self, rows: Rows) -> Standing:
        """`rows` do not count."""
        if not (self.listed[rows].any() or self.learned[rows].any()):
            return self
        listed, learned = self.listed.copy(), self.learned.copy()
        listed[rows] = learned[rows] = False
        return replace(self, listed=listed, learned=learned)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A segment, and which of its rows count."""

    segment: Segment
    standing: Standing

    @staticmethod
    def whole(segment: Segment) -> Part:
        """All rows count, until their items expire."""
        standing = Standing.all(len(segment))
        expires_ms = segment.items.expires_ms
        if expires_ms.any():
            standing = replace(standing, expiries=Expiries.of(expires_ms))
        return Part(segment=segment, standing=standing)

    def observing(self, events: EventColumns, newest_ms: int) -> Part:
        """The sources know of `events`, too; the same rows count."""
        return replace(self, segment=self.segment.observing(events, newest_ms))

    def at(self, now_ms: int) -> Part:
        """Without what has expired."""
        return replace(self, standing=self.standing.at(now_ms))

    def rows_to_keep(self, newer: Keys) -> Rows:
        """int64, ascending: rows that count, and those of items that are gone of which nobody else
        knows what happened: neither the base nor the newer segments, which have the items `newer`.
        """
        only_here = ~np.isin(self.segment.keys, newer)
        if self.standing.homes is not None:
            only_here &= self.standing.homes < 0
        return np.flatnonzero(self.standing.listed | only_here)

    def find(self, keys: Keys) -> tuple[Rows, Bools]:
        """The row that describes each of `keys`, and whether there is one."""
        rows, known = rows_of(self.segment.keys, keys)
        if known.any():
            known &= self.standing.listed[rows]
        return rows, known


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A query to the sources of one part."""

    described: SourceQuery  # for sources that know items by the catalogue
    happened: SourceQuery  # for the others
    excluded: int  # items that the query excludes
    filtered: int  # items that do not match its filter


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All parts of a slice at one moment. Immutable; any thread may ask."""

    base: Part
    segments: tuple[Part, ...] = ()  # oldest first
    # Items that were gone when the base was built anew. Should they come back, what happened to
    # them is known; until then it is no part of any answer.
    shelf: Part | None = None
    _moved: WeakKeyDictionary[RowMask, RowMask] = field(default_factory=WeakKeyDictionary)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.base, *self.segments)

    @cached_property
    def items(self) -> int:
        return sum(part.standing.items for part in self.parts)

    @cached_property
    def next_expiry_ms(self) -> int:
        return min(part.standing.next_expiry_ms for part in self.parts)

    def at(self, now_ms: int) -> Snapshot:
        """Without what has expired."""
        if now_ms < self.next_expiry_ms:
            return self
        segments = tuple(part.at(now_ms) for part in self.segments)
        return replace(self, base=self.base.at(now_ms), segments=segments, _moved=_no_masks())

    def exact(self) -> Snapshot:
        """The same with sources that miss nothing."""
        base, *segments = (replace(part, segment=part.segment.exact) for part in self.parts)
        return replace(self, base=base, segments=tuple(segments), _moved=_no_masks())

    def questions(self, query: RetrieveQuery) -> list[Question]:
        """The query, part by part. Raises `InvalidField` for a filter that cannot be answered."""
        asked = SourceQuery(user=query.user)
        matching = [part.segment.items.matching(query.filter) for part in self.parts]
        happened = [self._where_it_happened(matching), *matching[1:]]
        return [
            _question(part, asked, query.exclude, *masks)
            for part, *masks in zip(self.parts, matching, happened, strict=True)
        ]

    def propose(self, name: str, questions: Sequence[Question], k: int) -> tuple[Keys, Floats]:
        """The best `k` items of a source over all parts, best first, and their scores."""
        found = [
            _ask(part, name, question, k)
            for part, question in zip(self.parts, questions, strict=True)
        ]
        keys, scores = (np.concatenate(column) for column in zip(*found, strict=True))
        if sum(len(mine) > 0 for mine, _ in found) <= 1:
            return keys, scores
        # Scores of parts mean the same, like those of shards, and ties go by key as in each part.
        order = np.lexsort((keys, -scores))[:k]
        return keys[order], scores[order]

    def has(self, keys: Keys) -> Bools:
        """bool [len(keys)]: which items there are."""
        there = np.zeros(len(keys), np.bool_)
        for part in self.parts:
            there |= part.find(keys)[1]
        return there

    def cards(
        self, keys: Keys, fields: tuple[str, ...], groups: bool = True
    ) -> tuple[Keys, Floats, CardColumns]:
        """Those of `keys` that are here, in the order asked, their vectors, and what is said of
        them. Raises `InvalidField` for fields that no item has.
        """
        found: list[tuple[Rows, Floats, CardColumns]] = []
        for part in self.parts:
            rows, here = part.find(keys)
            if here.any() or part is self.base:
                cards = part.segment.items.cards(rows[here], fields, groups)
                found.append((np.flatnonzero(here), part.segment.vectors[rows[here]], cards))
        places, vectors, columns = zip(*found, strict=True)
        order = np.argsort(np.concatenate(places))
        asked = np.concatenate(places)[order]
        return keys[asked], np.concatenate(vectors)[order], _in_order(columns, order)

    def _where_it_happened(self, matching: Sequence[RowMask | None]) -> RowMask | None:
        """The base's rows whose items match the filter as they are now; None = all."""
        mask = matching[0]
        moved = [
            (part.standing.listed, homes, other)
            for part, other in zip(self.segments, matching[1:], strict=True)
            if (homes := part.standing.homes) is not None and homes.max(initial=-1) >= 0
        ]
        if mask is None or not moved:
            return mask
        found = self._moved.get(mask)
        if found is None:
            passes = mask.passes.copy()
            for listed, homes, other in moved:
                rows = np.flatnonzero(listed & (homes >= 0))
                passes[homes[rows]] = True if other is None else other.passes[rows]
            found = self._moved[mask] = RowMask(passes)
        return found


def _no_masks() -> WeakKeyDictionary[RowMask, RowMask]:
    return WeakKeyDictionary()


def _question(
    part: Part,
    asked: SourceQuery,
    exclude: Keys,
    matching: RowMask | None,
    happened: RowMask | None,
) -> Question:
    standing = part.standing
    rows, known = rows_of(part.segment.keys, exclude)
    mine = np.unique(rows[known]) if known.any() else NO_ROWS
    described = Allowed(exclude=mine, mask=standing.listed_rows).where(matching)
    matched = standing.items if described.mask is None else described.mask.count
    return Question(
        described=asked.where(described),
        happened=asked.where(Allowed(exclude=mine, mask=standing.learned_rows).where(happened)),
        excluded=int(np.count_nonzero(standing.listed[mine])),
        filtered=standing.items - matched,
    )


def _ask(part: Part, name: str, question: Question, k: int) -> tuple[Keys, Floats]:
    segment, standing = part.segment, part.standing
    described = name in segment.catalogue_sources
    if not (standing.items if described else standing.knows_happenings):
        return segment.keys[:0], np.empty(0, np.float32)
    query = question.described if described else question.happened
    rows, scores = segment.sources[name].propose(query, k)
    return segment.keys[rows], scores


def _in_order(columns: Sequence[CardColumns], order: npt.NDArray[np.intp]) -> CardColumns:
    """The cards of several parts as one, `order` saying which comes where."""
    if len(columns) == 1:
        return columns[0]  # in the order asked already

    def arranged(values: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
        together = [value for part in values for value in part]
        return tuple(together[place] for place in order.tolist())

    return CardColumns(
        ids=arranged([one.ids for one in columns]),
        titles=arranged([one.titles for one in columns]),
        groups={
            name: arranged([one.groups[name] for one in columns]) for name in columns[0].groups
        },
        attributes=arranged([one.attributes for one in columns]),
    )
