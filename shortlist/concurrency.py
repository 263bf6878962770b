"""How many calls to let in, by how long they take: more than are good for each other wait.

After the gradient limits of Netflix (https://github.com/Netflix/concurrency-limits) and Envoy
(https://www.envoyproxy.io, HTTP filter "Adaptive Concurrency"): times are compared with the best
that were seen, and what they are longer by is time spent waiting for other calls.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median

__all__ = ["AdaptiveLimit"]

_WINDOW_S = 0.5
_WINDOW_CALLS = 20  # fewer say nothing; the window stays open
_METHOD_CALLS = 5  # the same, of one method
_TOLERANCE = 2.0  # times the best: calls differ, and a little waiting keeps the process busy
_MOST_SHRINK = 0.5  # at the end of one window, to so much of what was in use
_FORGET_S = 1800.0  # in which the best time doubles: what calls cost may have changed for good


class AdaptiveLimit:
    """A limit between `least` and `most` calls at once that follows how long calls take.

    While more than `least` run and take more than twice their best times, it falls, from what is in
    use; otherwise it rises, by its square root. So up to `least` are let in however slow they are,
    when a tier hangs for instance, and more only while they are not slow. Each method is compared
    with itself.
    """

    def __init__(
        self, *, least: int, most: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._least = min(least, most)
        self._most = most
        self._clock = clock
        self._limit = float(most)
        self._best_s: dict[str, float] = {}  # by method: the least of windows' medians
        self._opened = clock()
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)  # of this window's calls
        self._calls = 0
        self._peak = 0

    @property
    def limit(self) -> int:
        return int(self._limit)

    def finished(self, method: str, seconds: float, running: int) -> None:
        """A call took so long; when it ended `running` calls, with it, took a place each."""
        self._seconds[method].append(seconds)
        self._calls += 1
        self._peak = max(self._peak, running)
        now = self._clock()
        if self._calls >= _WINDOW_CALLS and now - self._opened >= _WINDOW_S:
            self._adapt(now - self._opened)
            self._open(now)

    def _open(self, now: float) -> None:
        self._opened, self._calls, self._peak = now, 0, 0
        self._seconds.clear()

    def _adapt(self, window_s: float) -> None:
        slowness = self._slowness(window_s)
        if slowness > _TOLERANCE and self._peak > self._least:
            used = min(self._limit, float(self._peak))
            kept = max(_MOST_SHRINK, _TOLERANCE / slowness)
            limit = min(self._limit, kept * used + math.sqrt(used))
        else:
            limit = self._limit + math.sqrt(self._limit)
        self._limit = min(max(limit, float(self._least)), float(self._most))

    def _slowness(self, window_s: float) -> float:
        """The median of how many times as long as at best the window's calls took."""
        ratios: list[float] = []
        for method, seconds in self._seconds.items():
            if len(seconds) >= _METHOD_CALLS:
                best_s = self._note_best(method, median(seconds), window_s)
                ratios += [each / best_s for each in seconds]
        return median(ratios) if ratios else 1.0

    def _note_best(self, method: str, seconds: float, window_s: float) -> float:
        faded = self._best_s.get(method, math.inf) * 2 ** (window_s / _FORGET_S)
        self._best_s[method] = max(min(faded, seconds), 1e-6)
        return self._best_s[method]
