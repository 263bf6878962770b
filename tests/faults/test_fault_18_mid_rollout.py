"""Fault 18: whatever the shards are in the middle of, a response has one embedding space."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import product
from pathlib import Path

import pytest

from shortlist.rollout_client import Process
from tests.shortlist.fleets import System, publish_all, running, whole


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    publish_all(tmp_path)
    async with running(tmp_path) as system:
        yield system


async def test_fault_18_every_mixture_of_active_versions_gives_pages_of_one(
    system: System, record_fault: Callable[..., None]
) -> None:
    for shard in system.shards:
        await shard.versions.prepare("v2")
    orchestrator = Process(system.targets[-1])
    mixtures = list(product(["v1", "v2"], repeat=len(system.shards)))
    for mixture in mixtures:
        for shard, version in zip(system.shards, mixture, strict=True):
            await shard.versions.activate(version)
        named = (await orchestrator.refresh()).retrieval
        page = await system.page()
        assert whole(page), (mixture, page.degradations)
        assert page.versions.retrieval == named
        if len(set(mixture)) == 1:
            assert named == mixture[0]
    await orchestrator.close()
    record_fault(mixtures=len(mixtures))
