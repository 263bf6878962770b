"""How one Shortlist process starts another: same interpreter, same code, and never an orphan.

Run as a script (`python launch.py PARENT_PID COMMAND...`), this file becomes COMMAND after asking
the kernel to kill it when PARENT_PID dies. An `exec` keeps that request; a `preexec_fn` would need
a fork of a process that may already run gRPC threads.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["child_environment", "module_command", "private_ray", "tethered"]

_PR_SET_PDEATHSIG = 1
_SOURCES = Path(__file__).resolve().parent.parent


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line of `python -m module arguments...`; a folder of that name in the current
    directory does not stand in for the module."""
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, in which a child finds the code that we run, plus `extra`."""
    paths = [str(_SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])]
    defaults = {
        "ORT_DISABLE_TELEMETRY": "1",  # neither ONNX Runtime nor Ray may report to anybody
        "PYTHONUNBUFFERED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TF_USE_LEGACY_KERAS": "1",
    }
    return {**defaults, **os.environ, "PYTHONPATH": os.pathsep.join(paths), **(extra or {})}


def private_ray(tmp: Path) -> dict[str, str]:
    """Environment of a process that brings up a Ray of its own and leaves nothing behind.

    Its files go into `tmp`, whose name must be short: Ray keeps Unix sockets there. It wants a
    token from its clients that nobody else knows and that is kept in no file; without one of ours,
    Ray would write one into the home folder. What the environment says about Ray already, stays.
    """
    private = {
        "TMPDIR": str(tmp),
        "RAY_TMPDIR": str(tmp),
        "KERAS_HOME": str(tmp / "keras"),
    }
    if not any(name.startswith(("RAY_AUTH_", "RAY_ADDRESS")) for name in os.environ):
        private |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return private


def tethered(command: list[str]) -> list[str]:
    """`command`, wrapped so that it is killed when the calling thread's process dies, even by
    kill -9. Elsewhere than on Linux it runs as it is."""
    if not sys.platform.startswith("linux"):
        return command
    return [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid()), *command]


def _become(parent: int, command: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("the parent died before this process could ask to die with it")
    os.execv(command[0], command)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
