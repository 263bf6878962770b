from __future__ import annotations

import asyncio

import pytest

from orchestrator.budget import Deadline
from orchestrator.replicas import Replicas
from orchestrator.versions import IndexVersionTracker, choose_version
from shortlist.errors import TierUnavailable
from tests.orchestrator.world import ArrayShard, Catalogue

CATALOGUE = Catalogue.of(50)


@pytest.mark.parametrize(
    ("reports", "previous", "expected"),
    [
        ([{"v1"}, {"v1"}], None, "v1"),
        ([{"v1"}, {"v1"}], "v0", "v1"),
        ([{"v1"}, set()], None, "v1"),  # one shard out of reach
        ([{"v2"}, {"v1"}], "v1", "v1"),  # a rollout under way: shards keep both
        ([{"v2"}, {"v2"}], "v1", "v2"),  # and over
        ([{"v1", "v2"}, {"v1", "v2"}], "v1", "v1"),  # half of the replicas rolled
        ([{"v1", "v2"}, {"v2"}], "v1", "v2"),
        ([{"v2"}, {"v1"}], None, "v2"),  # a new orchestrator in mid-rollout: the newest
        ([{"v1"}, {"v1"}, {"v2"}], None, "v1"),  # served by more shards
        ([{"v2"}, {"v3"}], "v1", "v3"),  # the previous one is gone
        ([set(), set()], "v1", "v1"),
        ([set(), set()], None, None),
        ([], None, None),
    ],
)
def test_the_version_to_pin(
    reports: list[set[str]], previous: str | None, expected: str | None
) -> None:
    assert choose_version(reports, previous) == expected


def a_tracker(shards: list[ArrayShard]) -> IndexVersionTracker:
    return IndexVersionTracker([Replicas([shard]) for shard in shards])


async def test_the_tracker_knows_what_shards_tell() -> None:
    tracker = a_tracker([ArrayShard(CATALOGUE, 1, 2), ArrayShard(CATALOGUE, 0, 2)])
    assert tracker.current is None
    assert tracker.shard_numbers == (None, None)
    index = await tracker.known(Deadline.after(1000))
    assert index is tracker.current is not None
    assert (index.version, index.shards, index.items_total) == ("v1", 2, 50)
    assert index.sources == ("popular", "two_tower")
    assert tracker.shard_numbers == (1, 0)


async def test_a_version_that_was_current_is_still_known() -> None:
    shard = ArrayShard(CATALOGUE)
    tracker = a_tracker([shard])
    await tracker.refresh(Deadline.after(1000))
    shard.version = "v2"
    await tracker.refresh(Deadline.after(1000))
    assert tracker.current is not None
    assert tracker.current.version == "v2"
    assert tracker.find("v1") is not None
    assert tracker.find("v7") is None


async def test_shards_that_go_away_do_not_make_the_tracker_forget() -> None:
    shard = ArrayShard(CATALOGUE)
    tracker = a_tracker([shard])
    await tracker.refresh(Deadline.after(1000))
    shard.fails = TierUnavailable("gone")
    assert (await tracker.refresh(Deadline.after(1000))) is tracker.current is not None


async def test_a_broken_status_is_one_shard_less_and_not_an_error() -> None:
    broken = ArrayShard(CATALOGUE, 0, 2)
    broken.fails = ZeroDivisionError("bug")
    tracker = a_tracker([broken, ArrayShard(CATALOGUE, 1, 2)])
    index = await tracker.refresh(Deadline.after(1000))
    assert index is not None
    assert tracker.shard_numbers == (None, 1)


async def test_a_short_deadline_ends_the_wait_but_not_the_question_that_callers_share() -> None:
    shard = ArrayShard(CATALOGUE)
    shard.delay_s = 0.05
    tracker = a_tracker([shard])
    assert await tracker.known(Deadline.after(1)) is None
    found = await asyncio.gather(*(tracker.known(Deadline.after(1000)) for _ in range(10)))
    assert {index.version for index in found if index} == {"v1"}
    await tracker.close()
