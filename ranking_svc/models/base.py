"""What a ranking model is to the ranker: outputs by head, and what they are worth together.

A head stands for one kind of event (a click, a purchase). Models predict each on its own, so that
the business may declare anew what each is worth without training anything again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ranking_svc.features import FeatureRows
from shortlist.errors import InvalidField

__all__ = ["Model", "Outputs", "Worth", "combine"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a model says of n candidates."""

    logits: Floats  # float32 [n, H], log odds of an event of each head
    values: Floats | None = None  # float32 [n], predicted event value in standard deviations

    @staticmethod
    def of_columns(columns: Floats, heads: int) -> Outputs:
        """From float32 [n, H] or [n, H + 1], whose last column is the value."""
        values = columns[:, heads] if columns.shape[1] > heads else None
        return Outputs(logits=columns[:, :heads], values=values)

    @property
    def columns(self) -> Floats:
        """float32 [n, H], with the values as one more column where there are any."""
        if self.values is None:
            return self.logits
        return np.concatenate([self.logits, self.values[:, None]], axis=1)


class Model(Protocol):
    """Scores feature rows. Any thread may ask."""

    @property
    def name(self) -> str: ...

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the columns of `Outputs.logits`."""
        ...

    def score(self, rows: FeatureRows) -> Outputs: ...

    def refresh(self, items: npt.NDArray[np.int64]) -> None:
        """These rows of the item table have been written; forget what was made of them before."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """The business metric: what an event of a head is worth, and what its value is."""

    heads: Mapping[str, float] = field(default_factory=dict)  # head -> weight; absent = 1
    value: float = 0.0  # of one standard deviation of the predicted value

    def declared(self, heads: Mapping[str, float], value: float) -> Worth:
        """With other weights where `heads` names them. Raises `InvalidField`."""
        if unknown := heads.keys() - self.heads.keys():
            known = ", ".join(self.heads)
            raise InvalidField(
                f"ranking.head_weights.{min(unknown)}", f"no such head; there are: {known}"
            )
        worth = Worth(heads={**self.heads, **heads}, value=value)
        if worth.heads and not any(weight > 0 for weight in worth.heads.values()):
            raise InvalidField("ranking.head_weights", "no head has a weight above 0")
        return worth

    def weights_of(self, heads: Sequence[str]) -> npt.NDArray[np.float64]:
        """float64 [H]"""
        return np.array([self.heads.get(head, 1.0) for head in heads])


def combine(outputs: Outputs, heads: Sequence[str], worth: Worth) -> Floats:
    """One score a candidate, float32 [n]: log sum_h w_h exp(z_h) + value weight * value.

    The odds of rare events are about their probabilities, so this orders by expected worth. What is
    not finite stays so.
    """
    weights = worth.weights_of(heads)
    used = weights > 0
    weighted = outputs.logits[:, used] + np.log(weights[used])
    with np.errstate(invalid="ignore"):
        scores = np.logaddexp.reduce(weighted, axis=1)
    if worth.value and outputs.values is not None:
        scores = scores + worth.value * outputs.values
    return scores.astype(np.float32)
