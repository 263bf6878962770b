"""Requests with labelled candidates, as the arrays that rankers are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Groups"]

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
    labels: Floats  # float32 [R, g], 0 = not liked, else the event's weight
    # float32 [R, g]: how many proposed candidates each stands for, 1 / its chance to be drawn;
    # 0 = padding.
    mass: Floats
    user: npt.NDArray[np.int32]  # int32 [R], whose request it is

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.int64]) -> Groups:
        return Groups(**{name: getattr(self, name)[rows] for name in self.__slots__})

    @staticmethod
    def concatenate(parts: Sequence[Groups]) -> Groups:
        return Groups(
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in Groups.__slots__
            }
        )
