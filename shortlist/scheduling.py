"""What a process that serves asks of Linux's scheduler: short turns, soon.

A thread that wakes up for a request waits until the turn of whoever computes at that moment has
ended, some milliseconds, however nice that one is: a turn that was begun is protected, unless from
somebody whose own turns are shorter (EEVDF, since Linux 6.12; see sched_setattr(2)). Short turns
are no larger share of the processor.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

__all__ = ["ask_for_short_turns"]

_TURN_NS = 100_000  # the least that Linux takes
_CALL = {"x86_64": 314, "aarch64": 274}  # sched_setattr, for which glibc has no name before 2.41
# size, policy, flags, nice, priority, runtime, deadline, period
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")


def ask_for_short_turns() -> bool:
    """For this thread and those that it starts. False where the system knows no such request or
    refuses it, or where somebody has chosen another policy for this process (chrt(1)); then nothing
    has changed. Older Linux takes it, and does nothing.
    """
    call = _CALL.get(platform.machine())
    if sys.platform != "linux" or call is None:
        return False
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, _TURN_NS, 0, 0)
    system = ctypes.CDLL(None, use_errno=True)
    return bool(system.syscall(call, 0, ctypes.create_string_buffer(wanted), 0) == 0)
