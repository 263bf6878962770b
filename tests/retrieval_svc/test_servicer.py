from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval_svc.servicer import add_services
from retrieval_svc.shard import LocalRetriever
from shortlist.artifacts import ArtifactStore
from shortlist.errors import InvalidRequest
from shortlist.ids import keys_of
from shortlist.remote import RemoteRetriever
from shortlist.serving import Server, ServerOptions
from tests.contracts.retriever import RetrieverContract, assert_same_answer
from tests.retrieval_svc.factory import Catalogue, publish, query, user_who_liked

CATALOGUE = Catalogue.random(200)


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalRetriever]:
    store = ArtifactStore(tmp_path / "artifacts")
    publish(store, CATALOGUE, shards=2)
    retriever = LocalRetriever.open(store, 1)
    yield retriever
    await retriever.close()


@pytest.fixture
async def remote(local: LocalRetriever) -> AsyncIterator[RemoteRetriever]:
    server = Server(ServerOptions(drain_s=0))
    add_services(server, local, local.versions)
    client = RemoteRetriever(f"127.0.0.1:{await server.start()}")
    yield client
    await client.close()
    await server.stop()


class TestRetrievalServicer(RetrieverContract):
    @pytest.fixture
    async def retriever(self, remote: RemoteRetriever) -> Any:
        return remote


async def test_a_remote_shard_answers_like_the_local_one(
    local: LocalRetriever, remote: RemoteRetriever
) -> None:
    asked = query(user_who_liked(*map(int, CATALOGUE.keys[:5])), exclude=CATALOGUE.keys[:3])
    here, there = await local.retrieve(asked), await remote.retrieve(asked)
    assert_same_answer(here, there)
    assert (here.dropped, here.unknown) == (there.dropped, there.unknown)
    assert await local.status() == await remote.status()
    cards = [await one.describe(CATALOGUE.keys, ("price",), None) for one in (local, remote)]
    assert cards[0].attributes == cards[1].attributes
    assert cards[0].groups == cards[1].groups


async def test_a_filter_holds_across_the_wire(
    local: LocalRetriever, remote: RemoteRetriever
) -> None:
    ids = [CATALOGUE.ids[row] for row in range(0, len(CATALOGUE.ids), 5)]
    listed = ", ".join(f'"{one}"' for one in ids)
    asked = query(quotas={"popular": 1000, "two_tower": 1000}, filter=f"id IN ({listed})")
    here, there = await local.retrieve(asked), await remote.retrieve(asked)
    assert_same_answer(here, there)
    assert here.dropped == there.dropped
    own = (await local.retrieve(query(quotas={"popular": 1000}))).sources[0].keys
    matching = np.intersect1d(own, keys_of(ids))
    for one in there.sources:
        assert np.sort(one.keys).tolist() == matching.tolist()


@pytest.mark.parametrize(
    ("filter", "error"),
    [
        ("mood = 1", "no attribute 'mood'"),
        ("genre > 3", "'genre' holds texts"),
        ("genre =", "at character 8"),
        ("x = " + "1" * 70_000, "is longer than 65536 bytes"),
    ],
)
async def test_a_filter_that_the_items_cannot_answer_is_an_error_of_its_field(
    remote: RemoteRetriever, filter: str, error: str
) -> None:
    with pytest.raises(InvalidRequest, match=error) as refused:
        await remote.retrieve(query(filter=filter))
    assert [field for field, _ in refused.value.violations] == ["filter"]
