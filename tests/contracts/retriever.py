"""What every `Retriever` does, local or remote. A test inherits this and supplies `retriever`.

The slice behind it holds at least 20 items. A source may have nothing to say to somebody whom
nothing is known of, but not all of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from shortlist.errors import VersionNotServed
from shortlist.ids import keys_of, shard_of
from shortlist.tiers import (
    History,
    RetrievedSlice,
    RetrieveQuery,
    Retriever,
    RetrieverStatus,
    UserContext,
)

Keys = npt.NDArray[np.uint64]

STRANGERS = keys_of(f"no such item {number}" for number in range(200))


async def a_query(retriever: Retriever, k: int = 10, **changes: Any) -> RetrieveQuery:
    """An anonymous visitor asks every source for `k`."""
    query = RetrieveQuery(
        request_id="contract",
        user=UserContext(user_key=0, history=History.empty(), time_ms=1_700_000_000_000),
        quotas=dict.fromkeys((await retriever.status()).sources, k),
        exclude=np.empty(0, np.uint64),
    )
    return dataclasses.replace(query, **changes)


async def known_keys(retriever: Retriever) -> Keys:
    """Some items of the slice, without repetition."""
    answer = await retriever.retrieve(await a_query(retriever, k=50))
    return np.unique(np.concatenate([one.keys for one in answer.sources]))


def assert_same_answer(one: RetrievedSlice, other: RetrievedSlice) -> None:
    assert one.index_version == other.index_version
    assert [s.source for s in one.sources] == [s.source for s in other.sources]
    for mine, theirs in zip(one.sources, other.sources, strict=True):
        np.testing.assert_array_equal(mine.keys, theirs.keys)
        np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-6)
        assert (mine.weight, mine.offset) == (theirs.weight, theirs.offset)


def _talkative(answer: RetrievedSlice) -> set[str]:
    """The sources that propose something."""
    return {one.source for one in answer.sources if len(one.keys)}


class RetrieverContract:
    @pytest.fixture
    def retriever(self) -> Any:
        raise NotImplementedError

    @pytest.fixture
    async def status(self, retriever: Retriever) -> RetrieverStatus:
        return await retriever.status()

    async def test_it_has_a_name(self, retriever: Retriever) -> None:
        assert retriever.name

    async def test_its_status_says_which_slice_of_what(self, status: RetrieverStatus) -> None:
        assert 0 <= status.shard < status.shards
        assert 20 <= status.items <= status.items_total
        assert status.index_version
        assert status.sources

    async def test_each_source_answers_best_first(
        self, retriever: Retriever, status: RetrieverStatus
    ) -> None:
        answer = await retriever.retrieve(await a_query(retriever, k=7))
        assert {one.source for one in answer.sources} == set(status.sources)
        assert answer.failures == ()
        for one in answer.sources:
            assert one.keys.dtype == np.uint64
            assert one.scores.dtype == np.float32
            assert len(one.keys) == len(one.scores) <= 7
            assert len(np.unique(one.keys)) == len(one.keys)
            assert np.all(np.diff(one.scores) <= 0)
            assert np.isfinite([one.weight, one.offset]).all()
            assert min(one.weight, one.offset) >= 0
        assert max(len(one.keys) for one in answer.sources) == 7

    async def test_an_answer_says_where_it_comes_from(
        self, retriever: Retriever, status: RetrieverStatus
    ) -> None:
        answer = await retriever.retrieve(await a_query(retriever))
        assert (answer.shard, answer.shards) == (status.shard, status.shards)
        assert answer.index_version == status.index_version
        assert answer.items_searched == status.items

    async def test_only_the_sources_asked_answer(
        self, retriever: Retriever, status: RetrieverStatus
    ) -> None:
        only = status.sources[-1]
        answer = await retriever.retrieve(await a_query(retriever, quotas={only: 5}))
        assert [one.source for one in answer.sources] == [only]

    async def test_an_unknown_source_is_a_failure_and_not_an_error(
        self, retriever: Retriever, status: RetrieverStatus
    ) -> None:
        quotas = {status.sources[0]: 5, "astrology": 5}
        answer = await retriever.retrieve(await a_query(retriever, quotas=quotas))
        assert [one.source for one in answer.sources] == [status.sources[0]]
        assert [(one.stage, one.reason) for one in answer.failures] == [
            ("source/astrology", "SOURCE_FAILED")
        ]

    async def test_a_quota_beyond_the_slice_gives_no_more_than_the_slice(
        self, retriever: Retriever, status: RetrieverStatus
    ) -> None:
        answer = await retriever.retrieve(await a_query(retriever, k=10_000))
        assert all(len(one.keys) <= status.items for one in answer.sources)

    async def test_it_returns_only_items_of_its_own_slice(
        self, retriever: Retriever, status: RetrieverStatus
    ) -> None:
        keys = await known_keys(retriever)
        assert np.all(shard_of(keys, status.shards) == status.shard)

    async def test_excluded_items_are_never_returned(self, retriever: Retriever) -> None:
        best = (await retriever.retrieve(await a_query(retriever, k=3))).sources
        exclude = np.concatenate([one.keys for one in best])
        answer = await retriever.retrieve(await a_query(retriever, k=10, exclude=exclude))
        for one in answer.sources:
            assert not np.isin(one.keys, exclude).any()

    async def test_a_user_with_a_history_is_answered(self, retriever: Retriever) -> None:
        keys = np.concatenate([(await known_keys(retriever))[:5], STRANGERS[:2]])
        history = History(
            keys=keys,
            times_ms=np.arange(len(keys), dtype=np.int64),
            weights=np.ones(len(keys), np.float32),
        )
        user = UserContext(
            user_key=7,
            history=history,
            attributes={"country": "NZ", "age": 31.0, "likes": ("tea", "rain")},
            context={"device": "phone"},
            time_ms=1_700_000_000_000,
        )
        answer = await retriever.retrieve(await a_query(retriever, user=user))
        assert answer.failures == ()
        strangers = await retriever.retrieve(await a_query(retriever))
        assert _talkative(answer) >= _talkative(strangers)

    async def test_the_same_question_gets_the_same_answer(
        self, retriever: Retriever, status: RetrieverStatus
    ) -> None:
        free = await retriever.retrieve(await a_query(retriever))
        pinned = await retriever.retrieve(
            await a_query(retriever, index_version=status.index_version, deadline_ms=10_000.0)
        )
        assert_same_answer(free, pinned)

    async def test_a_version_it_does_not_hold_is_refused(self, retriever: Retriever) -> None:
        with pytest.raises(VersionNotServed, match="no-such-version"):
            await retriever.retrieve(await a_query(retriever, index_version="no-such-version"))
        with pytest.raises(VersionNotServed, match="no-such-version"):
            await retriever.describe(STRANGERS, (), "no-such-version")

    async def test_it_counts_the_unknown_keys_of_its_own_slice(
        self, retriever: Retriever, status: RetrieverStatus
    ) -> None:
        check = np.concatenate([await known_keys(retriever), STRANGERS])
        answer = await retriever.retrieve(await a_query(retriever, check=check))
        assert answer.unknown == np.count_nonzero(
            shard_of(STRANGERS, status.shards) == status.shard
        )

    async def test_cards_come_in_the_order_asked(
        self, retriever: Retriever, status: RetrieverStatus
    ) -> None:
        keys = (await known_keys(retriever))[::-1][:10]
        cards = await retriever.describe(keys, (), status.index_version)
        assert cards.index_version == status.index_version
        np.testing.assert_array_equal(cards.keys, keys)
        np.testing.assert_array_equal(keys_of(cards.ids), keys)
        assert len(cards.titles) == len(cards.attributes) == len(keys)
        assert all(len(column) == len(keys) for column in cards.groups.values())
        assert cards.vectors.shape[0] == len(keys)
        np.testing.assert_allclose(np.linalg.norm(cards.vectors, axis=1), 1, rtol=1e-4)

    async def test_items_of_others_are_left_out_of_the_cards(self, retriever: Retriever) -> None:
        keys = (await known_keys(retriever))[:3]
        asked = np.concatenate([STRANGERS[:2], keys, STRANGERS[2:4]])
        cards = await retriever.describe(asked, (), None)
        np.testing.assert_array_equal(cards.keys, keys)

    async def test_groups_come_only_when_they_are_wanted(self, retriever: Retriever) -> None:
        keys = (await known_keys(retriever))[:3]
        with_groups = await retriever.describe(keys, (), None)
        without = await retriever.describe(keys, (), None, False)
        assert with_groups.groups
        assert without.groups == {}
        assert without.ids == with_groups.ids

    async def test_no_keys_give_no_cards(self, retriever: Retriever) -> None:
        cards = await retriever.describe(np.empty(0, np.uint64), (), None)
        assert len(cards.keys) == len(cards.ids) == len(cards.vectors) == 0
