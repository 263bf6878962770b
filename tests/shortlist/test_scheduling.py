from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

# In a process of its own: the tests' own turns stay as they are.
_PROGRAM = """
import ctypes, json, os, struct, sys, threading
import click
from shortlist.process import service_options
from shortlist.scheduling import ask_for_short_turns

@click.command()
@service_options("nothing")
def service(arguments):
    pass

def attributes():
    buffer = ctypes.create_string_buffer(48)
    getter = {"x86_64": 315, "aarch64": 275}[os.uname().machine]
    assert ctypes.CDLL(None).syscall(getter, 0, buffer, 48, 0) == 0
    _, policy, _, nice, _, turn_ns, _, _ = struct.unpack("=IIQiIQQQ", buffer.raw[:48])
    found.append({"policy": policy, "nice": nice, "turn_ns": turn_ns})

found = []
policy, nice = int(sys.argv[1]), os.getpriority(os.PRIO_PROCESS, 0)
usual = struct.pack("=IIQiIQQQ", 48, policy, 0, nice, 0, 0, 0, 0)
setter = {"x86_64": 314, "aarch64": 274}[os.uname().machine]
assert ctypes.CDLL(None).syscall(setter, 0, ctypes.create_string_buffer(usual), 0) == 0
attributes()
if sys.argv[2] == "service":
    service(["--workdir", "nowhere"], standalone_mode=False)
    taken = True
else:
    taken = ask_for_short_turns()
later = threading.Thread(target=attributes)
later.start()
later.join()
print(json.dumps({"taken": taken, "before": found[0], "after": found[1]}))
"""

linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="asks Linux, by the number of a system call",
)


def asked(policy: int, by: str = "itself") -> dict[str, Any]:
    """What a process of that policy, which is a little nice, is told, and how its threads go on."""
    command = ["nice", "-n", "3", sys.executable, "-c", _PROGRAM, str(policy), by]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@linux
@pytest.mark.parametrize("by", ["itself", "service"])
def test_threads_that_come_later_have_short_turns_and_are_as_nice_as_before(by: str) -> None:
    told = asked(os.SCHED_OTHER, by)
    assert told["taken"]
    assert told["after"]["policy"] == told["before"]["policy"]
    assert told["after"]["nice"] == told["before"]["nice"]
    release = tuple(map(int, platform.release().split(".")[:2]))
    if release >= (6, 12):
        assert told["after"]["turn_ns"] == 100_000 < told["before"]["turn_ns"]


@linux
def test_a_process_that_was_put_last_stays_last() -> None:
    told = asked(os.SCHED_IDLE)
    assert not told["taken"]
    assert told["after"] == told["before"]


def test_a_system_without_such_requests_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from shortlist.scheduling import ask_for_short_turns

    monkeypatch.setattr(sys, "platform", "darwin")
    assert not ask_for_short_turns()
