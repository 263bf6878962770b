"""What else goes on on this machine while something is measured."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

__all__ = ["OthersWatch"]


class OthersWatch:
    """How busy other processes keep the cores, from now on.

    `ours_s` is the CPU time so far of what is measured, and of whoever measures, in seconds.
    """

    def __init__(self, ours_s: Callable[[], float]) -> None:
        self._ours_s = ours_s
        self._begun, self._busy, self._ours = time.monotonic(), _busy_s(), ours_s()

    def share(self) -> float:
        """Of all cores, 0 to 1; clocks tick every 10 ms, so of short stretches it says little."""
        others = (_busy_s() - self._busy) - (self._ours_s() - self._ours)
        there = (time.monotonic() - self._begun) * (psutil.cpu_count() or 1)
        return min(1.0, max(0.0, others / there)) if there else 0.0


def _busy_s() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
