from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from shortlist.artifacts import ArtifactStore
from shortlist.v1 import admin_pb2
from tests.retrieval_svc.factory import Catalogue, publish
from tests.retrieval_svc.serving import popular_request, serving


async def test_a_flipped_bit_in_any_file_of_a_retrieval_artifact_is_refused_and_named(
    tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    store = ArtifactStore(tmp_path)
    publish(store, Catalogue.random(200), version="old")
    new = publish(store, Catalogue.random(1200, seed=1), version="new", exact_below=0)
    files = sorted(path for path in new.path.rglob("*") if path.is_file())
    assert len(files) > 20
    prepare = admin_pb2.PrepareVersionRequest(version="new")
    async with serving(store, version="old") as shard:
        for file in files:
            before = file.read_bytes()
            file.write_bytes(_flip_one_bit(before))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await shard.admin.PrepareVersion(prepare)
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert str(file.relative_to(new.path)) in refused.value.details()
            answer = await shard.retrieval.Retrieve(popular_request())
            assert (answer.index_version, answer.items_searched) == ("old", 200)
            file.write_bytes(before)
        loaded = await shard.admin.PrepareVersion(prepare)
        assert [one.version for one in loaded.versions] == ["old", "new"]
    record_fault(files=len(files))


def _flip_one_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]
