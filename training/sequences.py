"""Each interaction's history, without ever holding histories of all interactions at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["UserSequences"]

Rows = npt.NDArray[np.int64]


class UserSequences:
    """What an interaction's user did before it; interactions are given in order of time."""

    def __init__(self, users: npt.NDArray[np.int32], *, length: int) -> None:
        self._length = length
        self._sorted = np.argsort(users, kind="stable")  # place -> interaction
        self._place = np.empty(len(users), np.int64)  # interaction -> place
        self._place[self._sorted] = np.arange(len(users))
        sorted_users = users[self._sorted]
        self._start = np.searchsorted(sorted_users, sorted_users)  # by place

    def before(self, rows: Rows) -> Rows:
        """Histories of `rows`: int64 [n, length], newest last, -1 where there is nothing."""
        place = self._place[rows][:, None]
        back = np.arange(self._length, 0, -1)[None]  # the last column is the newest
        found = place - back >= self._start[place]
        return np.where(found, self._sorted[np.maximum(place - back, 0)], -1)
