"""Fault 34: page_size or k zero, negative, huge -> INVALID_ARGUMENT naming the field."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shortlist.client import AsyncClient
from shortlist.errors import InvalidRequest
from shortlist.page import PageRequest, RankRequest, SimilarRequest
from tests.orchestrator.wire import served
from tests.orchestrator.world import a_world


@pytest.fixture
async def client() -> AsyncIterator[AsyncClient]:
    async with (
        a_world(items=300) as world,
        served(world.recommender) as target,
        AsyncClient(target) as client,
    ):
        yield client
        assert len((await client.recommend(PageRequest())).items) == 20  # nothing is lost


@pytest.mark.parametrize("page_size", [-1, -(2**31), 201, 2**31 - 1])
async def test_a_page_size_out_of_range_is_refused(client: AsyncClient, page_size: int) -> None:
    with pytest.raises(InvalidRequest, match=str(page_size)) as refused:
        await client.recommend(PageRequest(page_size=page_size))
    assert [field for field, _ in refused.value.violations] == ["page_size"]


@pytest.mark.parametrize("page_size", [-1, -(2**31), 201, 2**31 - 1])
async def test_a_number_of_similar_items_out_of_range_is_refused(
    client: AsyncClient, page_size: int
) -> None:
    with pytest.raises(InvalidRequest, match=str(page_size)) as refused:
        await client.similar(SimilarRequest(item_id="i7", page_size=page_size))
    assert [field for field, _ in refused.value.violations] == ["page_size"]


@pytest.mark.parametrize(("page_size", "items"), [(0, 20), (1, 1), (200, 200)])
async def test_the_least_and_the_most_are_served(
    client: AsyncClient, page_size: int, items: int
) -> None:
    assert len((await client.recommend(PageRequest(page_size=page_size))).items) == items
    similar = await client.similar(SimilarRequest(item_id="i7", page_size=page_size))
    assert len(similar.items) == items


@pytest.mark.parametrize("k", [0, 10_001, 2**32 - 1])
async def test_a_quota_out_of_range_is_refused(client: AsyncClient, k: int) -> None:
    with pytest.raises(InvalidRequest, match=str(k)) as refused:
        await client.recommend(PageRequest(quotas={"popular": k}))
    assert [field for field, _ in refused.value.violations] == ['sources.quotas["popular"]']


async def test_too_many_items_to_rank_are_refused(client: AsyncClient) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await client.rank(RankRequest(item_ids=tuple(map(str, range(10_001)))))
    assert [field for field, _ in refused.value.violations] == ["item_ids"]
    with pytest.raises(InvalidRequest):
        await client.rank(RankRequest(item_ids=()))
