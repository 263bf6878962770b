"""Where item vectors begin: the leading singular vectors of who liked what.

Users' and items' degrees are evened out first, so that neither the busiest users nor the most
popular items are all that the vectors tell of (PureSVD: Cremonesi et al., RecSys 2010; degrees:
Shen et al., "How powerful is graph convolution for recommendation?", CIKM 2021).
The decomposition is the randomized one of Halko, Martinsson & Tropp (SIAM Review 2011, section 5).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

__all__ = ["liked_spectrum", "spectral_vectors"]

Floats = npt.NDArray[np.float32]

# A matrix entry is weight / (weight of the user ** _OF_USER * weight of the item ** _OF_ITEM). Of
# the pairs of exponents that were tried on held-out items of three data sets, these are best on
# none and good on all (docs/published.md).
_OF_USER = 0.3
_OF_ITEM = 0.4
_LONGEST = 6.0  # times the root mean square of the lengths: longer ones are cut, and are 1 then
_OVERSAMPLED = 24  # columns beyond those wanted
_ROUNDS = 3  # of multiplying with the matrix and its transpose


def spectral_vectors(
    user: npt.NDArray[np.integer],
    item: npt.NDArray[np.integer],
    weight: Floats,
    *,
    users: int,
    items: int,
    dim: int,
    seed: int,
) -> Floats:
    """float32 [items, dim], at most 1 long: dot products say how well two items go together.

    Directions are those of `liked_spectrum`. An item is the longer, the more the tastes explain of
    it and the more popular it is: longest where both are, so that it is found first. An item that
    nobody liked has zeros.
    """
    vectors = liked_spectrum(user, item, weight, users=users, items=items, dim=dim, seed=seed)
    explained = np.linalg.norm(vectors, axis=1)
    popularity = np.bincount(item, weights=weight, minlength=items)
    length = np.sqrt(explained * np.sqrt(popularity))
    usual = np.sqrt(np.mean(np.square(length[length > 0]))) if length.any() else 1.0
    length = np.minimum(length / (_LONGEST * usual), 1)
    scale = np.divide(length, explained, out=np.zeros_like(length), where=explained > 0)
    return (vectors * scale[:, None]).astype(np.float32)


def liked_spectrum(
    user: npt.NDArray[np.integer],
    item: npt.NDArray[np.integer],
    weight: Floats,
    *,
    users: int,
    items: int,
    dim: int,
    seed: int,
) -> Floats:
    """float32 [items, dim]: an item's share in the strongest `dim` tastes, strongest first.

    Interactions are given as equally long columns, of weights above 0; those of a pair add up. A
    row is longer the more of the item the tastes explain, at most 1, and 0 for an item that nobody
    liked. Columns beyond the rank of the data are 0.
    """
    liked = _evened(csr_array((weight, (user, item)), shape=(users, items), dtype=np.float32))
    found = min(dim, users, items)
    width = min(found + _OVERSAMPLED, users, items)
    spread = np.random.default_rng(seed).standard_normal((items, width)).astype(np.float32)
    transposed = liked.T.tocsr()
    for _ in range(_ROUNDS):
        spread, _ = np.linalg.qr(transposed @ (liked @ spread))
    seen = liked @ spread
    strength, turn = np.linalg.eigh(seen.T @ seen)
    kept = np.argsort(-strength, kind="stable")[:found]
    # What is left of a direction that is not in the data is rounding.
    real = strength[kept] > 1e-6 * max(float(strength.max(initial=0)), 1e-30)
    vectors = np.zeros((items, dim), np.float32)
    vectors[:, : len(kept)] = (spread @ turn[:, kept]) * real
    return vectors


def _evened(liked: csr_array) -> csr_array:
    of_user = np.maximum(liked.sum(axis=1), 1e-12) ** -_OF_USER
    of_item = np.maximum(liked.sum(axis=0), 1e-12) ** -_OF_ITEM
    pairs = liked.tocoo()
    values = pairs.data * of_user[pairs.row] * of_item[pairs.col]
    return csr_array((values.astype(np.float32), (pairs.row, pairs.col)), shape=liked.shape)
