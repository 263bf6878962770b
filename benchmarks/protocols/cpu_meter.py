"""CPU time of everything that a run starts, wherever it ends up in the tree of processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

__all__ = ["CpuMeter"]

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_INTERVAL_S = 0.5
# Places in /proc/<pid>/stat behind the command, which may hold anything; see proc(5).
_PARENT, _USER_TICKS, _SYSTEM_TICKS, _STARTED = 1, 11, 12, 19


class CpuMeter:
    """CPU seconds of this process and of every process below it, while the meter runs.

    `RUSAGE_CHILDREN` knows only children that were waited for, and Ray's workers are children of a
    daemon that waits for none. So the tree of processes is looked at twice a second, and whoever
    loses its parent is adopted (prctl(2), PR_SET_CHILD_SUBREAPER) and thus stays in the tree. What
    a process does after the last look at it, half a second at most, is missing. Linux only.
    """

    available = sys.platform.startswith("linux")

    def __init__(self) -> None:
        self._ticks: dict[tuple[int, int], int] = {}  # (pid, start) -> most ticks seen
        self._before = time.process_time()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._looker = threading.Thread(target=self._keep_looking, daemon=True)

    def __enter__(self) -> CpuMeter:
        if self.available:
            self._adopted_before = _adopts_orphans()
            _adopt_orphans(True)
            self._before = time.process_time()
            self._looker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.available:
            self._ended.set()
            self._looker.join()
            _adopt_orphans(self._adopted_before)

    @property
    def seconds(self) -> float | None:
        """So far, since the meter was entered; None where it cannot be measured."""
        if not self.available:
            return None
        self._look()
        with self._lock:
            ticks = sum(self._ticks.values())
        return time.process_time() - self._before + ticks / os.sysconf("SC_CLK_TCK")

    def _keep_looking(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            self._look()

    def _look(self) -> None:
        stats = {pid: fields for pid, fields in _stats() if pid != os.getpid()}
        children: dict[int, list[int]] = {}
        for pid, fields in stats.items():
            children.setdefault(int(fields[_PARENT]), []).append(pid)
        todo = list(children.get(os.getpid(), ()))
        with self._lock:
            while todo:
                pid = todo.pop()
                todo += children.get(pid, ())
                fields = stats[pid]
                ticks = int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])
                who = (pid, int(fields[_STARTED]))
                self._ticks[who] = max(ticks, self._ticks.get(who, 0))


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Every process and its fields behind the command."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                text = (folder / "stat").read_text("utf-8", "replace")
                yield int(folder.name), text[text.rindex(")") + 2 :].split()


def _adopts_orphans() -> bool:
    answer = ctypes.c_int()
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return bool(answer.value)


def _adopt_orphans(adopt: bool) -> None:
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(adopt))


def _prctl(option: int, argument: object) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
