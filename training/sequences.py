"""Each interaction's history, without ever holding histories of all interactions at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["UserSequences"]

Rows = npt.NDArray[np.int64]


class UserSequences:
    """The other interactions of an interaction's user.

    With `ordered` interactions (sorted by time) the history of one is what its user did before it.
    Without times it is a random choice of the user's other interactions, drawn anew by `shuffle`.
    """

    def __init__(self, users: npt.NDArray[np.int32], *, ordered: bool, length: int) -> None:
        self._users, self._ordered, self._length = users, ordered, length
        self._arrange(np.arange(len(users)))

    def _arrange(self, order: Rows) -> None:
        """Group interactions by user; inside a group they stand in `order`."""
        by_user = order[np.argsort(self._users[order], kind="stable")]
        sorted_users = self._users[by_user]
        starts = np.searchsorted(sorted_users, sorted_users)
        ends = np.searchsorted(sorted_users, sorted_users, side="right")
        self._sorted = by_user  # place -> interaction
        self._place = np.empty(len(by_user), np.int64)  # interaction -> place
        self._place[by_user] = np.arange(len(by_user))
        self._start, self._count = starts, ends - starts  # by place

    def shuffle(self, rng: np.random.Generator) -> None:
        """Draw new histories; nothing to do where time gives the order."""
        if not self._ordered:
            self._arrange(rng.permutation(len(self._users)))

    def before(self, rows: Rows) -> Rows:
        """Histories of `rows`: int64 [n, length], newest last, -1 where there is nothing."""
        place = self._place[rows][:, None]
        start, count = self._start[place], self._count[place]
        back = np.arange(self._length, 0, -1)[None]  # the last column is the newest
        if self._ordered:
            found = place - back >= start
            source = np.maximum(place - back, 0)
        else:
            found = back < count
            source = start + (place - start - back) % count
        return np.where(found, self._sorted[source], -1)
