# ruff: noqa: N802, ARG002 - gRPC decides the names and signatures of handlers
"""The Admin service of a process, over whatever can load versions beside each other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import shortlist
from shortlist.artifacts import check_version_name
from shortlist.errors import InvalidField, ShortlistError
from shortlist.tiers import LogPosition
from shortlist.v1 import admin_pb2, admin_pb2_grpc

__all__ = ["AdminServicer", "LoadedVersion", "TierStatus", "VersionedTier"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedVersion:
    """One version in memory."""

    version: str
    active: bool  # requests that name no version get this one
    items: int  # that this process holds of it
    items_total: int  # over all shards of it
    watermark_ms: int  # newest event it was trained on
    log: LogPosition = field(default_factory=LogPosition)
    capabilities: tuple[str, ...] = ()  # its sources (retrieval) or the engine (ranking)
    models: tuple[str, ...] = ()  # its rankers (ranking)
    tier: str = ""  # "" = that of the process


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStatus:
    """What a process serves."""

    tier: str  # "retrieval", "ranking" or "orchestrator"
    versions: tuple[LoadedVersion, ...]
    capabilities: tuple[str, ...]  # sources (retrieval) or the engine (ranking)
    models: tuple[str, ...] = ()  # rankers of the active version (ranking)
    shard: int = 0
    shards: int = 1


class VersionedTier(Protocol):
    """A tier that can hold several versions and switch between them without a pause."""

    def status(self) -> TierStatus: ...

    async def prepare(self, version: str) -> None:
        """Verify, load and warm `version`; nothing to do if it is loaded.

        Raises `ArtifactNotFound`, `ArtifactCorrupt` or `ArtifactRefused`; what serves goes on.
        """
        ...

    async def activate(self, version: str) -> str:
        """Serve `version`; returns the one that was active. Raises `VersionNotServed`."""
        ...

    async def retire(self, version: str) -> None:
        """Unload `version`. Raises `VersionNotServed` for the active one or one not loaded."""
        ...


class AdminServicer(admin_pb2_grpc.AdminServicer):
    """`shortlist.v1.Admin`. Changes run one at a time, in the order they arrive.

    `inside` are the tiers that an orchestrator has in its own process: their versions are listed
    with its own, and are changed by requests that name the tier.
    """

    def __init__(
        self, tier: VersionedTier, inside: Mapping[str, VersionedTier] | None = None
    ) -> None:
        self._tier = tier
        self._inside = dict(inside or {})
        self._started_ms = time.time_ns() // 1_000_000
        self._changing = asyncio.Lock()

    async def GetStatus(
        self, request: admin_pb2.GetStatusRequest, context: Any
    ) -> admin_pb2.GetStatusResponse:
        status = self._tier.status()
        return admin_pb2.GetStatusResponse(
            tier=status.tier,
            shard=status.shard,
            shards=status.shards,
            versions=self._loaded(),
            capabilities=status.capabilities,
            software=shortlist.__version__,
            started_ms=self._started_ms,
            models=status.models,
        )

    async def PrepareVersion(
        self, request: admin_pb2.PrepareVersionRequest, context: Any
    ) -> admin_pb2.PrepareVersionResponse:
        version, tier = check_version_name(request.version), self._of(request.tier)
        async with self._changing:
            with _logged("prepare", version):
                await tier.prepare(version)
            return admin_pb2.PrepareVersionResponse(versions=self._loaded())

    async def ActivateVersion(
        self, request: admin_pb2.ActivateVersionRequest, context: Any
    ) -> admin_pb2.ActivateVersionResponse:
        version, tier = check_version_name(request.version), self._of(request.tier)
        async with self._changing:
            with _logged("activate", version):
                previous = await tier.activate(version)
            return admin_pb2.ActivateVersionResponse(previous_version=previous)

    async def RetireVersion(
        self, request: admin_pb2.RetireVersionRequest, context: Any
    ) -> admin_pb2.RetireVersionResponse:
        version, tier = check_version_name(request.version), self._of(request.tier)
        async with self._changing:
            with _logged("retire", version):
                await tier.retire(version)
            return admin_pb2.RetireVersionResponse(versions=self._loaded())

    def _of(self, name: str) -> VersionedTier:
        own = self._tier.status().tier
        if name in ("", own):
            return self._tier
        if name not in self._inside:
            here = ", ".join((own, *self._inside))
            raise InvalidField("tier", f"this process has no {name[:140]!r}, it has: {here}")
        return self._inside[name]

    def _loaded(self) -> list[admin_pb2.LoadedVersion]:
        every = (self._tier, *self._inside.values())
        return [one for tier in every for one in _versions_to_proto(tier.status())]


def _versions_to_proto(status: TierStatus) -> list[admin_pb2.LoadedVersion]:
    return [
        admin_pb2.LoadedVersion(
            version=one.version,
            active=one.active,
            items=one.items,
            watermark_ms=one.watermark_ms,
            items_total=one.items_total,
            log_sequence=one.log.sequence,
            lag_ms=one.log.lag_ms,
            capabilities=one.capabilities,
            models=one.models,
            tier=one.tier or status.tier,
        )
        for one in status.versions
    ]


@contextmanager
def _logged(change: str, version: str) -> Iterator[None]:
    """Operators read in the log what a rollout did to this process, and why it did not."""
    try:
        yield
    except ShortlistError as error:
        _logger.warning("%s %s refused: %s", change, version, error)
        raise
    _logger.info("%s %s done", change, version)
