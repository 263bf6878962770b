"""Items by what is said of them: TF-IDF of all their features, in a few dozen dimensions.

Latent semantic analysis (Deerwester et al., JASIS 1990) by a randomised SVD (Halko, Martinsson &
Tropp, SIAM Review 2011). It needs no interaction, so it knows an item from its first moment.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from retrieval_svc.source_data import SharedData, SourceData
from shortlist.features import Encoded, FeatureEncoder
from training.encoding import entity_columns
from training.item_statistics import decayed_counts
from training.sources.base import Absent, Floats, SourceLesson, TrainedSource

__all__ = ["train"]

NAME = "content"
_NUMBERS = 0.5  # weight of all numbers together, beside 1 of each feature of words or values
_EXTRA, _POWERS = 16, 3  # of the randomised SVD: spare dimensions, passes over the data
_LEAST = 1e-6  # length of a row that says something


def train(lesson: SourceLesson) -> TrainedSource | Absent:
    """A unit vector an item, zeros for items without features."""
    dataset = lesson.dataset
    features = dataset.schema.item_features
    columns = entity_columns(dataset.items, features)
    encoder = FeatureEncoder.fit(columns, {name: features[name].role for name in columns})
    if not encoder.token_features and not encoder.numeric_features:
        return Absent(name=NAME, reason="items have no features")
    described = _described(encoder, encoder.encode(columns, dataset.n_items))
    vectors = _unit(_reduced(described, lesson.config.content.dim, lesson.seed))
    known = np.flatnonzero(vectors.any(axis=1))
    if len(known) == 0:
        return Absent(name=NAME, reason="no two items share a word or value")
    arrays: dict[str, npt.NDArray[Any]]
    arrays = {"keys": dataset.item_keys[known], "vectors": vectors[known]}
    if (everybody := _everybody(lesson, vectors)) is not None:
        arrays["everybody"] = everybody
    return TrainedSource(
        name=NAME,
        data=SourceData(columns={"vectors": vectors}),
        shared=SharedData(
            arrays=arrays,
            settings=lesson.history,
        ),
        index_column="vectors",
        notes={"items": len(known), "dim": vectors.shape[1], "terms": described.shape[1]},
    )


def _everybody(lesson: SourceLesson, vectors: Floats) -> Floats | None:
    """float32 [dim], unit length: the mean of what is liked now; None where it is nothing."""
    counts = decayed_counts(lesson.dataset, lesson.rows, lesson.as_of_ms, lesson.half_life_ms)
    mean = counts @ vectors
    length = float(np.linalg.norm(mean))
    return (mean / length).astype(np.float32) if length > _LEAST else None


def _described(encoder: FeatureEncoder, encoded: Encoded) -> sp.csr_matrix:
    """Items x terms: each feature a block whose rows are of length 1 (or 0), then the numbers."""
    blocks = [
        _block(encoded, slice(f.first_slot, f.first_slot + f.slots), f.first_token, f.vocabulary)
        for f in encoder.token_features
    ]
    if encoder.numeric_features:
        share = _NUMBERS / np.sqrt(len(encoder.numeric_features))
        blocks.append(sp.csr_matrix(encoded.numeric * np.float32(share)))
    return sp.hstack(blocks, format="csr", dtype=np.float32)


def _block(
    encoded: Encoded, slots: slice, first_token: int, vocabulary: tuple[str, ...]
) -> sp.csr_matrix:
    tokens = encoded.tokens[:, slots]
    rows, columns = np.nonzero(tokens)
    terms = tokens[rows, columns] - first_token
    counts = np.bincount(terms, minlength=len(vocabulary))
    idf = np.log1p(len(tokens) / np.maximum(counts, 1)).astype(np.float32)
    shape = (len(tokens), len(vocabulary))
    weights = idf[terms]
    lengths = np.sqrt(np.bincount(rows, weights=weights**2, minlength=len(tokens)))
    return sp.csr_matrix((weights / lengths[rows], (rows, terms)), shape=shape, dtype=np.float32)


def _reduced(matrix: sp.csr_matrix, dim: int, seed: int) -> Floats:
    """float32 [n, min(dim, terms)] with nearly the dot products of the rows of `matrix`."""
    if matrix.shape[1] <= dim:
        return np.asarray(matrix.toarray(), np.float32)
    width = min(dim + _EXTRA, matrix.shape[1], matrix.shape[0])
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((matrix.shape[1], width), dtype=np.float32)
    for _ in range(_POWERS):
        basis, _ = np.linalg.qr(matrix.T @ (matrix @ basis))
    projected = matrix @ basis
    # Turn the basis so that its first dimensions are those that matter most.
    sizes, turn = np.linalg.eigh(projected.T @ projected)
    return np.asarray(projected @ turn[:, np.argsort(-sizes)[:dim]], np.float32)


def _unit(vectors: npt.NDArray[np.float32]) -> Floats:
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return np.where(lengths > _LEAST, vectors / np.maximum(lengths, _LEAST), 0).astype(np.float32)
