"""Requests with labelled candidates, as the arrays that rankers are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["Groups"]

_HELD_OUT = 0.15  # share of the users

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """R requests with g candidates each; shorter ones are padded and masked."""

    numeric: Floats  # float32 [R, g, F]
    item_tokens: npt.NDArray[np.int32]  # int32 [R, g, item slots]
    item_weights: Floats  # float32 [R, g, item slots]
    user_tokens: npt.NDArray[np.int32]  # int32 [R, user slots]
    user_weights: Floats  # float32 [R, user slots]
    context_tokens: npt.NDArray[np.int32]  # int32 [R, context slots]
    context_weights: Floats  # float32 [R, context slots]
    head_labels: Floats  # float32 [R, g, H], 1 where a positive event of the head happens
    labels: Floats  # float32 [R, g], the utility: sum over heads of head weight * head label
    values: Floats  # float32 [R, g], value of what happens in standard deviations; NaN = none
    # float32 [R, g]: how many proposed candidates each stands for, 1 / its chance to be drawn;
    # 0 = padding.
    mass: Floats
    user: npt.NDArray[np.int32]  # int32 [R], whose request it is

    def __len__(self) -> int:
        return len(self.labels)

    def held_out(self, seed: int) -> npt.NDArray[np.bool_]:
        """Which requests decide when training ends and how models mix, bool [R].

        Those of a random share of the users: no user is on both sides. None when there is only one.
        """
        users = np.unique(self.user)
        chosen = np.random.default_rng(seed).permutation(users)[: round(len(users) * _HELD_OUT)]
        return np.isin(self.user, chosen)

    def checked(self, seed: int) -> Groups:
        """The held-out requests; all where there are too few users to hold any out."""
        held_out = self.held_out(seed)
        return self.take(np.flatnonzero(held_out)) if held_out.any() else self

    def take(self, rows: npt.NDArray[np.int64]) -> Groups:
        return Groups(**{name: getattr(self, name)[rows] for name in self.__slots__})

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""
        for name in Groups.__slots__:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @staticmethod
    def load(folder: Path) -> Groups:
        return Groups(**{name: np.load(folder / f"{name}.npy") for name in Groups.__slots__})

    @staticmethod
    def concatenate(parts: Sequence[Groups]) -> Groups:
        return Groups(
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in Groups.__slots__
            }
        )
