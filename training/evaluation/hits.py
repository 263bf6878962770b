"""Where the relevant items stand on the users' lists: all that recall, nDCG and MRR need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = ["Hits"]

Rows = npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Hits:
    """The hits of one list a user. Figures are float64 [users], NaN for users without relevant
    items."""

    user: Rows  # [h], place among the users
    place: Rows  # [h], on the user's list, 0 = first
    item: Rows  # [h], item row
    worth: Doubles  # [h], what the user did with the item is worth
    relevant: Sequence[Rows]  # each user's relevant items

    @staticmethod
    def of(
        lists: Iterable[Rows],
        relevant: Sequence[Rows],
        items: int,
        worth: Sequence[Doubles] | None = None,
    ) -> Hits:
        """`lists` and `relevant` hold item rows below `items`, aligned by user; `worth` is aligned
        with `relevant`, each item is worth 1 without it."""
        wanted, worth_of = np.zeros(items, np.bool_), np.ones(items)
        places, found, gains = [], [], []
        for user, (ranked, mine) in enumerate(zip(lists, relevant, strict=True)):
            wanted[mine] = True
            if worth is not None:
                worth_of[mine] = worth[user]
            here = np.flatnonzero(wanted[ranked]).astype(np.int32)
            wanted[mine] = False
            places.append(here)
            found.append(ranked[here])
            gains.append(worth_of[ranked[here]])
        users = np.repeat(np.arange(len(places)), [len(one) for one in places])
        return Hits(
            user=users.astype(np.int32),
            place=_joined(places),
            item=_joined(found),
            worth=np.concatenate([np.empty(0), *gains]),
            relevant=relevant,
        )

    def among(self, items: Booleans) -> Hits:
        """The same lists where only these items (a mask over the catalogue) count as relevant."""
        kept = items[self.item]
        return replace(
            self,
            user=self.user[kept],
            place=self.place[kept],
            item=self.item[kept],
            worth=self.worth[kept],
            relevant=[rows[items[rows]] for rows in self.relevant],
        )

    @property
    def wanted(self) -> Doubles:
        """How many items are relevant for each user."""
        return np.array([len(rows) for rows in self.relevant], np.float64)

    def found(self, k: int | None = None) -> Doubles:
        """How many relevant items are on each user's list, or among its first `k`."""
        counted = self.user if k is None else self.user[self.place < k]
        return np.bincount(counted, minlength=len(self.relevant)).astype(np.float64)

    def recall(self, k: int) -> Doubles:
        return _ratio(self.found(k), self.wanted)

    def value(self, k: int) -> Doubles:
        """What each user did with the first `k` items is worth, all together."""
        near = self.place < k
        users = len(self.relevant)
        value = np.bincount(self.user[near], weights=self.worth[near], minlength=users)
        return np.where(self.wanted > 0, value, np.nan)

    def ndcg(self, k: int) -> Doubles:
        return self._ndcg(k, self.wanted)

    def mrr(self) -> Doubles:
        """The reciprocal rank of the first hit; 0 where there is none."""
        best = np.zeros(len(self.relevant))
        np.maximum.at(best, self.user, 1.0 / (self.place + 1))
        return np.where(self.wanted > 0, best, np.nan)

    def conditional_recall(self, k: int) -> Doubles:
        """Recall where only what is on the list at all counts as relevant."""
        return _ratio(self.found(k), self.found())

    def conditional_ndcg(self, k: int) -> Doubles:
        """nDCG where only what is on the list at all counts as relevant."""
        return self._ndcg(k, self.found())

    def _ndcg(self, k: int, wanted: Doubles) -> Doubles:
        near = self.place < k
        discounts = 1 / np.log2(np.arange(k) + 2)
        gains = np.zeros(len(self.relevant))
        np.add.at(gains, self.user[near], discounts[self.place[near]])
        ideal = np.concatenate([[0.0], np.cumsum(discounts)])
        return _ratio(gains, ideal[np.minimum(wanted, k).astype(np.int64)])


def _joined(parts: Sequence[npt.NDArray[np.int32]]) -> Rows:
    return np.concatenate([np.empty(0, np.int32), *parts]).astype(np.int32)


def _ratio(part: Doubles, whole: Doubles) -> Doubles:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
