"""What a ranker predicts: an event of each head, and the event's value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranking_svc.models import Worth
from shortlist.config import RankingConfig
from shortlist.tiers import Keys
from training.dataset import Dataset

__all__ = ["Rewards"]

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

# A head counts at least so much of the heaviest one in training: its worth may be declared anew.
_LEAST_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewards:
    """The heads of a data set, what they are worth, and the scale of events' values."""

    worth: Worth
    head_of: npt.NDArray[np.int64]  # by code of the event type; -1 = trains no head
    value_scale: tuple[float, float] | None  # mean and deviation; None without values

    @staticmethod
    def of(dataset: Dataset, known: Rows, config: RankingConfig) -> Rewards:
        """One head for each kind of event that the data counts as positive.

        Heads and their weights are those of all positive interactions outside of the test part; the
        configuration may declare other weights. Raises `InvalidField` when it names another head.
        """
        rows = dataset.rows_of_split("train", "validation")
        weights: dict[str, float] = {}
        head_of = np.full(len(dataset.event_types), -1, np.int64)
        for code, event in enumerate(dataset.event_types):
            own = dataset.events.weight[rows[dataset.events.event[rows] == code]]
            if (own > 0).any():
                head = dataset.schema.head_of(event)
                weights[head] = max(weights.get(head, 0.0), float(own.max()))
                head_of[code] = list(weights).index(head)
        return Rewards(
            worth=Worth(heads=weights).declared(config.head_weights, config.value_weight),
            head_of=head_of,
            value_scale=_value_scale(dataset.events.value[known]),
        )

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.worth.heads)

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """What an event of each head is worth, float64 [H]."""
        return self.worth.weights_of(self.heads)

    @property
    def loss_shares(self) -> npt.NDArray[np.float64]:
        """How much of the loss each head is, float64 [H], sum 1."""
        weights = self.weights
        floored = np.maximum(weights, _LEAST_SHARE * weights.max(initial=0))
        return floored / max(floored.sum(), 1e-12)

    def labels(self, dataset: Dataset, events: Rows, keys: Keys) -> tuple[Floats, Floats]:
        """What the rows `events` of `Dataset.events` make of the items `keys`.

        float32 [n, H]: 1 where a positive event of the head happens; float32 [n]: the newest
        event's value in standard deviations, NaN where none has one.
        """
        labels = np.zeros((len(keys), len(self.heads)), np.float32)
        values = np.full(len(keys), np.nan, np.float32)
        rows, places = _places(dataset.item_keys[dataset.events.item[events]], keys)
        happened = events[rows]
        heads = self.head_of[dataset.events.event[happened]]
        positive = (dataset.events.weight[happened] > 0) & (heads >= 0)
        labels[places[positive], heads[positive]] = 1
        if self.value_scale is not None:
            mean, std = self.value_scale
            valued = ~np.isnan(dataset.events.value[happened])
            values[places[valued]] = (dataset.events.value[happened[valued]] - mean) / std
        return labels, values


def _value_scale(values: Floats) -> tuple[float, float] | None:
    known = values[~np.isnan(values)].astype(np.float64)
    if len(known) == 0 or known.std() < 1e-6:  # one value for all predicts itself
        return None
    return float(known.mean()), float(known.std())


def _places(wanted: Keys, keys: Keys) -> tuple[Rows, Rows]:
    """Which of `wanted` are among `keys`, and where."""
    if not len(keys):  # the user has seen everything
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.argsort(keys)
    rows = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    found = np.flatnonzero(keys[rows] == wanted)
    return found, rows[found]
