"""Jobs that are stopped or killed on their way, and go on from what is finished."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ranking_svc.ranker import open_builder
from shortlist.artifacts import ArtifactStore
from shortlist.ids import key_of
from shortlist.launch import module_command, tethered
from shortlist.live import CatalogItem, LiveEvent
from shortlist.stores.sqlite import SqliteStore
from tests.trained import job_environment, processes_naming, short_tmp
from training.dataset import Dataset
from training.shards import read_slices

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TIERS = ("backtest", "retrieval", "ranking")


@contextlib.contextmanager
def job(tier: str, workdir: Path) -> Iterator[subprocess.Popen[str]]:
    """A job in a process group of its own, killed in the end; its log goes to W/log."""
    with short_tmp() as tmp, (workdir / "log").open("w") as log:
        options = ("--workdir", str(workdir), "--no-gate")
        command = tethered(module_command(f"training.{tier}", *options))
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


def record(workdir: Path) -> None:
    """A new item, and events on it and others, of a new user as well."""

    async def append() -> None:
        store = SqliteStore(workdir / "store.sqlite")
        known = [one.id for one in await store.list_items(-1, 20)]
        await store.upsert_items([CatalogItem(id="new", title="A new item")])
        imported = Dataset.load(workdir / "dataset")
        newest_ms = int(imported.events.time_ms[-1])
        await store.append(
            [
                LiveEvent(
                    event_id=f"e{at}",
                    user_id=f"newcomer-{at % 7}",
                    item_id=(["new", *known])[at % 21],
                    event_type=imported.event_types[0],
                    time_ms=newest_ms + 1000 * at,
                    weight=1.0,
                )
                for at in range(500)
            ]
        )
        await store.close()

    asyncio.run(append())


def test_a_job_that_is_stopped_leaves_no_half_version_and_keeps_its_finished_steps(
    trained_copy: Path,
) -> None:
    before = versions(trained_copy)
    with job("retrieval", trained_copy) as running:
        wait_for_steps(running, trained_copy, 1)
        running.send_signal(signal.SIGTERM)  # as `ray job stop` does
        assert running.wait(60) != 0
    assert staged(trained_copy) == []
    assert versions(trained_copy) == before
    assert finished(trained_copy)


@pytest.mark.parametrize("tier", ["retrieval", "ranking"])
def test_a_killed_job_goes_on_from_what_it_had_finished(trained_copy: Path, tier: str) -> None:
    """What is learned has grown meanwhile: a ranker knows an item that its retrieval does not."""
    before = versions(trained_copy)
    record(trained_copy)
    with job(tier, trained_copy) as running:
        steps = wait_for_steps(running, trained_copy, 1)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert versions(trained_copy) == before
    with job(tier, trained_copy) as running:
        assert running.wait(400) == 0, (trained_copy / "log").read_text()
    log = (trained_copy / "log").read_text()
    again = {
        name for line in re.findall(r"finished before: (.*)", log) for name in line.split(", ")
    }
    assert {Path(step).name for step in steps} <= again
    assert staged(trained_copy) == []
    assert finished(trained_copy) == set()
    after = versions(trained_copy)
    assert after[tier] != before[tier]
    artifact = ArtifactStore(trained_copy / "artifacts").open(tier)
    meta = artifact.manifest.meta
    assert meta["snapshot_sequence"] == 501
    assert meta["log_sequence"] == 501 - 200  # the newest 200 judge
    assert meta["items_total"] == Dataset.load(trained_copy / "dataset").n_items + 1
    keys = read_slices(artifact).keys if tier == "retrieval" else open_builder(artifact).table.keys
    assert key_of("new") in keys
    assert f'metrics: {{"tier": "{tier}", "version": "{after[tier]}"' in log
    assert "Traceback" not in log
