"""Which interactions train, which choose among models, and which judge the result.

`time` cuts all users at the same moments, so nothing that a model learns from lies after what it is
judged on. `leave_last_out` and `random` divide each user's items: every row of a (user, item) pair
goes to one part, since a pair seen in training cannot be a recommendation to judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from shortlist.errors import ShortlistError
from shortlist.schema import SplitPlan

__all__ = [
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Learned",
    "SplitImpossible",
    "TimeCut",
    "carve_validation",
    "cut_by_time",
    "held_out_of_log",
    "leave_last_out",
    "random_by_user",
]

TRAIN: Final = 0
VALIDATION: Final = 1
TEST: Final = 2

# Of a log that grows, so many of the newest interactions at least judge what the rest teaches.
_FEWEST_TO_JUDGE: Final = 200
# leave_last_out takes two items of a user away, and one has to stay.
_FEWEST_ITEMS: Final = 3

Codes = npt.NDArray[np.int8]
Rows = npt.NDArray[np.int64]
Groups = npt.NDArray[np.int32] | npt.NDArray[np.int64]  # the user, or the item, of each row


class SplitImpossible(ShortlistError):
    """The data cannot be divided as the schema asks."""

    status_name = "INVALID_ARGUMENT"


@dataclass(frozen=True, kw_only=True)
class TimeCut:
    """The moments between the parts: a row belongs to the first part that ends after it."""

    train_end_ms: int
    validation_end_ms: int
    test_end_ms: int

    def codes(self, time_ms: Rows) -> Codes:
        ends = np.array([self.train_end_ms, self.validation_end_ms])
        return np.searchsorted(ends, time_ms, side="right").astype(np.int8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What a version has learned from; the rest judges it, and is counted while it serves."""

    log_sequence: int  # logged interactions up to and with this number
    imported_before_ms: int | None  # imported ones before this moment; None = all

    def of(self, sequence: Rows, time_ms: Rows) -> npt.NDArray[np.bool_]:
        """Which rows are learned from; `sequence` is 0 of imported ones. bool [n]"""
        before = self.imported_before_ms
        imported = True if before is None else time_ms < before
        return np.where(sequence > 0, sequence <= self.log_sequence, imported)

    def later_of(self, other: Learned) -> Learned:
        """What one or the other has learned from."""
        ends = (self.imported_before_ms, other.imported_before_ms)
        known = [end for end in ends if end is not None]
        return Learned(
            log_sequence=max(self.log_sequence, other.log_sequence),
            imported_before_ms=max(known) if len(known) == len(ends) else None,
        )


def held_out_of_log(logged: int, plan: SplitPlan, *, tested: int) -> int:
    """How many of the newest rows to test with, in the order of their arrival, once events are
    logged; `tested` rows of the import were.

    It is a share of what was logged and not of everything, so that most of what has just happened
    is learned from; but no fewer than are needed to judge by.
    """
    if plan.test_fraction == 0:
        return 0
    return max(round(logged * plan.test_fraction), min(tested, _FEWEST_TO_JUDGE))


def cut_by_time(sorted_ms: Rows, plan: SplitPlan) -> TimeCut:
    """Cut between two moments, as near to the fractions of `plan` as equal times allow.

    `sorted_ms` is ascending, int64 [n]. Raises `SplitImpossible` when a part that was asked for
    would be empty.
    """
    n = len(sorted_ms)
    end_ms = int(sorted_ms[-1]) + 1
    validation_end = _moment(sorted_ms, n * (1 - plan.test_fraction), end_ms)
    train_share = 1 - plan.test_fraction - plan.validation_fraction
    train_end = _moment(sorted_ms, n * train_share, end_ms)
    cut = TimeCut(train_end_ms=train_end, validation_end_ms=validation_end, test_end_ms=end_ms)
    rows = np.bincount(cut.codes(sorted_ms), minlength=3)
    wanted = (1.0, plan.validation_fraction, plan.test_fraction)
    for part, count, share in zip(("train", "validation", "test"), rows, wanted, strict=True):
        if share > 0 and count == 0:
            raise SplitImpossible(
                f"a split by time leaves nothing for {part}: {n} interactions at "
                f"{len(np.unique(sorted_ms))} different times; use another `split.method`"
            )
    return cut


def leave_last_out(user: Groups, item: Groups, positive: npt.NDArray[np.bool_]) -> Codes:
    """Each user's last new item is test, the one before validation. int8 [n]

    Rows are in order of time. An item counts from its first row on, and only if a row of it is
    `positive`; users with fewer than three such items keep all of them for training.
    """
    pairs = _Pairs.of(user, item)
    taste = np.zeros(pairs.count, dtype=bool)
    taste[pairs.of_row[positive]] = True
    ranked = np.flatnonzero(taste)
    ranked = ranked[np.lexsort((pairs.first_row[ranked], pairs.user[ranked]))]
    size, place = _place_in_group(pairs.user[ranked])
    place_from_end = size - 1 - place
    codes = np.zeros(pairs.count, dtype=np.int8)
    enough = size >= _FEWEST_ITEMS
    codes[ranked[enough & (place_from_end == 0)]] = TEST
    codes[ranked[enough & (place_from_end == 1)]] = VALIDATION
    return codes[pairs.of_row]


def random_by_user(user: Groups, item: Groups, plan: SplitPlan) -> Codes:
    """The fractions of each user's items, drawn by `plan.seed`. int8 [n]

    A user's share is rounded up or down at random, so that users with few items are tested too;
    at least one item of a user stays for training.
    """
    pairs = _Pairs.of(user, item)
    rng = np.random.default_rng(plan.seed)
    order = np.lexsort((rng.random(pairs.count), pairs.user))
    size, place = _place_in_group(pairs.user[order])
    luck = rng.random(pairs.count)[_first_of_group(pairs.user[order])]
    test = np.floor(size * plan.test_fraction + luck)
    held_out = np.floor(size * (plan.test_fraction + plan.validation_fraction) + luck)
    held_out = np.minimum(held_out, size - 1)
    codes = np.zeros(pairs.count, dtype=np.int8)
    codes[order] = np.where(place < np.minimum(test, held_out), TEST, VALIDATION)
    codes[order[place >= held_out]] = TRAIN
    return codes[pairs.of_row]


def carve_validation(user: Groups, item: Groups, given: Codes, plan: SplitPlan) -> Codes:
    """Take `plan.validation_fraction` of each user's training items for validation. int8 [n]"""
    train = np.flatnonzero(given == TRAIN)
    alone = plan.model_copy(update={"test_fraction": 0.0})
    codes = given.copy()
    codes[train] = random_by_user(user[train], item[train], alone)
    return codes


def _moment(sorted_ms: Rows, place: float, end_ms: int) -> int:
    """The time at a place in the order; rows before it stand on its left."""
    at = round(place)
    return int(sorted_ms[at]) if at < len(sorted_ms) else end_ms


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """The distinct (user, item) pairs, sorted by user."""

    of_row: Rows  # [n rows] -> pair
    user: Groups  # [n pairs]
    first_row: Rows  # [n pairs]

    @property
    def count(self) -> int:
        return len(self.user)

    @classmethod
    def of(cls, user: Groups, item: Groups) -> _Pairs:
        order = np.lexsort((item, user))
        is_new = np.ones(len(order), dtype=bool)
        is_new[1:] = (np.diff(user[order]) != 0) | (np.diff(item[order]) != 0)
        of_row = np.empty(len(order), dtype=np.int64)
        of_row[order] = np.cumsum(is_new) - 1
        # lexsort is stable, so the first of equal rows is the earliest.
        first = order[is_new]
        return cls(of_row=of_row, user=user[first], first_row=first)


def _first_of_group(sorted_groups: Groups) -> Rows:
    """For each row of sorted groups: where its group starts."""
    starts = np.flatnonzero(np.diff(sorted_groups, prepend=sorted_groups[:1] - 1))
    return np.repeat(starts, np.diff(starts, append=len(sorted_groups)))


def _place_in_group(sorted_groups: Groups) -> tuple[Rows, Rows]:
    """For each row of sorted groups: the size of its group, and its place in it from 0."""
    start = _first_of_group(sorted_groups)
    sizes = np.bincount(start, minlength=len(start))
    return sizes[start], np.arange(len(start)) - start
