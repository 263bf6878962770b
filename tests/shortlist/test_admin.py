from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import shortlist
from shortlist.admin import AdminServicer, LoadedVersion, TierStatus
from shortlist.errors import ArtifactCorrupt, VersionNotServed
from shortlist.serving import Server, ServerOptions
from shortlist.v1 import admin_pb2, admin_pb2_grpc


class NamesTier:
    """A `VersionedTier` that holds names."""

    def __init__(self, tier: str = "retrieval") -> None:
        self.tier = tier
        self.loaded = {"v1": 10}
        self.active = "v1"
        self.changing = 0
        self.most_changing = 0

    def status(self) -> TierStatus:
        return TierStatus(
            tier=self.tier,
            shard=2,
            shards=3,
            versions=tuple(
                LoadedVersion(
                    version=name,
                    active=name == self.active,
                    items=items,
                    items_total=30,
                    watermark_ms=5,
                )
                for name, items in self.loaded.items()
            ),
            capabilities=("popular",),
        )

    async def prepare(self, version: str) -> None:
        self.changing += 1
        self.most_changing = max(self.most_changing, self.changing)
        await asyncio.sleep(0.01)
        self.changing -= 1
        if version == "broken":
            raise ArtifactCorrupt("broken/keys.npy: altered")
        self.loaded[version] = 11

    async def activate(self, version: str) -> str:
        if version not in self.loaded:
            raise VersionNotServed(f"{version} is not loaded")
        previous, self.active = self.active, version
        return previous

    async def retire(self, version: str) -> None:
        if version == self.active:
            raise VersionNotServed(f"{version} is active")
        del self.loaded[version]


@pytest.fixture
def tier() -> NamesTier:
    return NamesTier()


@pytest.fixture
async def admin(tier: NamesTier) -> AsyncIterator[Any]:
    server = Server(ServerOptions(drain_s=0, max_concurrency=1))
    admin_pb2_grpc.add_AdminServicer_to_server(AdminServicer(tier), server)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        yield admin_pb2_grpc.AdminStub(channel)
    await server.stop()


def prepare(admin: Any, version: str) -> Any:
    return admin.PrepareVersion(admin_pb2.PrepareVersionRequest(version=version))


def activate(admin: Any, version: str) -> Any:
    return admin.ActivateVersion(admin_pb2.ActivateVersionRequest(version=version))


def retire(admin: Any, version: str) -> Any:
    return admin.RetireVersion(admin_pb2.RetireVersionRequest(version=version))


async def test_a_process_says_what_it_serves(admin: Any) -> None:
    status = await admin.GetStatus(admin_pb2.GetStatusRequest())
    assert (status.tier, status.shard, status.shards) == ("retrieval", 2, 3)
    assert list(status.capabilities) == ["popular"]
    assert status.software == shortlist.__version__
    assert status.started_ms > 1_700_000_000_000
    assert list(status.versions) == [
        admin_pb2.LoadedVersion(
            version="v1", active=True, items=10, items_total=30, watermark_ms=5, tier="retrieval"
        )
    ]


async def test_a_rollout_prepares_then_activates_then_retires(admin: Any) -> None:
    prepared = await prepare(admin, "v2")
    assert [(v.version, v.active) for v in prepared.versions] == [("v1", True), ("v2", False)]
    assert (await activate(admin, "v2")).previous_version == "v1"
    retired = await retire(admin, "v1")
    assert [(v.version, v.active) for v in retired.versions] == [("v2", True)]


async def test_a_version_that_fails_its_checks_changes_nothing(
    admin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await prepare(admin, "broken")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "broken/keys.npy: altered"
    assert "prepare broken refused: broken/keys.npy: altered" in caplog.text
    status = await admin.GetStatus(admin_pb2.GetStatusRequest())
    assert [(v.version, v.active) for v in status.versions] == [("v1", True)]


async def test_changes_are_logged(admin: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await prepare(admin, "v2")
    await activate(admin, "v2")
    assert "prepare v2 done" in caplog.text
    assert "activate v2 done" in caplog.text


async def test_what_was_not_prepared_cannot_be_activated(admin: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="v9 is not loaded") as caught:
        await activate(admin, "v9")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_what_is_active_cannot_be_retired(admin: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="v1 is active"):
        await retire(admin, "v1")


@pytest.mark.parametrize("call", [prepare, activate, retire])
@pytest.mark.parametrize("version", ["", "../v1", "a b", "x" * 129, "current"])
async def test_a_name_that_no_version_has_is_invalid(admin: Any, call: Any, version: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="version") as caught:
        await call(admin, version)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_changes_run_one_at_a_time(admin: Any, tier: NamesTier) -> None:
    await asyncio.gather(*(prepare(admin, f"v{number}") for number in range(5)))
    assert tier.most_changing == 1


async def test_an_orchestrator_with_tiers_inside_lists_and_changes_theirs() -> None:
    outside, inside = NamesTier(tier="orchestrator"), NamesTier()
    server = Server(ServerOptions(drain_s=0))
    servicer = AdminServicer(outside, {"retrieval": inside})
    admin_pb2_grpc.add_AdminServicer_to_server(servicer, server)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        admin = admin_pb2_grpc.AdminStub(channel)
        await admin.PrepareVersion(admin_pb2.PrepareVersionRequest(version="v2", tier="retrieval"))
        await admin.ActivateVersion(
            admin_pb2.ActivateVersionRequest(version="v2", tier="retrieval")
        )
        status = await admin.GetStatus(admin_pb2.GetStatusRequest())
        with pytest.raises(grpc.aio.AioRpcError, match="no 'ranking'") as refused:
            await admin.RetireVersion(admin_pb2.RetireVersionRequest(version="v1", tier="ranking"))
    await server.stop()
    assert [(one.tier, one.version, one.active) for one in status.versions] == [
        ("orchestrator", "v1", True),
        ("retrieval", "v1", False),
        ("retrieval", "v2", True),
    ]
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
