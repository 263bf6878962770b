from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from retrieval_svc.servicer import add_services
from retrieval_svc.shard import LocalRetriever
from shortlist.artifacts import ArtifactStore
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
