"""The ranker that trusts retrieval: the blend's order is the page's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ranking_svc.features import FeatureRows
from ranking_svc.models.base import Outputs

__all__ = ["BlendOrder"]


class BlendOrder:
    """What an experiment compares the trained models with; it needs no file."""

    name = "none"
    heads = ("order",)

    def score(self, rows: FeatureRows) -> Outputs:
        """Minus the place in the order in which the candidates came."""
        return Outputs(logits=-np.arange(len(rows.items), dtype=np.float32)[:, None])

    def refresh(self, items: npt.NDArray[np.int64]) -> None: ...  # it keeps nothing of items
