"""How much of what is relevant the sources and the blend find, at several depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation.bootstrap import Resamples, mean_of
from training.evaluation.hits import Hits
from training.evaluation.systems import with_intervals

__all__ = ["CURVE", "recall_curves", "retrieval_of"]

Rows = npt.NDArray[np.int32]

_CUTOFFS = (20, 100, 1000)
CURVE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def retrieval_of(hits: Hits, lists: Sequence[Rows], resamples: Resamples) -> dict[str, Any]:
    """The figures of `retrieval.<list>`."""
    by_user = {f"recall@{k}": hits.recall(k) for k in _CUTOFFS}
    proposed = float(np.mean([len(rows) for rows in lists]))
    return with_intervals(by_user, resamples, {"items": proposed})


def recall_curves(hits: Mapping[str, Hits]) -> dict[str, Any]:
    """Recall against depth."""
    recalls = {name: [mean_of(one.recall(k)) for k in CURVE] for name, one in hits.items()}
    return {"k": list(CURVE), "recall": recalls}
