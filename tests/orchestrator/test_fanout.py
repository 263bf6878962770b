from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import pytest

from orchestrator.budget import Deadline
from orchestrator.fanout import ShardFanout, join_cards, merge_top_k
from orchestrator.replicas import Replicas
from orchestrator.versions import IndexVersionTracker
from shortlist.errors import InvalidField, TierUnavailable, VersionNotServed
from shortlist.ids import shard_quota
from shortlist.tiers import History, RetrieveQuery, Retriever, SourceCandidates, UserContext
from tests.orchestrator.world import SOURCES, ArrayShard, Catalogue

CATALOGUE = Catalogue.of(500)


def a_fanout(*groups: Sequence[ArrayShard]) -> ShardFanout:
    replicas: list[Replicas[Retriever]] = [Replicas(group) for group in groups]
    return ShardFanout(replicas, IndexVersionTracker(replicas))


def slices(shards: int) -> list[ArrayShard]:
    return [ArrayShard(CATALOGUE, shard, shards) for shard in range(shards)]


def a_query(version: str | None = None, k: int = 50) -> RetrieveQuery:
    history = History(
        keys=CATALOGUE.keys[:5], times_ms=np.arange(5), weights=np.ones(5, np.float32)
    )
    return RetrieveQuery(
        request_id="r",
        user=UserContext(user_key=1, history=history, time_ms=1),
        quotas=dict.fromkeys(SOURCES, k),
        exclude=CATALOGUE.keys[:5],
        index_version=version,
    )


@pytest.mark.parametrize("seed", range(20))
def test_merging_shards_is_the_top_k_of_all_items(seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.permutation(1000).astype(np.uint64)
    scores = rng.integers(0, 30, 1000).astype(np.float32)  # ties everywhere
    best = np.lexsort((keys, -scores))[:100]
    owner = rng.integers(0, rng.integers(1, 9), 1000)
    parts = []
    for shard in range(owner.max() + 1):
        rows = np.flatnonzero(owner == shard)
        rows = rows[np.lexsort((keys[rows], -scores[rows]))][:100]
        parts.append(SourceCandidates(source="s", keys=keys[rows], scores=scores[rows]))
    merged = merge_top_k("s", parts, 100)
    assert merged.keys.tolist() == keys[best].tolist()
    assert merged.scores.tolist() == scores[best].tolist()


@pytest.mark.parametrize("shards", [2, 3, 7])
async def test_the_result_does_not_depend_on_the_number_of_shards(shards: int) -> None:
    one = await a_fanout(slices(1)).retrieve(a_query(), Deadline.after(1000))
    many = await a_fanout(*([shard] for shard in slices(shards))).retrieve(
        a_query(), Deadline.after(1000)
    )
    for left, right in zip(one.sources, many.sources, strict=True):
        assert left.source == right.source
        assert left.keys.tolist() == right.keys.tolist()
        assert left.scores.tolist() == right.scores.tolist()
    assert many.coverage.shards_answered == many.coverage.shards_total == shards
    assert many.coverage.items_searched == many.coverage.items_total == 500
    assert many.failures == ()


async def test_no_shard_is_asked_for_more_than_it_may_have_of_the_best() -> None:
    shards = slices(2)
    fanout = a_fanout(*([shard] for shard in shards))
    found = await fanout.retrieve(a_query(k=200), Deadline.after(1000))
    assert [len(one.keys) for one in found.sources] == [200] * len(SOURCES)
    for shard in shards:
        (query,) = shard.queries
        assert set(query.quotas) == set(SOURCES)
        assert set(query.quotas.values()) == {shard_quota(200, 2)}


async def test_every_shard_is_asked_for_the_same_version() -> None:
    shards = slices(3)
    shards[1].also = ("v0",)
    await a_fanout(*([shard] for shard in shards)).retrieve(a_query(), Deadline.after(1000))
    assert {shard.queries[0].index_version for shard in shards} == {"v1"}


async def test_a_late_shard_is_left_out_and_reported() -> None:
    shards = slices(3)
    fanout = a_fanout(*([shard] for shard in shards))
    await fanout.retrieve(a_query(), Deadline.after(1000))
    shards[2].delay_s = 30
    started = time.monotonic()
    found = await fanout.retrieve(a_query(), Deadline.after(50))
    assert time.monotonic() - started < 10
    assert found.coverage.shards_answered == 2
    assert found.coverage.shards_total == 3
    assert found.coverage.items_searched == 500 - len(shards[2].keys)
    assert [(one.reason, one.stage) for one in found.failures] == [("SHARD_TIMEOUT", "shard/2")]


async def test_a_failed_replica_is_replaced_by_its_sibling() -> None:
    dead, alive = ArrayShard(CATALOGUE), ArrayShard(CATALOGUE)
    fanout = a_fanout([dead, alive])
    await fanout.retrieve(a_query(), Deadline.after(1000))
    dead.fails = TierUnavailable("dead")
    for _ in range(4):
        found = await fanout.retrieve(a_query(), Deadline.after(1000))
        assert found.failures == ()
        assert found.coverage.share == 1.0
    # Asked at most once while it rests: retries do not pile up.
    assert len(dead.queries) <= 3


async def test_a_bug_in_one_shard_costs_only_that_shard_and_leaks_no_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shards = slices(2)
    fanout = a_fanout(*([shard] for shard in shards))
    await fanout.retrieve(a_query(), Deadline.after(1000))
    shards[0].fails = ZeroDivisionError("secret")
    found = await fanout.retrieve(a_query(), Deadline.after(1000))
    assert [(one.reason, one.stage) for one in found.failures] == [("SHARD_DOWN", "shard/0")]
    assert "secret" not in found.failures[0].detail
    assert "secret" in caplog.text


async def test_a_shard_of_another_version_is_never_merged() -> None:
    shards = slices(2)
    fanout = a_fanout(*([shard] for shard in shards))
    await fanout.retrieve(a_query(), Deadline.after(1000))
    shards[1].version = "v2"
    found = await fanout.retrieve(a_query(), Deadline.after(1000))
    assert found.coverage.shards_answered == 1
    assert [(one.reason, one.stage) for one in found.failures] == [("SHARD_VERSION", "shard/1")]
    assert {one.index_version for one in found.slices} == {"v1"}


async def test_when_all_shards_have_moved_on_the_new_version_is_learnt_in_the_same_request() -> (
    None
):
    shards = slices(2)
    fanout = a_fanout(*([shard] for shard in shards))
    await fanout.retrieve(a_query(), Deadline.after(1000))
    for shard in shards:
        shard.version = "v2"
    found = await fanout.retrieve(a_query(), Deadline.after(1000))
    assert found.index is not None
    assert found.index.version == "v2"
    assert found.coverage.share == 1.0


async def test_a_pinned_version_is_served_as_long_as_shards_hold_it() -> None:
    shards = slices(2)
    for shard in shards:
        shard.version, shard.also = "v2", ("v1",)
    fanout = a_fanout(*([shard] for shard in shards))
    found = await fanout.retrieve(a_query(version="v1"), Deadline.after(1000))
    assert {one.index_version for one in found.slices} == {"v1"}
    assert found.coverage.items_total == 500
    for shard in shards:
        shard.also = ()
    with pytest.raises(VersionNotServed, match="v1"):
        await fanout.retrieve(a_query(version="v1"), Deadline.after(1000))


async def test_nobody_in_reach_is_an_answer_without_slices() -> None:
    shards = slices(2)
    for shard in shards:
        shard.fails = TierUnavailable("down")
    found = await a_fanout(*([shard] for shard in shards)).retrieve(a_query(), Deadline.after(200))
    assert found.slices == ()
    assert found.coverage.share == 0.0
    assert [one.stage for one in found.failures] == ["shard/0", "shard/1"]


async def test_cards_come_in_the_order_asked_whatever_shard_they_are_on() -> None:
    fanout = a_fanout(*([shard] for shard in slices(4)))
    await fanout.retrieve(a_query(), Deadline.after(1000))
    keys = np.random.default_rng(1).permutation(CATALOGUE.keys)[:60]
    found = await fanout.describe(keys, ("genre",), "v1", Deadline.after(1000))
    assert found.cards is not None
    assert found.cards.keys.tolist() == keys.tolist()
    assert len(found.unreached) == 0
    for key, id, vector, genre, attributes in zip(
        keys.tolist(),
        found.cards.ids,
        found.cards.vectors,
        found.cards.groups["genre"],
        found.cards.attributes,
        strict=True,
    ):
        row = CATALOGUE.row(key)
        assert id == CATALOGUE.ids[row]
        assert vector.tolist() == CATALOGUE.vectors[row].tolist()
        assert genre == attributes["genre"] == CATALOGUE.genres[row]


async def test_a_shard_that_does_not_describe_leaves_its_items_unreached() -> None:
    shards = slices(3)
    fanout = a_fanout(*([shard] for shard in shards))
    await fanout.retrieve(a_query(), Deadline.after(1000))
    shards[1].fails_describe = TierUnavailable("down")
    found = await fanout.describe(CATALOGUE.keys, (), "v1", Deadline.after(1000))
    assert set(found.unreached.tolist()) == set(shards[1].keys.tolist())
    assert found.cards is not None
    assert len(found.cards.keys) == 500 - len(shards[1].keys)


async def test_a_field_that_items_do_not_have_is_the_callers_mistake() -> None:
    [shard] = slices(1)
    fanout = a_fanout([shard])
    await fanout.retrieve(a_query(), Deadline.after(1000))
    shard.fails_describe = InvalidField("return_attributes", "no feature 'colour'")
    with pytest.raises(InvalidField, match="colour"):
        await fanout.describe(CATALOGUE.keys[:3], ("colour",), "v1", Deadline.after(1000))


async def test_the_same_shard_configured_twice_counts_once() -> None:
    fanout = a_fanout([ArrayShard(CATALOGUE)], [ArrayShard(CATALOGUE)])
    found = await fanout.retrieve(a_query(), Deadline.after(1000))
    assert found.coverage.items_searched == 500
    for source in found.sources:
        assert len(set(source.keys.tolist())) == len(source.keys)
    described = await fanout.describe(CATALOGUE.keys[:9], (), "v1", Deadline.after(1000))
    assert described.cards is not None
    assert described.cards.keys.tolist() == CATALOGUE.keys[:9].tolist()


async def test_joining_cards_of_different_groups_keeps_rows_aligned() -> None:
    [shard] = slices(1)
    left = await shard.describe(CATALOGUE.keys[:3], (), None)
    joined = join_cards(CATALOGUE.keys[:3][::-1], [left])
    assert joined.ids == tuple(reversed(left.ids))
    assert joined.groups["genre"] == tuple(reversed(left.groups["genre"]))


async def test_shards_are_asked_at_the_same_time() -> None:
    shards = slices(5)
    fanout = a_fanout(*([shard] for shard in shards))
    await fanout.retrieve(a_query(), Deadline.after(1000))
    running, most = 0, 0

    class Counting(ArrayShard):
        async def _misbehave(self, error: Exception | None) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1

    counting = [Counting(CATALOGUE, shard, 5) for shard in range(5)]
    await a_fanout(*([shard] for shard in counting)).retrieve(a_query(), Deadline.after(5000))
    assert most == 5
