"""Who clicks what: the model behind every event of a simulated world.

A user clicks an item if they look at its position and find it attractive. The two are independent
given the item: the examination hypothesis of Richardson, Dominowska and Ragno, "Predicting clicks"
(WWW 2007), called the position model by Craswell, Zoeter, Taylor and Ramsey, "An experimental
comparison of click position-bias models" (WSDM 2008). Examination falls as a power of the position,
as in Joachims, Swaminathan and Schnabel, "Unbiased learning-to-rank with biased feedback" (WSDM
2017).
"""

from __future__ import annotations

import numpy as np

from simulator.arrays import Floats, Indices
from simulator.catalogue import Creators, Items
from simulator.config import MS_PER_DAY, ClickWeights
from simulator.geography import distance_km
from simulator.population import Viewers


class ClickModel:
    """P(click) = examination(position) x sigmoid(appeal), and P(like | click).

    Viewers and items are paired by `rows`: pair i is viewer `rows[i]` and item i, so one viewer can
    see many items.
    """

    def __init__(self, weights: ClickWeights, creators: Creators) -> None:
        self._weights = weights
        self._creators = creators

    def appeal(self, viewers: Viewers, rows: Indices, items: Items) -> Floats:
        """float64[n] logits of finding an examined item attractive; -inf before its publication."""
        weights = self._weights
        age_days = (viewers.time_ms[rows] - items.published_ms) / MS_PER_DAY
        logits = (
            weights.affinity * self.affinity(viewers, rows, items)
            + weights.quality * items.quality
            + weights.freshness * np.exp(-np.maximum(age_days, 0) / weights.freshness_decay_days)
            + weights.locality * self._locality(viewers, rows, items)
            + weights.loyalty * self._loyalty(viewers, rows, items)
            - weights.threshold
        )
        return np.where(age_days < 0, -np.inf, logits)

    def affinity(self, viewers: Viewers, rows: Indices, items: Items) -> Floats:
        """float64[n] cosines between a viewer's taste and an item."""
        return (viewers.taste[rows] * items.taste).sum(axis=1).astype(np.float64)

    def examination(self, positions: Indices) -> Floats:
        """float64[n]: the probability that a position (0 is the top) is looked at."""
        return np.power(1.0 + positions, -self._weights.position_bias, dtype=np.float64)

    def like_probability(self, affinity: Floats, quality: Floats) -> Floats:
        """float64[n]: the probability that a clicked item is liked too."""
        weights = self._weights
        return sigmoid(
            weights.like_affinity * affinity + weights.quality * quality - weights.like_threshold
        )

    def _locality(self, viewers: Viewers, rows: Indices, items: Items) -> Floats:
        km = distance_km(viewers.on_sphere[rows], self._creators.on_sphere[items.creator])
        return np.exp(-km / self._weights.locality_decay_km)

    def _loyalty(self, viewers: Viewers, rows: Indices, items: Items) -> Floats:
        loyal = (viewers.favourite_creators[rows] == items.creator[:, None]).any(axis=1)
        return loyal.astype(np.float64)


def sigmoid(logits: Floats) -> Floats:
    """The logistic function, without overflow; exactly 0 at -inf."""
    return np.exp(-np.logaddexp(0.0, -logits))
