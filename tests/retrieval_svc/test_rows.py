from __future__ import annotations

import numpy as np

from retrieval_svc.rows import NO_ROWS, kept, places_of, ranges, rows_of

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
