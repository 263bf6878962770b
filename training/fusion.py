"""How much a rank of each source is worth in the blend, learned from what users did next.

The blend (`orchestrator.blend`) orders by sum_s weight_s / (offset_s + 1 + rank_s). Weight and
offset of each source are learned on the backtest, whose users' next likes no source has seen, so
that the blend holds as many of them as it can (recall at its limit) and has them early (nDCG@20).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.blend import fit_guarantees
from shortlist.tiers import SourceCandidates
from training.sources.base import add_up

__all__ = ["FusionLesson", "LearnedFusion", "Proposed", "learn_fusion"]

Fusion = Mapping[str, tuple[float, float]]  # source -> (weight, offset)
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_DEPTH = 20
_NDCG_SHARE = 0.1  # of the aim, beside recall at the limit
_FEWEST_USERS = 50
_RRF = (1.0, 60.0)
_PRIOR = {  # of too few users: sources that know the person first, rails behind
    "two_tower": (1.0, 60.0),
    "mf": (1.0, 60.0),
    "cooccurrence": (1.0, 60.0),
    "content": (0.3, 60.0),
    "popular": (1.0, 60.0),
    "trending": (0.3, 60.0),
    "fresh": (0.2, 60.0),
    "geographic": (0.3, 60.0),
    "creator": (0.3, 60.0),
}
_ASIDE = 1e-4  # weight of the others when one source orders alone
_STEPS = ((1 / 8, 1 / 2, 2.0, 8.0), (1 / 3, 1 / 1.5, 1.5, 3.0), (1 / 1.5, 1 / 1.2, 1.2, 1.5))
_OFFSETS = (1.0, 3000.0)


_NO_KEYS = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """What all sources proposed to one user, n items by ascending key."""

    ranks: npt.NDArray[np.int16]  # int16 [S, n], -1 = not proposed by the source
    wanted: Ints  # int64 [w]: which of the n items the user went on to like
    relevant: int  # how many items the user went on to like, proposed or not; at least 1

    @staticmethod
    def of(
        names: Sequence[str],
        proposals: Mapping[str, SourceCandidates],
        relevant: npt.NDArray[np.uint64],
    ) -> Proposed:
        """`relevant` are the keys, unique, of what the user went on to like."""
        lists = [proposals[name].keys if name in proposals else _NO_KEYS for name in names]
        keys = np.unique(np.concatenate([_NO_KEYS, *lists]))
        ranks = np.full((len(names), len(keys)), -1, np.int16)
        for row, one in zip(ranks, lists, strict=True):
            row[np.searchsorted(keys, one)] = np.arange(len(one))
        wanted = np.flatnonzero(np.isin(keys, relevant))
        return Proposed(ranks=ranks, wanted=wanted, relevant=len(relevant))


@dataclass(frozen=True, kw_only=True)
class LearnedFusion:
    """Weight and offset by source, and how they came about."""

    fusion: Fusion
    notes: Mapping[str, Any] = field(default_factory=dict)  # JSON


class FusionLesson:
    """Users side by side, padded to as many columns as the one with the most items has."""

    def __init__(
        self,
        names: Sequence[str],
        users: Sequence[Proposed],
        limit: int,
        guaranteed: Mapping[str, int],
    ) -> None:
        self.names, self._limit = tuple(names), limit
        width = max((one.ranks.shape[1] for one in users), default=0)
        self._width = max(width, limit + 1, _DEPTH + 1)
        shape = (len(users), self._width)
        self._ranks = np.full((len(names), *shape), -1, np.int16)
        self._real, self._sure = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        for at, one in enumerate(users):
            n = one.ranks.shape[1]
            self._ranks[:, at, :n] = one.ranks
            self._real[at, :n] = True
            self._sure[at, :n] = _sure(one.ranks, [guaranteed.get(s, 0) for s in names], limit)
        self._user = np.repeat(np.arange(len(users)), [len(one.wanted) for one in users])
        self._column = np.concatenate([np.empty(0, np.int64), *(one.wanted for one in users)])
        self._relevant = np.array([one.relevant for one in users], np.int64)

    def __len__(self) -> int:
        return len(self._relevant)

    def fused(self, fusion: Fusion, *, without: str | None = None) -> Doubles:
        """float64 [users, columns]: the blend's scores, 0 where there is no item."""
        total = np.zeros(self._real.shape)
        for name in self.names:
            if name != without:
                total += self.share(name, *fusion[name])
        return total

    def share(self, name: str, weight: float, offset: float) -> Doubles:
        """What one source adds to `fused`."""
        ranks = self._ranks[self.names.index(name)]
        worth = weight / (offset + 1 + np.arange(int(ranks.max(initial=0)) + 2.0))
        worth[-1] = 0  # where rank -1 reads
        return worth[ranks]

    def aims(self, fused: Doubles) -> Doubles:
        """float64 [users]: what is to be maximised."""
        return self.recall(fused) + _NDCG_SHARE * self.ndcg(fused)

    def recall(self, fused: Doubles) -> Doubles:
        """float64 [users]: the share of what the user went on to like that the blend holds."""
        scores = self._single(fused)
        scores[self._sure] = np.inf
        own, border = self._beside_border(scores, self._limit)
        found = own > border
        tied = np.flatnonzero(own == border)
        found[tied] = self._places(scores, tied) < self._limit
        return self._sums(found.astype(np.float64)) / self._relevant

    def ndcg(self, fused: Doubles) -> Doubles:
        """float64 [users]: nDCG@20 of the blend's order, where its limit is at least 40."""
        scores = self._single(fused)
        own, border = self._beside_border(scores, _DEPTH)
        near = np.flatnonzero(own >= border)
        places = self._places(scores, near)
        gains = np.zeros(len(own))
        gains[near] = np.where(places < _DEPTH, 1 / np.log2(places + 2.0), 0)
        ideal = np.cumsum(1 / np.log2(np.arange(_DEPTH) + 2.0))
        return self._sums(gains) / ideal[np.minimum(self._relevant, _DEPTH) - 1]

    def hits(self, name: str) -> tuple[Doubles, Doubles]:
        """By rank: how often the source showed an item, and how often it was wanted."""
        ranks = self._ranks[self.names.index(name)]
        size = int(ranks.max(initial=0)) + 2
        shown = np.bincount(ranks.ravel() + 1, minlength=size)[1:]
        hit = np.bincount(ranks[self._user, self._column] + 1, minlength=size)[1:]
        return shown.astype(np.float64), hit.astype(np.float64)

    def take(self, users: Ints) -> FusionLesson:
        """The lesson of some of its users, ascending."""
        part = object.__new__(FusionLesson)
        part.names, part._limit, part._width = self.names, self._limit, self._width
        part._ranks = self._ranks[:, users]
        part._real, part._sure = self._real[users], self._sure[users]
        mine = np.isin(self._user, users)
        part._user = np.searchsorted(users, self._user[mine])
        part._column, part._relevant = self._column[mine], self._relevant[users]
        return part

    def _single(self, fused: Doubles) -> npt.NDArray[np.float32]:
        """In the blend's precision, and no item below every item."""
        return np.where(self._real, fused, -np.inf).astype(np.float32)

    def _beside_border(
        self, scores: npt.NDArray[np.float32], depth: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The score of each wanted item, and that of its user's item at place `depth`."""
        border = np.partition(scores, self._width - depth, axis=1)[:, self._width - depth]
        return scores[self._user, self._column], border[self._user]

    def _places(self, scores: npt.NDArray[np.float32], which: Ints) -> Ints:
        """Where the wanted items number `which` stand, 0 = first."""
        places = np.empty(len(which), np.int64)
        for part in np.array_split(np.arange(len(which)), len(which) // 64 + 1):
            user, column = self._user[which[part]], self._column[which[part], None]
            rows, own = scores[user], scores[user[:, None], column]
            # Ties go to the smaller key, which is the smaller column.
            before = np.arange(self._width) < column
            places[part] = (rows > own).sum(axis=1) + ((rows == own) & before).sum(axis=1)
        return places

    def _sums(self, values: Doubles) -> Doubles:
        return add_up(self._user, values, len(self))


def learn_fusion(
    names: Sequence[str],
    users: Sequence[Proposed],
    *,
    limit: int,
    guaranteed: Mapping[str, int],
    seed: int = 0,
) -> LearnedFusion:
    """Fit on each half of the users, and keep it unless something plain is better on the other.

    Plain is rank fusion without weights, and each source's own order. Fewer than 50 users teach
    nothing: they get weights that are good on other data.
    """
    if len(users) < _FEWEST_USERS:
        prior = {name: _PRIOR.get(name, _RRF) for name in names}
        return LearnedFusion(fusion=prior, notes={"chosen": "prior", "users": len(users)})
    lesson = FusionLesson(names, users, limit, guaranteed)
    shuffled = np.random.default_rng(seed).permutation(len(lesson))
    halves = [lesson.take(np.sort(part)) for part in np.array_split(shuffled, 2)]
    # The best plain order would be a summit of its own: MovieTweetings' blend held .725 of what
    # was wanted when it began at the two-tower's order, .735 from here.
    fits = [_ascend(half, _densities(half)) for half in halves]
    plain = _plain_orders(names)
    aims = {"fitted": _aims(halves, fits[::-1])}
    aims |= {name: _aims(halves, [one, one]) for name, one in plain.items()}
    chosen = _winner(aims, "fitted")
    return LearnedFusion(
        fusion=({"fitted": _between(*fits)} | plain)[chosen],
        notes={
            "chosen": chosen,
            "users": len(lesson),
            "held_out": {name: float(values.mean()) for name, values in aims.items()},
        },
    )


def _winner(aims: Mapping[str, Doubles], favourite: str) -> str:
    """The favourite, unless another is better by more than the standard error of the difference.

    The best of many orders is partly the luckiest, and the fits are each of half of the users.
    """
    best = max(aims, key=lambda name: float(aims[name].mean()))
    ahead = aims[best] - aims[favourite]
    return best if ahead.mean() > ahead.std() / np.sqrt(len(ahead)) else favourite


def _between(one: Fusion, other: Fusion) -> Fusion:
    """The geometric mean of two fits: what chance gave either of them is halved."""
    return {
        name: (
            float(np.sqrt(one[name][0] * other[name][0])),
            float(np.sqrt(one[name][1] * other[name][1])),
        )
        for name in one
    }


def _sure(
    ranks: npt.NDArray[np.int16], guaranteed: Sequence[int], limit: int
) -> npt.NDArray[np.bool_]:
    """bool [n]: what the blend holds whatever its score; see `orchestrator.blend`."""
    if ranks.shape[1] <= limit:
        return np.zeros(ranks.shape[1], np.bool_)
    counts = fit_guarantees(guaranteed, (ranks >= 0).sum(axis=1).tolist(), limit)
    sure: npt.NDArray[np.bool_]
    sure = np.any((ranks >= 0) & (ranks < np.array(counts)[:, None]), axis=0)
    return sure


def _plain_orders(names: Sequence[str]) -> dict[str, Fusion]:
    """Rank fusion without weights, and every source alone with the others filling up."""
    alone = {
        f"only {first}": {name: (1.0 if name == first else _ASIDE, _RRF[1]) for name in names}
        for first in names
    }
    return {"rank fusion": dict.fromkeys(names, _RRF), **alone}


def _aim(lesson: FusionLesson, fusion: Fusion) -> float:
    return float(lesson.aims(lesson.fused(fusion)).mean())


def _aims(lessons: Sequence[FusionLesson], fusions: Sequence[Fusion]) -> Doubles:
    """The aims of all users, each lesson's with its own fusion."""
    pairs = zip(lessons, fusions, strict=True)
    return np.concatenate([lesson.aims(lesson.fused(fusion)) for lesson, fusion in pairs])


def _densities(lesson: FusionLesson) -> Fusion:
    """Each source's rate of hits by rank, as weight / (offset + 1 + rank).

    If sources found things independently, the sum of their rates would be the rate of the item.
    """
    return {name: _density(*lesson.hits(name)) for name in lesson.names}


def _density(shown: Doubles, hit: Doubles) -> tuple[float, float]:
    """The (weight, offset) under which hits by rank are most likely, from a grid of offsets."""
    best = (-np.inf, 1.0, 60.0)
    for offset in np.geomspace(*_OFFSETS, 24):
        shape = 1 / (offset + 1 + np.arange(len(shown)))
        weight = max(float(hit.sum()), 0.5) / max(float((shown * shape).sum()), 1e-9)
        likelihood = float(hit @ np.log(weight * shape) - (shown * weight * shape).sum())
        best = max(best, (likelihood, weight, float(offset)))
    return best[1], best[2]


def _ascend(lesson: FusionLesson, start: Fusion) -> Fusion:
    """Coordinate ascent: one number of one source at a time, steps getting smaller."""
    fusion, best = dict(start), _aim(lesson, start)
    for steps in _STEPS:
        for name in lesson.names:
            others = lesson.fused(fusion, without=name)
            for heavier, flatter in [(s, 1.0) for s in steps] + [(1.0, s) for s in steps]:
                weight = fusion[name][0] * heavier
                offset = float(np.clip(fusion[name][1] * flatter, *_OFFSETS))
                aim = float(lesson.aims(others + lesson.share(name, weight, offset)).mean())
                if aim > best:
                    fusion[name], best = (weight, offset), aim
    most = max(weight for weight, _ in fusion.values())
    return {name: (weight / most, offset) for name, (weight, offset) in fusion.items()}
