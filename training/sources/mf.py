"""Implicit matrix factorisation: taste as a few dozen numbers (Hu, Koren & Volinsky, ICDM 2008).

Only items are stored. A user's factor is made at the request, from the history as it is then
("fold-in"), by the equation that ends training:

    x = (Y^T Y + sum_i c w_i y_i y_i^T + reg I)^-1  sum_i (1 + c w_i) y_i

over the liked items i of the history, w_i = sum of the weights of the item's events; c is the
setting `confidence`, and the shared array `gram` holds Y^T Y + reg I.
"""

from __future__ import annotations

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from retrieval_svc.source_data import SharedData, SourceData
from training.sources.base import Absent, Floats, SourceLesson, TrainedSource, liked_matrix

__all__ = ["train"]

NAME = "mf"
_HISTORY = 1000


def train(lesson: SourceLesson) -> TrainedSource | Absent:
    """Factors of all items; an item that nobody liked has a row of zeros."""
    liked = lesson.liked
    if len(liked) == 0:
        return Absent(name=NAME, reason="no positive interactions")
    factors = _factorise(lesson)
    known = np.unique(lesson.dataset.events.item[liked])
    vectors = np.zeros_like(factors)
    vectors[known] = factors[known]
    settings = lesson.config.mf
    gram = vectors.T @ vectors + settings.regularization * np.eye(vectors.shape[1])
    return TrainedSource(
        name=NAME,
        data=SourceData(columns={"vectors": vectors}),
        shared=SharedData(
            arrays={
                "keys": lesson.dataset.item_keys[known],
                "factors": vectors[known],
                "gram": gram.astype(np.float32),
            },
            settings={"confidence": settings.confidence, "history": _HISTORY},
        ),
        index_column="vectors",
        notes={"items": len(known), "dim": settings.dim},
    )


def _factorise(lesson: SourceLesson) -> Floats:
    """float32 [n_items, dim]."""
    settings = lesson.config.mf
    confidence = liked_matrix(lesson, lesson.liked)
    # Where the paper has c_ui = 1 + alpha r_ui, implicit takes the number as it stands.
    confidence.data = 1 + settings.confidence * confidence.data
    steps = settings.iterations

    def report(step: int, *_: object) -> None:
        lesson.progress(step + 1, steps)

    # implicit has threads of its own; BLAS threads inside them only get in each other's way.
    with threadpool_limits(limits=1, user_api="blas"):
        model = AlternatingLeastSquares(
            factors=settings.dim,
            regularization=settings.regularization,
            iterations=steps,
            num_threads=lesson.threads,
            random_state=lesson.seed,
        )
        model.fit(confidence, show_progress=False, callback=report)
    return np.asarray(model.item_factors, np.float32)
