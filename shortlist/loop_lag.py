"""How long the event loop does not listen: what a callback that blocks it costs everybody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from selectors import BaseSelector
from typing import Any

__all__ = ["LoopLag"]

PEAK_S = 30.0
SHORTEST_S = 0.001  # shorter turns are not told: a page is made of dozens of them

_ASLEEP = float("inf")
# A thread's CPU clock costs a system call, 5 us on some machines: it is read this often, and the
# CPU of a turn may be told too high by as much.
_CPU_EVERY_S = 0.005
_RINGS_EVERY_S = 0.05  # where turns cannot be timed


class LoopLag:
    """Times every turn of the loop, from when it has heard of something until it listens again.

    Whatever arrives meanwhile waits for so long at most. It costs less than a microsecond a turn,
    and an idle loop is not woken.

    A turn is long because the loop computes, or because its thread had no core or waited: for the
    disk, for the interpreter's lock. `busy_peak_s` is what it computed itself in one turn.

    uvloop does not tell of its turns. There a timer rings every 50 ms, and how late it is counts as
    a turn: what blocks for longer is always seen, shorter blocks now and then, and `busy_peak_s`
    stays 0.
    """

    def __init__(
        self,
        observe: Callable[[float], None] = lambda _lag_s: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`observe` gets every turn of at least `SHORTEST_S`, in seconds."""
        self._observe = observe
        self._clock = clock
        self._awake_since = _ASLEEP
        self._cpu_s = 0.0  # of the loop's thread, when it was last read
        self._cpu_read = -_ASLEEP  # when that was
        # Of the window that ended last, and of the one that runs.
        self._peaks = [0.0, 0.0]
        self._busy_peaks = [0.0, 0.0]
        self._window_ends = 0.0
        self._selector: Any = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def peak_s(self) -> float:
        """The longest turn of the last 30 s at least, 60 s at most; any thread may ask.

        Asking does not reset it, so two who ask see the same. A turn that has not ended counts
        with what it has lasted already.
        """
        return max(*self._peaks, self._clock() - self._awake_since)

    @property
    def busy_peak_s(self) -> float:
        """The most CPU time of the loop's thread within one turn; of the same time as `peak_s`."""
        return max(self._busy_peaks)

    def start(self) -> None:
        """Begin to watch the running loop."""
        loop = asyncio.get_running_loop()
        self._window_ends = self._clock() + PEAK_S
        self._selector = _selector_of(loop)
        if self._selector is None:
            self._set_timer(loop)
            return
        self._wake_up()
        listen = self._selector.select

        def select(timeout: float | None = None) -> Any:
            self._end_turn()
            try:
                return listen(timeout)
            finally:
                self._wake_up()

        self._selector.select = select

    def stop(self) -> None:
        if self._selector is not None:
            del self._selector.select  # the class has its own
            self._selector = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._awake_since = _ASLEEP

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + _RINGS_EVERY_S

        def ring() -> None:
            self._open_window(self._clock())
            self._note(loop.time() - due)
            self._set_timer(loop)

        self._timer = loop.call_at(due, ring)

    def _wake_up(self) -> None:
        now = self._awake_since = self._clock()
        if now - self._cpu_read >= _CPU_EVERY_S:
            self._cpu_s, self._cpu_read = time.thread_time(), now

    def _end_turn(self) -> None:
        now = self._clock()
        turn_s = now - self._awake_since
        self._awake_since = _ASLEEP
        self._open_window(now)
        if self._note(turn_s):
            busy_s = min(turn_s, time.thread_time() - self._cpu_s)
            self._busy_peaks[1] = max(self._busy_peaks[1], busy_s)

    def _open_window(self, now: float) -> None:
        """The next one, once this one's time is over."""
        if now >= self._window_ends:
            self._peaks = [self._peaks[1], 0.0]
            self._busy_peaks = [self._busy_peaks[1], 0.0]
            self._window_ends = now + PEAK_S

    def _note(self, turn_s: float) -> bool:
        """Whether the turn is long enough to be told."""
        if turn_s < SHORTEST_S:
            return False
        self._peaks[1] = max(self._peaks[1], turn_s)
        self._observe(turn_s)
        return True


def _selector_of(loop: asyncio.AbstractEventLoop) -> BaseSelector | None:
    """None of a loop that has none, which is none of asyncio's on the systems that we run on."""
    # A loop takes a selector when it is made, but does not tell it.
    return getattr(loop, "_selector", None)
