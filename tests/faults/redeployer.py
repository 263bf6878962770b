"""`python -m tests.faults.redeployer ROOT TIER VERSION TARGET...`: is killed while it redeploys.

For each number that it reads from stdin it forks a child that redeploys, and kills itself with
SIGKILL before that many lines of `shortlist.rollout` were executed. It answers `killed` or
`finished`. It makes no connection itself, so that its children may.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from shortlist import rollout
from shortlist.artifacts import ArtifactStore
from shortlist.config import DeploymentConfig
from shortlist.fleet import reached


def die_before_line(number: int) -> Callable[..., Any]:
    """A trace function that kills this process before the given line event of the module."""
    left = number

    def trace(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        nonlocal left
        if frame.f_code.co_filename != rollout.__file__:
            return None
        if event == "line":
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return trace

    return trace


async def redeploy(root: str, tier: str, version: str, targets: list[str]) -> None:
    config = DeploymentConfig(keep_previous=False, drain_s=0.0)
    async with reached(targets) as fleet:
        await rollout.Redeploy(ArtifactStore(root), fleet, tier, config).deploy(version)


def dies_before_line(number: int, root: str, tier: str, version: str, targets: list[str]) -> bool:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.settrace(die_before_line(number))
            asyncio.run(redeploy(root, tier, version, targets))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != 0:
        raise RuntimeError(f"the redeploy failed by itself before line {number}")
    return os.WIFSIGNALED(status)


def main(root: str, tier: str, version: str, *targets: str) -> None:
    for line in sys.stdin:
        killed = dies_before_line(int(line), root, tier, version, list(targets))
        print("killed" if killed else "finished", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
