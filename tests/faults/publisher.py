"""`python -m tests.faults.publisher FOLDER`: is killed at every step of publishing and promoting.

A child is forked for each line of `shortlist.artifacts` that publishing `v1` and promoting it over
`v0` executes, and kills itself with SIGKILL before that line. After each death this process reads
the store as a server would. It prints one JSON object: how many steps there were, and how often a
reader found what.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any

from shortlist import artifacts
from shortlist.artifacts import ArtifactStore

TIER = "retrieval"


def publish(store: ArtifactStore, version: str) -> None:
    with store.stage(TIER) as staged:
        (staged.path / "shard-00000").mkdir()
        (staged.path / "shard-00000" / "config.pb").write_bytes(version.encode())
        staged.publish(version=version, meta={"of": version})


def publish_and_promote(store: ArtifactStore) -> None:
    publish(store, "v1")
    store.promote(TIER, "v1", expected="v0")


def die_before_line(number: int, module: str, functions: Collection[str]) -> Callable[..., Any]:
    """A trace function that kills this process before the given line event of the module's file.

    Only lines of `functions` count, if any are named.
    """
    left = number

    def trace(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        nonlocal left
        if frame.f_code.co_filename != module:
            return None
        if functions and frame.f_code.co_name not in functions:
            return None
        if event == "line":
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return trace

    return trace


def dies(
    module: str | None, number: int, work: Callable[[], object], functions: Collection[str] = ()
) -> bool:
    """Whether a child that dies before that line of the module died; False: it finished before."""
    child = os.fork()
    if child == 0:
        try:
            sys.settrace(die_before_line(number, str(module), functions))
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def what_a_reader_finds(store: ArtifactStore) -> str:
    """Raises if anything that can be seen cannot be opened."""
    seen = store.versions(TIER)
    assert seen in (["v0"], ["v0", "v1"]), seen
    for version in seen:
        artifact = store.open(TIER, version)
        assert (artifact.path / "shard-00000" / "config.pb").read_text() == version
    current = store.open(TIER).version
    return "promoted" if current == "v1" else "published" if "v1" in seen else "nothing"


def forget_v1(store: ArtifactStore, home: Path) -> None:
    """Back to where only `v0` is; what dead children staged is swept by the next stage."""
    if store.current(TIER) == "v1":
        store.promote(TIER, "v0", expected="v1")
    shutil.rmtree(home / "v1", ignore_errors=True)
    with store.stage(TIER) as staged:
        leftovers = [path for path in home.glob(".staging-*") if path.is_dir()]
        assert leftovers == [staged.path], leftovers


def main(folder: Path) -> None:
    # A killed process loses nothing that it wrote; waiting for the disk would only take time.
    os.fsync = lambda handle: None
    store = ArtifactStore(folder)
    publish(store, "v0")
    store.promote(TIER, "v0", expected=None)
    found: Counter[str] = Counter()
    while dies(artifacts.__file__, found.total(), lambda: publish_and_promote(store)):
        found[what_a_reader_finds(store)] += 1
        forget_v1(store, folder / TIER)
    finished = what_a_reader_finds(store)
    print(json.dumps({"steps": found.total(), "finished": finished, **found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
