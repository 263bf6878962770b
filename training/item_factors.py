"""Directions of taste: what a truncated SVD finds in who likes what."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

__all__ = ["item_factors"]

_SPARE = 16  # directions beyond those wanted, so that the wanted ones are found well
_ROUNDS = 4
_NEGLIGIBLE = 1e-6  # of the strongest direction: rounding, not taste


def item_factors(liked: sp.csr_matrix, dim: int, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """Unit vectors of items, float32 [items, at most dim]; zeros for those that nobody likes.

    `liked` is [users, items] with 1 where a user likes an item. Its rows and columns are divided by
    the roots of their sums, so that heavy users and popular items do not fill all directions (Shen
    et al., CIKM 2021); the directions are found by randomised subspace iteration (Halko et al.,
    SIAM Review 2011). The cosine of two items is how alike the tastes are that they meet.
    """
    normalised = _scale(liked.shape[0], liked.sum(axis=1)) @ liked
    normalised = (normalised @ _scale(liked.shape[1], liked.sum(axis=0))).astype(np.float32)
    vectors = _strongest_directions(normalised, min(dim, *liked.shape), seed)
    vectors[np.asarray(liked.sum(axis=0)).ravel() == 0] = 0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def _scale(size: int, sums: Any) -> sp.dia_matrix:
    return sp.diags(np.maximum(np.asarray(sums).ravel(), 1) ** -0.5, shape=(size, size))


def _strongest_directions(matrix: sp.csr_matrix, count: int, seed: int) -> npt.NDArray[np.float32]:
    """The right singular vectors of the largest singular values, [columns, count]."""
    width = min(count + _SPARE, *matrix.shape)
    across = matrix.T.tocsr()
    start = np.random.default_rng(seed).normal(size=(matrix.shape[1], width))
    basis = np.linalg.qr(start.astype(np.float32))[0]
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(across @ (matrix @ basis))[0]
    image = matrix @ basis
    strengths, turn = np.linalg.eigh((image.T @ image).astype(np.float64))
    turn[:, strengths <= _NEGLIGIBLE * max(strengths[-1], _NEGLIGIBLE)] = 0
    return basis @ turn[:, ::-1][:, :count].astype(np.float32)
