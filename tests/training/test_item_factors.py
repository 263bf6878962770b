from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from training.item_factors import item_factors


def tastes(users: int = 60, items: int = 40, kinds: int = 4, seed: int = 0) -> sp.csr_matrix:
    """Users of each kind like items of their kind."""
    rng = np.random.default_rng(seed)
    same = np.arange(users)[:, None] % kinds == np.arange(items) % kinds
    return sp.csr_matrix((same & (rng.random((users, items)) < 0.5)).astype(np.float32))


def test_items_that_the_same_users_like_point_the_same_way() -> None:
    factors = item_factors(tastes(), 4)
    assert factors.shape == (40, 4)
    assert factors.dtype == np.float32
    cosines = factors @ factors.T
    same = np.arange(40)[:, None] % 4 == np.arange(40) % 4
    assert cosines[same].min() > 0.99
    assert np.abs(cosines[~same]).max() < 0.01


def test_they_span_what_a_full_decomposition_spans() -> None:
    rng = np.random.default_rng(1)
    liked = sp.csr_matrix((rng.random((50, 30)) < 0.3).astype(np.float32))
    dense = liked.toarray()
    scaled = dense / np.sqrt(dense.sum(1, keepdims=True)) / np.sqrt(dense.sum(0))
    expected = np.linalg.svd(scaled)[2][:3].T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    factors = item_factors(liked, 3)
    np.testing.assert_allclose(factors @ factors.T, expected @ expected.T, atol=0.02)


def test_items_that_nobody_likes_have_no_direction() -> None:
    liked = tastes()
    liked = sp.hstack([liked, sp.csr_matrix((60, 2))]).tocsr()
    factors = item_factors(liked, 8)
    assert not factors[-2:].any()
    np.testing.assert_allclose(np.linalg.norm(factors[:-2], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 4)])
def test_small_or_empty_data_have_fewer_directions(shape: tuple[int, int]) -> None:
    assert not item_factors(sp.csr_matrix(shape, dtype=np.float32), 8).any()
    factors = item_factors(sp.csr_matrix(np.ones(shape, np.float32)), 8)
    assert factors.shape == (shape[1], min(shape))
    np.testing.assert_allclose(np.abs(factors @ factors.T), 1, atol=1e-3)


def test_the_seed_decides() -> None:
    first, again = item_factors(tastes(), 6, seed=3), item_factors(tastes(), 6, seed=3)
    np.testing.assert_array_equal(first, again)
