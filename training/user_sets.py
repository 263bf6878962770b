"""Users' items as sets, for data without times: a part of each set is predicted from the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SetBatch", "UserSets"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_KEPT = 0.5  # share of a user's items that is history; the rest is to be predicted
_NO_HISTORY = 0.05  # share of the users of whom everything is to be predicted


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBatch:
    """One step's users; pairs are (user of the batch, place among `candidates` or `history`)."""

    example: Ints  # int64 [users], an interaction of each user, for its context
    history: Ints  # int64 [h], unique item rows
    candidates: Ints  # int64 [c], unique item rows: all targets and the drawn negatives
    log_chance: Floats  # float32 [c], log of each candidate's chance to be one
    known: Ints  # int64 [k, 2], pairs into `history`, ordered
    strength: Floats  # float32 [k], sums to 1 for each user with a history
    size: Floats  # float32 [users], items of the history
    targets: Ints  # int64 [t, 2], pairs into `candidates`
    weight: Floats  # float32 [t]
    hidden: Ints  # int64 [m, 2], pairs into `candidates` that are in the user's history


class UserSets:
    """Every user's items once each, with the weight of the heaviest interaction.

    Negatives are drawn from `drawn_from`, item rows, which have all that anybody liked.
    """

    def __init__(
        self,
        user: npt.NDArray[np.int32],
        item: npt.NDArray[np.int32],
        weight: Floats,
        *,
        items: int,
        drawn_from: npt.NDArray[np.integer],
        users_a_step: int,
        negatives: int,
    ) -> None:
        # Ascending weight: of a repeated pair the last, heaviest one stays.
        order = np.lexsort((weight, item, user))
        last = np.append((np.diff(user[order]) != 0) | (np.diff(item[order]) != 0), True)
        self._row = order[last]  # pair -> interaction
        self._item, self._weight = item[self._row].astype(np.int64), weight[self._row]
        _, first, count = np.unique(user[self._row], return_index=True, return_counts=True)
        self._first, self._count = first, count
        self._items, self._drawn_from = items, drawn_from
        self._negatives = min(negatives, len(drawn_from))
        self._users_a_step = min(users_a_step, len(first))
        self._log_chance = self._chances()
        self.steps = len(first) // self._users_a_step

    def batches(self, rng: np.random.Generator) -> Iterator[SetBatch]:
        """Every user once, in random order, each set divided anew; a last part step is left out."""
        order = rng.permutation(len(self._first))
        for step in range(self.steps):
            start = step * self._users_a_step
            yield self._divide(order[start : start + self._users_a_step], rng)

    def _divide(self, users: Ints, rng: np.random.Generator) -> SetBatch:
        count = self._count[users]
        owner = np.repeat(np.arange(len(users)), count)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        pair = self._first[users][owner] + within
        known = (rng.random(len(pair)) < _KEPT) & (rng.random(len(users)) >= _NO_HISTORY)[owner]
        # Whose items all went into the history gives one back, so that there is a target.
        full = np.bincount(owner, weights=~known, minlength=len(users)) == 0
        known[np.cumsum(count)[full] - 1] = False
        targets, told = pair[~known], pair[known]
        drawn = self._drawn_from[rng.integers(len(self._drawn_from), size=self._negatives)]
        candidates = np.unique(np.concatenate([self._item[targets], drawn]))
        history, place = np.unique(self._item[told], return_inverse=True)
        at = np.minimum(np.searchsorted(candidates, self._item[told]), len(candidates) - 1)
        among = candidates[at] == self._item[told]
        strength = self._weight[told]
        total = np.bincount(owner[known], weights=strength, minlength=len(users))
        size = np.bincount(owner[known], minlength=len(users))
        return SetBatch(
            example=self._row[self._first[users] + rng.integers(count)],
            history=history,
            candidates=candidates,
            log_chance=self._log_chance[candidates],
            known=np.stack([owner[known], place], axis=1),
            strength=(strength / total[owner[known]]).astype(np.float32),
            size=size.astype(np.float32),
            targets=np.stack(
                [owner[~known], np.searchsorted(candidates, self._item[targets])], axis=1
            ),
            weight=self._weight[targets],
            hidden=np.stack([owner[known][among], at[among]], axis=1),
        )

    def _chances(self) -> Floats:
        """Log of the chance that an item is among a step's candidates: as a target, or drawn.

        What is neither never is there, and has no meaning here.
        """
        share = np.bincount(self._item, minlength=self._items) / len(self._first)
        missed = (1 - np.minimum(share * (1 - _KEPT), 1)) ** self._users_a_step
        missed *= (1 - 1 / len(self._drawn_from)) ** self._negatives
        return np.log(np.maximum(1 - missed, 1e-9)).astype(np.float32)
