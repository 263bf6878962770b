from __future__ import annotations

import numpy as np
import pytest

from training.spectrum import liked_spectrum, spectral_vectors

USERS, ITEMS = 40, 30


def likes(seed: int = 0, rows: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Different pairs of users and items, all of weight 1."""
    chosen = np.random.default_rng(seed).choice(USERS * ITEMS, rows, replace=False)
    return chosen // ITEMS, chosen % ITEMS, np.ones(rows, np.float32)


def spectrum_of(*columns: np.ndarray, dim: int, seed: int = 0) -> np.ndarray:
    return liked_spectrum(*columns, users=USERS, items=ITEMS, dim=dim, seed=seed)


def test_it_spans_what_a_full_decomposition_finds() -> None:
    user, item, weight = likes()
    liked = np.zeros((USERS, ITEMS))
    liked[user, item] = weight
    evened = liked / liked.sum(1, keepdims=True) ** 0.3 / liked.sum(0, keepdims=True) ** 0.4
    _, strength, exact = np.linalg.svd(evened)
    found = spectrum_of(user, item, weight, dim=5)
    np.testing.assert_allclose(found @ found.T, exact[:5].T @ exact[:5], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(evened @ found, axis=0), strength[:5], rtol=1e-3)


def test_weights_of_a_pair_add_up() -> None:
    user, item, weight = likes()
    twice = spectrum_of(*(np.tile(column, 2) for column in (user, item, weight)), dim=4)
    once = spectrum_of(user, item, 2 * weight, dim=4)
    np.testing.assert_allclose(twice @ twice.T, once @ once.T, atol=1e-4)


def test_equal_seeds_give_equal_vectors() -> None:
    columns = likes()
    np.testing.assert_array_equal(spectrum_of(*columns, dim=6), spectrum_of(*columns, dim=6))


def test_columns_beyond_the_rank_are_zero() -> None:
    user, item = np.divmod(np.arange(60), 10)  # six users like the same ten items
    found = spectrum_of(user, item, np.ones(60, np.float32), dim=50)
    assert found.shape == (ITEMS, 50)
    assert not found[:, 1:].any()
    np.testing.assert_allclose(np.abs(found[:10, 0]), 10**-0.5, rtol=1e-4)
    assert not found[10:].any()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_vectors_are_at_most_1_long_whatever_the_weights(scale: float) -> None:
    user, item, weight = likes()
    item = item // 2  # items of the upper half are never liked
    vectors = spectral_vectors(
        user, item, weight * np.float32(scale), users=USERS, items=ITEMS, dim=8, seed=0
    )
    lengths = np.linalg.norm(vectors, axis=1)
    assert vectors.dtype == np.float32
    assert lengths[:15].mean() > 0.05
    assert lengths.max() <= 1 + 1e-6
    assert not vectors[15:].any()


def test_items_that_the_same_users_like_go_together_and_popular_ones_are_longer() -> None:
    rng = np.random.default_rng(0)
    user = rng.integers(USERS, size=400)
    falling = np.arange(15, 0, -1) / 120
    item = 2 * rng.choice(15, size=400, p=falling) + user % 2  # low numbers are popular
    user, item = np.unique(np.stack([user, item]), axis=1)
    weight = np.ones(len(user), np.float32)
    vectors = spectral_vectors(user, item, weight, users=USERS, items=ITEMS, dim=6, seed=0)
    together = vectors @ vectors.T
    assert together[0, 2] > 5 * abs(together[0, 1])
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths[:4].mean() > lengths[-4:].mean()
