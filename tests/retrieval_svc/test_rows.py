from __future__ import annotations

import numpy as np

from retrieval_svc.rows import NO_ROWS, kept, rows_of

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
