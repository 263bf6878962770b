"""Faults 4 and 5: a replica stands still (SIGSTOP) under load, and wakes up again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.serving.world import retrieval_version
from shortlist.artifacts import MANIFEST, ArtifactStore
from shortlist.config import Config, DeploymentConfig
from shortlist.fleet import reached
from shortlist.rollout import Redeploy
from tests.faults.watched import PAGES, Watcher, figures, prepare_world, recovery, watched

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STOPPED = "retrieval-0-0"
NEWER = "newer"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    prepare_world(folder)
    publish_again(ArtifactStore(folder / "artifacts"), retrieval_version(2), NEWER)
    return folder


async def test_fault_4_a_replica_that_stands_still_is_covered_by_its_sibling(
    world: Path, record_fault: Callable[..., None]
) -> None:
    budget_ms = Config.load(world / "shortlist.yaml").serving.request_budget_ms
    async with watched(world, replicas=2) as watcher:
        before = await watcher.stretch()
        moment = watcher.moment()
        with watcher.stopped(STOPPED):
            begun = await watcher.attempts("retrieval")
            await watcher.answered(3 * PAGES)
            during = watcher.since(moment)
            made = await watcher.attempts("retrieval") - begun
    assert before.lowest_coverage == 1.0
    assert during.slowest_ms < budget_ms
    # The sibling has what the one that stands still would have answered, and is asked in time.
    assert made["hedge"] > 0
    assert during.last(PAGES).lowest_coverage == 1.0
    assert during.last(PAGES).reasons == set()
    second = sum(made[why] for why in ("hedge", "retry", "version"))
    record_fault(
        **figures(before, during),
        **recovery(moment, before, during),
        hedges=made["hedge"],
        attempts_a_call=round(1 + second / made["first"], 3),
    )


async def test_fault_5_a_replica_that_wakes_up_answers_nothing_from_a_stale_version(
    world: Path, record_fault: Callable[..., None]
) -> None:
    async with watched(world, replicas=2) as watcher:
        before = await watcher.stretch()
        with watcher.stopped(STOPPED):
            await redeploy(watcher, world)
            await watcher.answered(5)
            begun = await watcher.attempts("retrieval")
        woken = watcher.moment()  # it has the version from before, and nobody told it better
        await watcher.answered(4 * PAGES)
        after = watcher.since(woken)
        made = await watcher.attempts("retrieval") - begun
    assert {page.versions.retrieval for page in before.pages} == {retrieval_version(2)}
    assert {page.versions.retrieval for page in after.pages} == {NEWER}
    assert after.last(PAGES).lowest_coverage == 1.0
    assert after.last(PAGES).reasons == set()
    assert made["version"] > 0  # it was asked, and refused
    record_fault(
        **figures(before, after),
        **recovery(woken, before, after),
        stale=0,
        refused_by_it=made["version"],
    )


async def redeploy(watcher: Watcher, world: Path) -> None:
    """Everybody who answers gets the newer version."""
    targets = [one.address for one in watcher.processes]
    async with reached(targets, strict=False) as fleet:
        assert len(fleet.missing) == 1
        store, quick = ArtifactStore(world / "artifacts"), DeploymentConfig(drain_s=0.0)
        await Redeploy(store, fleet, "retrieval", quick, tell=print).deploy(NEWER)


def publish_again(store: ArtifactStore, version: str, name: str) -> None:
    """The same content under another name: versions differ in nothing that costs time."""
    one = store.open("retrieval", version)
    with store.stage("retrieval") as staged:
        shutil.copytree(
            one.path, staged.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST)
        )
        staged.publish(version=name, meta=one.manifest.meta)
