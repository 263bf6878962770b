"""When a second replica is asked, too: how long the first may take, and how often it is allowed.

Hedged requests are those of Dean & Barroso, "The Tail at Scale", CACM 2013.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["ExtraAttempts", "Patience", "Standing"]

_SAMPLES = 256  # newest answers that patience is learned from
_FEWEST = 20  # answers; with fewer, nothing is known
_LEARN_EVERY = 16  # answers
_QUANTILE = 0.95
_LEAST_S = 0.002  # a timer of the event loop is no more exact

_BURST = 128  # extra attempts at once, when a replica dies with so many calls

_REST_S = 1.0
_MOST_REST_S = 5.0
_LATE = 3  # answers in a row that came after a sibling's, after which a replica rests


class Patience:
    """How long an answer of some kind may take before a sibling is asked too: the rolling p95."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_SAMPLES)
        self._since = 0
        self._p95_s = math.inf

    def learn(self, seconds: float) -> None:
        """An answer took so long, or longer: who was not waited for counts with what he had."""
        self._seconds.append(seconds)
        self._since += 1
        if len(self._seconds) >= _FEWEST and self._since >= _LEARN_EVERY:
            self._since = 0
            ordered = sorted(self._seconds)
            self._p95_s = max(_LEAST_S, ordered[math.ceil(_QUANTILE * len(ordered)) - 1])

    def seconds(self, remaining_s: float) -> float:
        """Never more than half of what remains, so that a sibling has a chance."""
        return min(self._p95_s, remaining_s / 2)


class ExtraAttempts:
    """A token bucket: second attempts are at most a share of the first ones, but for a burst.

    Without it a tier that is slow or away everywhere would get twice the questions.
    """

    def __init__(self, share: float) -> None:
        """`share` of an extra attempt is earned by each first attempt; 0 = there are none."""
        self._share = share
        self._left = float(_BURST) if share else 0.0

    def earn(self) -> None:
        self._left = min(_BURST, self._left + self._share)

    def spend(self) -> bool:
        """Whether one is allowed now."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class Standing:
    """What is known of one replica from its last answers.

    One that fails, or is late again and again, rests: others are asked. Its rest grows from 1 s to
    5 s while it fails. Afterwards one call at a time tries it, until one succeeds.
    """

    clock: Callable[[], float]
    outstanding: int = 0
    strikes: int = 0  # rests since it last answered
    late: int = 0  # answers in a row that a sibling gave first
    rests_until: float = 0.0

    @property
    def avoided(self) -> bool:
        return self.clock() < self.rests_until or (self.strikes > 0 and self.outstanding > 0)

    def answered(self) -> None:
        self.strikes = self.late = 0
        self.rests_until = 0.0

    def was_late(self) -> bool:
        """A sibling answered first; whether the replica rests now."""
        self.late += 1
        if self.late < _LATE and not self.strikes:
            return False
        self.failed()
        return True

    def failed(self, *, again: bool = True) -> None:
        """It rests. `again` = longer each time."""
        self.strikes = self.strikes + 1 if again else max(1, self.strikes)
        rest_s = min(_MOST_REST_S, _REST_S * 2 ** (self.strikes - 1))
        self.rests_until = self.clock() + (rest_s if again else _REST_S)
