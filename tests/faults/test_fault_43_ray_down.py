"""Fault 43: Ray goes down in the middle of a job. Serving goes on; only the job ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.embedded import embedded
from shortlist.artifacts import ArtifactStore
from shortlist.launch import module_command, tethered
from shortlist.page import Page, PageRequest
from tests.trained import job_environment, short_tmp

pytestmark = pytest.mark.slow


async def test_fault_43_pages_and_versions_stay_when_ray_is_killed_under_a_job(
    trained_copy: Path, tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    store = ArtifactStore(trained_copy / "artifacts")
    current = {tier: store.current(tier) for tier in ("retrieval", "ranking")}
    pages: list[Page] = []
    async with await embedded(trained_copy) as recommender:
        stopped = asyncio.Event()

        async def ask() -> None:
            while not stopped.is_set():
                pages.append(await recommender.recommend(PageRequest(user_id="user-000001")))
                await asyncio.sleep(0.05)

        asking = asyncio.create_task(ask())
        with short_tmp() as tmp:
            code, log = await job_whose_ray_is_killed(trained_copy, tmp, tmp_path)
        asked = len(pages)
        await recommender.recommend(PageRequest(user_id="user-000002"))
        stopped.set()
        await asking
    assert code != 0, log
    assert asked > 0
    assert [page.degradations for page in pages if page.degradations] == []
    assert {page.versions.retrieval for page in pages} == {current["retrieval"]}
    assert {tier: store.current(tier) for tier in current} == current
    assert all(store.rollout(tier) is None for tier in current)
    record_fault(pages_meanwhile=len(pages), failed=0)


async def job_whose_ray_is_killed(workdir: Path, tmp: Path, home: Path) -> tuple[int, str]:
    """The exit code of a retrieval job whose Ray dies when its tasks have begun, and its log."""
    command = module_command("training.retrieval", "--workdir", str(workdir), "--seed", "5")
    job = await asyncio.create_subprocess_exec(
        *tethered(command),
        # Ray's minute, in which a lost head may come back, is ten seconds here.
        env=job_environment(tmp, home) | {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert job.stderr is not None
    lines: list[str] = []
    async for line in job.stderr:
        lines.append(line.decode(errors="replace"))
        if lines[-1].startswith("train: "):
            for pid in processes_of_ray(tmp):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            break
    lines.append((await job.stderr.read()).decode(errors="replace"))
    return await job.wait(), "".join(lines)


def processes_of_ray(tmp: Path) -> list[int]:
    """The head of the Ray whose files are in `tmp`: its control service and its node's manager."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            program, *arguments = path.read_bytes().decode(errors="replace").split("\0")
            if Path(program).name in ("raylet", "gcs_server") and str(tmp) in " ".join(arguments):
                found.append(int(path.parent.name))
    return found
