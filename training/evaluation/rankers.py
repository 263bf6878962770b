"""How well each ranker orders what retrieval found, and what its scores mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation.bootstrap import Resamples, mean_of
from training.evaluation.calibration import calibration_of
from training.evaluation.hits import Hits
from training.evaluation.systems import PAGE, difference, with_intervals
from training.metrics import auc

__all__ = ["ranker_figures"]

Floats = npt.NDArray[np.float32]
Booleans = npt.NDArray[np.bool_]


def ranker_figures(
    scores: Sequence[Floats],
    liked: Sequence[Booleans],
    hits: Hits,
    unranked: Hits,
    resamples: Resamples,
) -> dict[str, Any]:
    """The figures of `rankers.<name>`.

    `scores` and `liked` hold a column a user over the user's candidates; `hits` are those of the
    ranker's order, `unranked` those of the blend's.
    """
    sizes = np.array([len(one) for one in scores], np.float64)
    each = np.array([auc(one, mine) for one, mine in zip(scores, liked, strict=True)])
    judged = np.isfinite(each)
    whole, labels = _joined(scores, np.float32), _joined(liked, np.bool_)
    # Every other user, so that the halves are alike.
    fitting = np.repeat(np.arange(len(scores)) % 2 == 0, sizes.astype(np.int64))
    by_user = {
        "gauc": each,
        f"ndcg@{PAGE}": hits.ndcg(PAGE),
        f"recall@{PAGE}": hits.recall(PAGE),
        "mrr": hits.mrr(),
        f"value@{PAGE}": hits.value(PAGE),
        f"conditional_ndcg@{PAGE}": hits.conditional_ndcg(PAGE),
        f"conditional_recall@{PAGE}": hits.conditional_recall(PAGE),
    }
    overall = {
        "auc": auc(whole, labels),
        "gauc_weighted": _weighted(each[judged], sizes[judged]),
    }
    gain = difference(hits.ndcg(PAGE), unranked.ndcg(PAGE), resamples)
    return {
        **with_intervals(by_user, resamples, overall),
        **calibration_of(whole, labels, fitting),
        "gain_over_none": gain,
    }


def _weighted(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    return float(np.average(values, weights=weights)) if len(values) else mean_of(values)


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *parts])
