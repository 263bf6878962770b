"""How late the event loop is: what one callback that blocks it costs everybody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["LoopLag"]

SAMPLE_S = 0.005
PEAK_S = 30.0


class LoopLag:
    """Asks the loop every 5 ms to be woken, and looks how late it was.

    A block is seen less at most one sample short: whoever blocks 50 ms makes a lag of 45 to 50 ms.
    One wake-up costs some 15 us of CPU.

    A loop is late because it computes, or because its thread had no core or waited: for the disk,
    for the interpreter's lock. `busy_peak_s` is what it computed itself in one such lag.
    """

    def __init__(
        self,
        observe: Callable[[float], None] = lambda _lag_s: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`observe` gets every sample, in seconds."""
        self._observe = observe
        self._clock = clock
        self._due = float("inf")
        self._cpu_s = 0.0  # of the loop's thread, when it was last awake
        # Of the window that ended last, and of the one that runs.
        self._peaks = [0.0, 0.0]
        self._busy_peaks = [0.0, 0.0]
        self._window_ends = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def peak_s(self) -> float:
        """The longest lag of the last 30 s at least, 60 s at most; any thread may ask.

        Asking does not reset it, so two who ask see the same. A block that has not ended counts
        with what it has lasted already.
        """
        return max(*self._peaks, self._clock() - self._due)

    @property
    def busy_peak_s(self) -> float:
        """The most CPU time of the loop's thread within one lag; of the same time as `peak_s`."""
        return max(self._busy_peaks)

    def start(self) -> None:
        """Begin to sample the running loop."""
        self._window_ends = self._clock() + PEAK_S
        self._again(asyncio.get_running_loop())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = float("inf")

    def _again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._cpu_s = time.thread_time()
        self._due = self._clock() + SAMPLE_S
        self._timer = loop.call_later(SAMPLE_S, self._sample, loop)

    def _sample(self, loop: asyncio.AbstractEventLoop) -> None:
        now = self._clock()
        lag_s = max(0.0, now - self._due)
        if now >= self._window_ends:
            self._peaks = [self._peaks[1], 0.0]
            self._busy_peaks = [self._busy_peaks[1], 0.0]
            self._window_ends = now + PEAK_S
        self._peaks[1] = max(self._peaks[1], lag_s)
        busy_s = min(lag_s, time.thread_time() - self._cpu_s)
        self._busy_peaks[1] = max(self._busy_peaks[1], busy_s)
        self._observe(lag_s)
        self._again(loop)
