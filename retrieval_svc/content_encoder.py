"""From an item's features to its content vector: TF-IDF, in a few dozen dimensions.

`training.sources.content` learns what a token says and the dimensions; this computes the vector of
an item, there and here, so that an item that is described anew lies where training would put it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import ArtifactCorrupt
from shortlist.features import FeatureEncoder

__all__ = ["LEAST", "ContentEncoder", "number_weight", "token_weights", "unit_or_zero"]

Floats = npt.NDArray[np.float32]

LEAST = 1e-6  # length of a row that says something

_NUMBERS = 0.5  # weight of all numbers together, beside 1 of each feature of words or values
_BLOCK = 1024  # rows encoded at a time


class ContentEncoder:
    """Encodes items into the space of one version's content vectors."""

    def __init__(self, *, features: FeatureEncoder, idf: Floats, basis: Floats) -> None:
        """`idf` is float32 [tokens], token 1 first; `basis` float32 [tokens + numbers, d].

        Raises `ArtifactCorrupt` when they do not fit the features.
        """
        terms = features.vocabulary_size - 1
        if idf.shape != (terms,) or len(basis) != terms + len(features.numeric_features):
            raise ArtifactCorrupt(
                f"content/idf.npy {idf.shape} and basis.npy {basis.shape} do not fit "
                f"{terms} tokens and {len(features.numeric_features)} numbers"
            )
        self._features = features
        self._idf = idf
        self._numbers = basis[terms:] * number_weight(features)
        # Token 0 is none.
        self._tokens = np.concatenate([np.zeros((1, basis.shape[1]), np.float32), basis[:terms]])

    def encode(self, columns: Mapping[str, Sequence[Any]], rows: int) -> Floats:
        """float32 [rows, d], each of unit length, or zero where nothing is said of the item.

        `columns` holds one value a row by feature name (None = missing).
        """
        blocks = [
            self._encode(
                {name: values[start : start + _BLOCK] for name, values in columns.items()},
                min(_BLOCK, rows - start),
            )
            for start in range(0, rows, _BLOCK)
        ]
        return np.concatenate([np.empty((0, self._tokens.shape[1]), np.float32), *blocks])

    def _encode(self, columns: Mapping[str, Sequence[Any]], rows: int) -> Floats:
        about = self._features.encode(columns, rows)
        weights = token_weights(self._features, about.tokens, self._idf)
        words = np.einsum("ns,nsd->nd", weights, self._tokens[about.tokens])
        return unit_or_zero(words + about.numeric @ self._numbers)


def token_weights(features: FeatureEncoder, tokens: npt.NDArray[np.int32], idf: Floats) -> Floats:
    """float32 [n, slots]: what each token of a row says; those of a feature have length 1."""
    weights = np.concatenate([np.zeros(1, np.float32), idf])[tokens]
    for feature in features.token_features:
        own = weights[:, feature.first_slot : feature.first_slot + feature.slots]
        lengths = np.sqrt(np.einsum("ns,ns->n", own, own))
        own /= np.maximum(lengths, LEAST)[:, None]
    return weights


def number_weight(features: FeatureEncoder) -> np.float32:
    """What each number of an item counts."""
    return np.float32(_NUMBERS / np.sqrt(max(len(features.numeric_features), 1)))


def unit_or_zero(vectors: Floats) -> Floats:
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return np.where(lengths > LEAST, vectors / np.maximum(lengths, LEAST), 0).astype(np.float32)
