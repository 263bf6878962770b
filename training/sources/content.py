"""Items by what is said of them: TF-IDF of all their features, in a few dozen dimensions.

Latent semantic analysis (Deerwester et al., JASIS 1990) by a randomised SVD (Halko, Martinsson &
Tropp, SIAM Review 2011). It needs no interaction, so it knows an item from its first moment.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from retrieval_svc.content_encoder import number_weight, token_weights, unit_or_zero
from retrieval_svc.source_data import SharedData, SourceData
from shortlist.features import Encoded, FeatureEncoder
from training.encoding import entity_columns
from training.sources.base import Absent, Floats, SourceLesson, TrainedSource
from training.sources.contrast import choose_contrast, taste_with

__all__ = ["train"]

NAME = "content"
_EXTRA, _POWERS = 16, 3  # of the randomised SVD: spare dimensions, passes over the data


def train(lesson: SourceLesson) -> TrainedSource | Absent:
    """A unit vector an item, zeros for items without features, and how to make another."""
    dataset = lesson.dataset
    features = dataset.schema.item_features
    columns = entity_columns(dataset.items, features)
    encoder = FeatureEncoder.fit(columns, {name: features[name].role for name in columns})
    if not encoder.token_features and not encoder.numeric_features:
        return Absent(name=NAME, reason="items have no features")
    encoded = encoder.encode(columns, dataset.n_items)
    idf = _idf(encoder, encoded)
    described = _described(encoder, encoded, idf)
    basis = _basis(described, lesson.config.content.dim, lesson.seed)
    vectors = unit_or_zero(np.asarray(described @ basis, np.float32))
    known = np.flatnonzero(vectors.any(axis=1))
    if len(known) == 0:
        return Absent(name=NAME, reason="no two items share a word or value")
    arrays: dict[str, npt.NDArray[Any]]
    arrays = {"keys": dataset.item_keys[known], "vectors": vectors[known]}
    contrast = choose_contrast(lesson, vectors)
    taste = taste_with(contrast, lesson, vectors)
    arrays["typical"] = taste.typical
    if taste.everybody is not None:
        arrays["everybody"] = taste.everybody
    return TrainedSource(
        name=NAME,
        data=SourceData(columns={"vectors": vectors}),
        shared=SharedData(
            arrays=arrays | {"idf": idf, "basis": basis},
            settings={**lesson.history, "items": encoder.document()},
        ),
        index_column="vectors",
        notes={
            "items": len(known),
            "dim": vectors.shape[1],
            "terms": described.shape[1],
            "contrast": contrast,
        },
    )


def _idf(encoder: FeatureEncoder, encoded: Encoded) -> Floats:
    """float32 [tokens]: how much each token says, the rarer the more; token 1 first."""
    counts = np.bincount(encoded.tokens.ravel(), minlength=encoder.vocabulary_size)[1:]
    return np.log1p(len(encoded.tokens) / np.maximum(counts, 1)).astype(np.float32)


def _described(encoder: FeatureEncoder, encoded: Encoded, idf: Floats) -> sp.csr_matrix:
    """Items x terms: each feature a block whose rows are of length 1 (or 0), then the numbers."""
    weights = token_weights(encoder, encoded.tokens, idf)
    rows, slots = np.nonzero(encoded.tokens)
    terms = encoded.tokens[rows, slots] - 1
    shape = (len(encoded.tokens), len(idf))
    blocks = [sp.csr_matrix((weights[rows, slots], (rows, terms)), shape=shape, dtype=np.float32)]
    if encoder.numeric_features:
        blocks.append(sp.csr_matrix(encoded.numeric * number_weight(encoder)))
    return sp.hstack(blocks, format="csr", dtype=np.float32)


def _basis(matrix: sp.csr_matrix, dim: int, seed: int) -> Floats:
    """float32 [terms, min(dim, terms)]: times it, rows keep nearly their dot products."""
    if matrix.shape[1] <= dim:
        return np.eye(matrix.shape[1], dtype=np.float32)
    width = min(dim + _EXTRA, matrix.shape[1], matrix.shape[0])
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((matrix.shape[1], width), dtype=np.float32)
    for _ in range(_POWERS):
        basis, _ = np.linalg.qr(matrix.T @ (matrix @ basis))
    projected = matrix @ basis
    # Turn the basis so that its first dimensions are those that matter most.
    sizes, turn = np.linalg.eigh(projected.T @ projected)
    return np.asarray(basis @ turn[:, np.argsort(-sizes)[:dim]], np.float32)
