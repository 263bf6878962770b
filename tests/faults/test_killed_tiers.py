"""Faults 1, 2, 3 and 8: processes of the tiers are killed while pages are asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.watched import figures, prepare_world, watched

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    prepare_world(folder)
    return folder


async def test_fault_1_a_killed_replica_costs_nothing_but_its_calls(
    world: Path, record_fault: Callable[..., None]
) -> None:
    async with watched(world, replicas=2) as watcher:
        before = await watcher.stretch()
        watcher.kill("retrieval-0-0")
        during = await watcher.stretch()
    assert before.lowest_coverage == during.lowest_coverage == 1.0
    assert before.reasons == during.reasons == set()
    record_fault(**figures(before, during))


async def test_fault_2_a_shard_without_replicas_left_is_missing_and_named(
    world: Path, record_fault: Callable[..., None]
) -> None:
    async with watched(world) as watcher:
        before = await watcher.stretch()
        watcher.kill("retrieval-1-0")
        during = await watcher.stretch()
    assert before.reasons == set()
    # A page that had retrieved when the shard died lacks the cards of its items.
    assert {"SHARD_DOWN"} <= during.reasons <= {"SHARD_DOWN", "CARDS_INCOMPLETE"}
    assert {page.coverage.shards_answered for page in during.pages} == {1}
    assert 0.4 < during.lowest_coverage < 0.6
    record_fault(**figures(before, during))


async def test_fault_3_without_shards_the_popular_items_are_shown(
    world: Path, record_fault: Callable[..., None]
) -> None:
    async with watched(world) as watcher:
        before = await watcher.stretch()
        watcher.kill("retrieval-0-0", "retrieval-1-0")
        during = await watcher.stretch()
    assert before.reasons == set()
    assert "POPULARITY_FALLBACK" in during.reasons
    assert all(page.coverage.shards_answered == 0 for page in during.pages)
    assert during.lowest_coverage == 0
    record_fault(**figures(before, during))


async def test_fault_8_without_a_ranker_the_order_of_retrieval_stays(
    world: Path, record_fault: Callable[..., None]
) -> None:
    async with watched(world) as watcher:
        before = await watcher.stretch()
        watcher.kill("ranking-0")
        during = await watcher.stretch()
    assert before.reasons == set()
    assert during.reasons == {"RANKER_FALLBACK"}
    assert during.lowest_coverage == 1.0
    assert {page.versions.ranking for page in before.pages} == {"fast"}
    record_fault(**figures(before, during))
