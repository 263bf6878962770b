"""What was seen of one release, in memory that does not grow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Durations", "Figures", "RollingFigures"]

_STEP = math.log(1.02)  # so wide are the buckets: a quantile is right within 1 %
_FIRST_MS = 0.05
_BUCKETS = 800  # up to 380 s
_WINDOW = 5000  # requests; the newest one to two windows are judged


@dataclass(slots=True, kw_only=True)
class Durations:
    """A histogram with buckets that widen like the values: 6 kB, whatever comes."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BUCKETS, np.int64))

    def add(self, milliseconds: float) -> None:
        self.counts[_bucket(milliseconds)] += 1

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def quantile(self, share: float) -> float:
        """Milliseconds that `share` of the values do not exceed; 0 without values."""
        total = self.total
        if not total:
            return 0.0
        at = int(np.searchsorted(np.cumsum(self.counts), share * total))
        return _FIRST_MS * math.exp((min(at, _BUCKETS - 1) + 0.5) * _STEP)

    def above(self, milliseconds: float) -> int:
        """How many values are larger, but for those in the same bucket."""
        return int(self.counts[_bucket(milliseconds) + 1 :].sum())

    def __add__(self, other: Durations) -> Durations:
        return Durations(counts=self.counts + other.counts)


def _bucket(milliseconds: float) -> int:
    if milliseconds <= _FIRST_MS:
        return 0
    return min(_BUCKETS - 1, int(math.log(milliseconds / _FIRST_MS) / _STEP))


@dataclass(slots=True, kw_only=True)
class Figures:
    """Requests of one release."""

    requests: int = 0  # answered, failed or fallen back
    failed: int = 0
    degraded: int = 0  # answered, with at least one degradation
    fallen_back: int = 0  # answered by another release, because this one was not there
    durations: Durations = field(default_factory=Durations)  # of whole requests answered by it

    @property
    def failed_share(self) -> float:
        return self.failed / max(1, self.requests)

    @property
    def degraded_share(self) -> float:
        """A page that another release had to make is a degraded one, too."""
        return (self.degraded + self.fallen_back) / max(1, self.requests)

    def answered(self, milliseconds: float, *, degraded: bool) -> None:
        self.requests += 1
        self.degraded += degraded
        self.durations.add(milliseconds)

    def fell_back(self) -> None:
        self.requests += 1
        self.fallen_back += 1

    def fail(self) -> None:
        self.requests += 1
        self.failed += 1

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            requests=self.requests + other.requests,
            failed=self.failed + other.failed,
            degraded=self.degraded + other.degraded,
            fallen_back=self.fallen_back + other.fallen_back,
            durations=self.durations + other.durations,
        )


class RollingFigures:
    """The figures of a canary and of the others over the same time: all there were, and the newest.

    What goes wrong late must not drown in what went well before.
    """

    def __init__(self, window: int = _WINDOW) -> None:
        """The newest are the canary's last one to two times `window` requests, and the others'
        meanwhile."""
        self._window = window
        self._old = _Pair()
        self._last = _Pair()
        self._now = _Pair()

    def of(self, *, canary: bool) -> Figures:
        """Where to count the next request."""
        if self._now.canary.requests >= self._window:
            self._old, self._last, self._now = self._old + self._last, self._now, _Pair()
        return self._now.canary if canary else self._now.others

    def newest(self) -> tuple[Figures, Figures]:
        """Of the canary and of the others."""
        pair = self._last + self._now
        return pair.canary, pair.others

    def all(self) -> tuple[Figures, Figures]:
        """Of the canary and of the others."""
        pair = self._old + self._last + self._now
        return pair.canary, pair.others


@dataclass(slots=True, kw_only=True)
class _Pair:
    canary: Figures = field(default_factory=Figures)
    others: Figures = field(default_factory=Figures)

    def __add__(self, other: _Pair) -> _Pair:
        return _Pair(canary=self.canary + other.canary, others=self.others + other.others)
