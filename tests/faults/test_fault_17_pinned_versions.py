from __future__ import annotations

import shutil
from pathlib import Path

import grpc
import pytest

from shortlist.artifacts import ArtifactStore
from shortlist.v1 import admin_pb2, retrieval_pb2
from tests.retrieval_svc.factory import Catalogue, publish
from tests.retrieval_svc.serving import popular_request, serving

FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


async def test_fault_17_a_shard_never_answers_for_a_version_it_does_not_hold(
    tmp_path: Path,
) -> None:
    store = ArtifactStore(tmp_path)
    catalogue = Catalogue.random(50)
    publish(store, catalogue, version="a")
    publish(store, catalogue, version="b")
    async with serving(store, version="b") as shard:
        for call, request in (
            (shard.retrieval.Retrieve, popular_request("a")),
            (
                shard.retrieval.Describe,
                retrieval_pb2.DescribeRequest(keys=catalogue.keys[:3].tobytes(), index_version="a"),
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(request)
            assert refused.value.code() is FAILED_PRECONDITION
            assert "version a is not served here; served: b" in refused.value.details()


@pytest.mark.parametrize("source", ["two_tower", "mf"])
async def test_fault_17_an_index_of_other_vectors_is_refused_before_it_serves(
    tmp_path: Path, source: str
) -> None:
    store = ArtifactStore(tmp_path)
    old = publish(store, Catalogue.random(1200), version="a", exact_below=0)

    def take_the_old_index(folder: Path) -> None:
        index = folder / "shard-00000" / source / "index"
        shutil.rmtree(index)
        shutil.copytree(old.path / "shard-00000" / source / "index", index)

    publish(
        store,
        Catalogue.random(1200, seed=1),
        version="b",
        exact_below=0,
        damage=take_the_old_index,
    )
    async with serving(store, version="a") as shard:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await shard.admin.PrepareVersion(admin_pb2.PrepareVersionRequest(version="b"))
        assert refused.value.code() is FAILED_PRECONDITION
        assert "other vectors" in refused.value.details()
        assert (await shard.retrieval.Retrieve(popular_request())).index_version == "a"


async def test_fault_18_in_mid_rollout_a_shard_answers_for_both_versions_and_says_which(
    tmp_path: Path,
) -> None:
    store = ArtifactStore(tmp_path)
    catalogue = Catalogue.random(60)
    publish(store, catalogue, version="v1", shards=2)
    publish(store, catalogue, version="v2", shards=2)
    async with serving(store, 0, "v1") as ahead, serving(store, 1, "v1") as behind:
        await ahead.admin.PrepareVersion(admin_pb2.PrepareVersionRequest(version="v2"))
        await ahead.admin.ActivateVersion(admin_pb2.ActivateVersionRequest(version="v2"))
        for shard in (ahead, behind):
            answer = await shard.retrieval.Retrieve(popular_request("v1"))
            assert answer.index_version == "v1"
        assert (await ahead.retrieval.Retrieve(popular_request("v2"))).index_version == "v2"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await behind.retrieval.Retrieve(popular_request("v2"))
        assert refused.value.code() is FAILED_PRECONDITION
