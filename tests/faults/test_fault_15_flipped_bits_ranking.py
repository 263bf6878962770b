from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from ranking_svc.ranker import LocalRanker
from ranking_svc.servicer import add_services
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.remote import RemoteRanker
from shortlist.serving import Server, ServerOptions
from shortlist.v1 import admin_pb2, admin_pb2_grpc
from tests.contracts.ranker import a_query


@pytest.mark.slow
async def test_a_flipped_bit_in_any_file_of_a_ranking_artifact_is_refused_and_named(
    trained_copy: Path, record_fault: Callable[..., None]
) -> None:
    store = ArtifactStore(trained_copy / "artifacts")
    old = store.open("ranking")
    new = publish_again(store, old)
    files = sorted(path for path in new.path.rglob("*") if path.is_file())
    assert len(files) > 20
    ranker = LocalRanker.open(store, old.version)
    keys = ranker.versions.active.builder.table.keys[:30]
    before = await ranker.score(a_query(keys))
    server = Server(ServerOptions(drain_s=0))
    add_services(server, ranker, ranker.versions)
    target = f"127.0.0.1:{await server.start()}"
    remote = RemoteRanker(target)
    prepare = admin_pb2.PrepareVersionRequest(version=new.version)
    async with grpc.aio.insecure_channel(target) as channel:
        admin = admin_pb2_grpc.AdminStub(channel)
        for file in files:
            content = file.read_bytes()
            file.write_bytes(flip_one_bit(content))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await admin.PrepareVersion(prepare)
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert str(file.relative_to(new.path)) in refused.value.details()
            answer = await remote.score(a_query(keys))
            assert answer.model_version == old.version
            np.testing.assert_array_equal(answer.scores, before.scores)
            file.write_bytes(content)
        loaded = await admin.PrepareVersion(prepare)
        assert [one.version for one in loaded.versions] == [old.version, new.version]
    await remote.close()
    await server.stop()
    await ranker.close()
    record_fault(files=len(files))


def publish_again(store: ArtifactStore, artifact: Artifact) -> Artifact:
    """The same files as another version."""
    with store.stage(artifact.tier) as staged:
        for name in artifact.manifest.files:
            (staged.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact.path / name, staged.path / name)
        return staged.publish(version="new", meta=artifact.manifest.meta)


def flip_one_bit(data: bytes) -> bytes:
    if not data:  # an empty file has no bit: give it one
        return b"\x10"
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]
