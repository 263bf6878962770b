from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranking_svc.constant import ConstantRanker
from ranking_svc.ranker import LocalRanker
from ranking_svc.servicer import add_services
from shortlist.admin import LoadedVersion, TierStatus
from shortlist.artifacts import ArtifactStore
from shortlist.errors import VersionNotServed
from shortlist.ids import keys_of
from shortlist.remote import RemoteRanker
from shortlist.serving import Server, ServerOptions
from tests.contracts.ranker import RankerContract, a_query
from tests.ranking_svc.factory import publish_ranker

KEYS = keys_of(f"item-{number}" for number in range(40))


class OneVersion:
    """A `VersionedTier` that cannot change."""

    def status(self) -> TierStatus:
        only = LoadedVersion(
            version="constant", active=True, items=len(KEYS), items_total=len(KEYS), watermark_ms=0
        )
        return TierStatus(
            tier="ranking",
            versions=(only,),
            capabilities=("constant",),
            models=("constant",),
        )

    async def prepare(self, version: str) -> None:
        raise VersionNotServed(version)

    async def activate(self, version: str) -> str:
        raise VersionNotServed(version)

    async def retire(self, version: str) -> None:
        raise VersionNotServed(version)


@pytest.fixture
async def remote() -> AsyncIterator[RemoteRanker]:
    server = Server(ServerOptions(drain_s=0))
    add_services(server, ConstantRanker(KEYS), OneVersion())
    client = RemoteRanker(f"127.0.0.1:{await server.start()}")
    yield client
    await client.close()
    await server.stop()


@pytest.fixture
async def remote_models(tmp_path: Path) -> AsyncIterator[RemoteRanker]:
    store = ArtifactStore(tmp_path)
    publish_ranker(store)
    ranker = LocalRanker.open(store)
    server = Server(ServerOptions(drain_s=0))
    add_services(server, ranker, ranker.versions)
    client = RemoteRanker(f"127.0.0.1:{await server.start()}")
    yield client
    await client.close()
    await server.stop()
    await ranker.close()


class TestRankingServicerOverModels(RankerContract):
    @pytest.fixture
    def ranker(self, remote_models: RemoteRanker) -> Any:
        return remote_models


class TestConstantRanker(RankerContract):
    @pytest.fixture
    def ranker(self) -> Any:
        return ConstantRanker(KEYS)


class TestRankingServicer(RankerContract):
    @pytest.fixture
    def ranker(self, remote: RemoteRanker) -> Any:
        return remote


async def test_a_remote_ranker_answers_like_the_local_one(remote: RemoteRanker) -> None:
    local = ConstantRanker(KEYS)
    here, there = await local.score(a_query(KEYS)), await remote.score(a_query(KEYS))
    np.testing.assert_array_equal(here.scores, there.scores)
    assert await local.status() == await remote.status()
