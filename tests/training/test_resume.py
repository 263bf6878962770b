"""Jobs that are stopped or killed on their way, and go on from what is finished."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist.artifacts import ArtifactStore
from shortlist.launch import module_command, tethered
from tests.trained import job_environment, processes_naming, short_tmp

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TIERS = ("backtest", "retrieval", "ranking")


@contextlib.contextmanager
def job(tier: str, workdir: Path) -> Iterator[subprocess.Popen[str]]:
    """A job in a process group of its own, killed in the end; its log goes to W/log."""
    with short_tmp() as tmp, (workdir / "log").open("w") as log:
        command = tethered(module_command(f"training.{tier}", "--workdir", str(workdir)))
        running = subprocess.Popen(
            command,
            env=job_environment(tmp, workdir),
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            yield running
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            ends = time.monotonic() + 60
            while processes_naming(str(tmp)) and time.monotonic() < ends:
                time.sleep(0.1)


def finished(workdir: Path) -> set[str]:
    """Steps that are done, of whatever job."""
    work = workdir / "artifacts" / ".work"
    notes = [path.parent for path in work.glob("**/.note.json")] + list(work.glob("*/lessons"))
    return {
        str(path.relative_to(work)) for path in notes if "/." not in str(path.relative_to(work))
    }


def wait_for_steps(running: subprocess.Popen[str], workdir: Path, count: int) -> set[str]:
    ends = time.monotonic() + 300
    while len(steps := finished(workdir)) < count:
        assert running.poll() is None, (workdir / "log").read_text()
        assert time.monotonic() < ends
        time.sleep(0.02)
    return steps


def staged(workdir: Path) -> list[Path]:
    return list((workdir / "artifacts").glob("*/.staging-*"))


def versions(workdir: Path) -> dict[str, str]:
    store = ArtifactStore(workdir / "artifacts")
    return {tier: store.current(tier) for tier in TIERS}


@pytest.mark.parametrize("tier", ["retrieval", "ranking"])
def test_a_job_goes_on_from_what_it_had_finished_when_it_was_stopped_or_killed(
    trained_copy: Path, tier: str
) -> None:
    before = versions(trained_copy)
    with job(tier, trained_copy) as running:
        wait_for_steps(running, trained_copy, 1)
        running.send_signal(signal.SIGTERM)  # as `ray job stop` does
        assert running.wait(60) != 0
    assert staged(trained_copy) == []
    assert versions(trained_copy) == before
    first = finished(trained_copy)
    assert first
    with job(tier, trained_copy) as running:
        second = wait_for_steps(running, trained_copy, len(first) + 1)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert first < second
    assert versions(trained_copy) == before
    with job(tier, trained_copy) as running:
        assert running.wait(400) == 0, (trained_copy / "log").read_text()
    log = (trained_copy / "log").read_text()
    again = {
        name for line in re.findall(r"finished before: (.*)", log) for name in line.split(", ")
    }
    assert {Path(step).name for step in second} <= again
    assert staged(trained_copy) == []
    assert finished(trained_copy) == set()
    after = versions(trained_copy)
    assert after[tier] != before[tier]
    ArtifactStore(trained_copy / "artifacts").open(tier)
    assert f'metrics: {{"tier": "{tier}", "version": "{after[tier]}"' in log
    assert "Traceback" not in log
