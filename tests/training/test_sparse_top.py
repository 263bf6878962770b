from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp

from training import sparse_top
from training.sparse_top import top_per_row


def by_hand(matrix: sp.csr_matrix, count: int) -> npt.NDArray[np.float64]:
    """The same, one row at a time."""
    top = np.zeros(matrix.shape)
    for row in range(matrix.shape[0]):
        span = slice(matrix.indptr[row], matrix.indptr[row + 1])
        columns, values = matrix.indices[span], matrix.data[span]
        best = np.lexsort([columns, -values])[:count]
        top[row, columns[best]] = values[best]
    return top


def random_matrix(seed: int, rows: int = 60, columns: int = 50) -> sp.csr_matrix:
    """Rows of all lengths, few different values, columns in no order."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, columns + 1, rows)
    indices = [rng.permutation(columns)[:length] for length in lengths]
    return sp.csr_matrix(
        (
            rng.integers(1, 6, lengths.sum()).astype(np.float32),
            np.concatenate(indices),
            np.concatenate([[0], lengths.cumsum()]),
        ),
        shape=(rows, columns),
    )


def test_the_largest_entries_of_each_row_stay() -> None:
    matrix = sp.csr_matrix(np.array([[3.0, 1, 2, 0], [0, 0, 0, 9], [0, 0, 0, 0]]))
    assert top_per_row(matrix, 2).toarray().tolist() == [[3, 0, 2, 0], [0, 0, 0, 9], [0, 0, 0, 0]]


def test_of_equal_entries_those_of_smaller_columns_stay() -> None:
    matrix = sp.csr_matrix(
        (np.ones(4, np.float32), np.array([3, 0, 2, 1]), np.array([0, 4])), shape=(1, 4)
    )
    assert top_per_row(matrix, 2).indices.tolist() == [0, 1]


def test_negative_entries_are_entries() -> None:
    matrix = sp.csr_matrix(np.array([[-3.0, -1, -2]]))
    assert top_per_row(matrix, 2).toarray().tolist() == [[0, -1, -2]]


@pytest.mark.parametrize("count", [1, 2, 7, 50, 100])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_sorting_each_row_gives(count: int, seed: int) -> None:
    matrix = random_matrix(seed)
    top = top_per_row(matrix, count)
    np.testing.assert_array_equal(top.toarray(), by_hand(matrix, count))
    assert top.has_canonical_format
    assert top.dtype == matrix.dtype


def test_rows_come_in_blocks_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_top, "_CELLS", 128)
    matrix = random_matrix(7)
    np.testing.assert_array_equal(top_per_row(matrix, 3).toarray(), by_hand(matrix, 3))


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0), (3, 3)])
def test_nothing_stays_of_nothing(shape: tuple[int, int], count: int) -> None:
    top = top_per_row(sp.csr_matrix(shape, dtype=np.float32), count)
    assert top.shape == shape
    assert top.nnz == 0


def test_the_matrix_itself_does_not_change() -> None:
    matrix = random_matrix(1)
    before = matrix.copy()
    top_per_row(matrix, 2)
    np.testing.assert_array_equal(matrix.indices, before.indices)
    np.testing.assert_array_equal(matrix.data, before.data)
