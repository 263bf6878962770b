from __future__ import annotations

import weakref

import numpy as np

from retrieval_svc.rows import (
    EVERY_ROW,
    NO_ROWS,
    Allowed,
    RowMask,
    kept,
    places_of,
    ranges,
    rows_of,
)

OWNED = np.array([2, 5, 9], np.uint64)


def test_known_keys_get_their_rows_and_unknown_ones_are_marked() -> None:
    rows, known = rows_of(OWNED, np.array([9, 3, 2, 2**64 - 1], np.uint64))
    assert known.tolist() == [True, False, True, False]
    assert rows[known].tolist() == [2, 0]


def test_an_empty_slice_knows_nothing() -> None:
    rows, known = rows_of(OWNED[:0], OWNED)
    assert len(rows) == 3
    assert not known.any()


def test_excluded_rows_are_not_kept() -> None:
    rows = np.array([7, 0, 3, 9], np.int64)
    assert kept(rows, np.array([0, 3, 8], np.int64)).tolist() == [True, False, False, True]
    assert kept(rows, NO_ROWS).all()


def test_the_places_of_some_rows_among_others() -> None:
    rows = np.array([2, 5, 6, 9], np.int64)
    assert places_of(rows, np.array([0, 5, 7, 9, 11], np.int64)).tolist() == [1, 3]
    assert len(places_of(rows, NO_ROWS)) == len(places_of(NO_ROWS, rows)) == 0


def test_ranges_stand_side_by_side_and_empty_ones_take_no_room() -> None:
    first, sizes = np.array([7, 0, 3, 9]), np.array([2, 0, 3, 0])
    assert ranges(first, sizes).tolist() == [7, 8, 3, 4, 5]
    assert len(ranges(NO_ROWS, NO_ROWS)) == 0


def test_what_is_allowed_passes_the_mask_and_is_not_excluded() -> None:
    rng = np.random.default_rng(4)
    for share in (None, 0.0, 0.02, 0.5, 1.0):
        passes = rng.random(500) < (1.0 if share is None else share)
        exclude = np.unique(rng.integers(500, size=40))
        mask = None if share is None else RowMask(passes.copy())
        allowed = Allowed(exclude=exclude, mask=mask)
        passes[exclude] = False
        assert allowed.count(500) == np.count_nonzero(passes)
        assert allowed.rows(500).tolist() == np.flatnonzero(passes).tolist()
        any_order = rng.permutation(500)[:300]
        assert allowed.keep(any_order).tolist() == passes[any_order].tolist()
        ascending = np.sort(any_order)
        assert allowed.keep_ascending(ascending).tolist() == passes[ascending].tolist()
        assert not allowed.everything


def test_every_row_is_allowed_unless_something_is_said() -> None:
    assert EVERY_ROW.everything
    assert EVERY_ROW.count(7) == 7
    assert EVERY_ROW.rows(3).tolist() == [0, 1, 2]
    assert EVERY_ROW.keep(np.array([2, 0])).all()
    assert EVERY_ROW.where(None).everything


def test_masks_of_one_query_hold_together() -> None:
    one, other = RowMask(np.array([1, 1, 0, 1], bool)), RowMask(np.array([0, 1, 1, 1], bool))
    allowed = Allowed(exclude=np.array([3])).where(one).where(None).where(other)
    assert allowed.rows(4).tolist() == [1]


def test_masks_that_meet_again_are_joined_once() -> None:
    one, other = RowMask(np.ones(3, bool)), RowMask(np.array([1, 0, 1], bool))
    joined = one.both(other)
    assert joined.rows.tolist() == [0, 2]
    assert one.both(other) is joined
    assert joined.rows is joined.rows
    gone = weakref.ref(other)
    del other
    assert gone() is None  # what is remembered keeps nothing alive
