"""The strongest entries of each row of a sparse matrix, without a loop over rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

__all__ = ["top_per_row"]

_CELLS = 1 << 21  # of the padded blocks; bounds the memory beside the matrix itself

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def top_per_row(matrix: sp.csr_matrix, count: int) -> sp.csr_matrix:
    """The largest `count` stored entries of each row; of equal ones, those of smaller columns.

    `matrix` holds floats, no NaN and no entry twice; its columns may stand in any order. The result
    has the same shape and type, with ascending columns. Linear in the entries, but for ties.
    """
    if count < 1:
        return sp.csr_matrix(matrix.shape, dtype=matrix.dtype)
    lengths = np.diff(matrix.indptr)
    kept = np.ones(matrix.nnz, bool)
    for rows in _blocks(lengths, count):
        width = int(lengths[rows].max())
        present = np.arange(width) < lengths[rows, None]
        places = np.where(present, matrix.indptr[rows, None] + np.arange(width), 0)
        values = np.where(present, matrix.data[places], matrix.dtype.type(-np.inf))
        chosen = _largest(values, matrix.indices[places], count)
        kept[places[present]] = chosen[present]
    ends = np.minimum(lengths, count).cumsum()
    top = sp.csr_matrix(
        (matrix.data[kept], matrix.indices[kept], np.concatenate([[0], ends])), shape=matrix.shape
    )
    top.sort_indices()
    return top


def _blocks(lengths: npt.NDArray[np.int32], count: int) -> Iterator[Rows]:
    """Rows longer than `count`, those of like length together: at most half of a block is padding.

    There are few blocks: one for each power of two, more only where one would be too large.
    """
    longer = np.flatnonzero(lengths > count)
    magnitudes = np.frexp(lengths[longer])[1]
    for magnitude in np.unique(magnitudes):
        rows = longer[magnitudes == magnitude]
        step = max(_CELLS >> int(magnitude), 1)
        for start in range(0, len(rows), step):
            yield rows[start : start + step]


def _largest(values: npt.NDArray[np.floating], columns: npt.NDArray[np.int32], count: int) -> Mask:
    """Where the largest `count` of each row are; each row has more than `count`."""
    threshold = -np.partition(-values, count - 1, axis=1)[:, count - 1 : count]
    chosen, tied = values > threshold, values == threshold
    room = count - chosen.sum(axis=1)
    chosen |= tied
    crowded = np.flatnonzero(tied.sum(axis=1) > room)
    if len(crowded):
        beyond = np.iinfo(columns.dtype).max
        in_question = np.where(tied[crowded], columns[crowded], beyond)
        last = np.sort(in_question, axis=1)[np.arange(len(crowded)), room[crowded] - 1]
        chosen[crowded] &= ~tied[crowded] | (columns[crowded] <= last[:, None])
    return chosen
