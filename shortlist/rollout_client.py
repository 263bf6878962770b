"""What a redeploy asks of one process: its Admin service, and an orchestrator's Rollout service.

A call that fails raises a `ShortlistError` that names the process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc

from shortlist.admin import LoadedVersion
from shortlist.errors import ShortlistError, TierUnavailable, VersionNotServed
from shortlist.memory import NotEnoughMemory
from shortlist.remote import ERRORS, error_from_rpc
from shortlist.serving import Overloaded
from shortlist.tiers import LogPosition
from shortlist.v1 import admin_pb2, admin_pb2_grpc, rollout_pb2, rollout_pb2_grpc

__all__ = [
    "Canary",
    "Figures",
    "Guards",
    "Process",
    "ProcessStatus",
    "Release",
    "RolloutState",
    "Shadow",
]

Answer = TypeVar("Answer")

_SOON_S = 5.0  # for what needs no work
_LOADING_S = 3600.0  # a version may be large, and the disk slow


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """What one process serves."""

    tier: str  # "retrieval", "ranking" or "orchestrator"
    shard: int
    shards: int  # of the active version
    versions: tuple[LoadedVersion, ...]

    @property
    def active(self) -> str | None:
        return next((one.version for one in self.versions if one.active), None)

    def has(self, version: str) -> bool:
        return any(one.version == version for one in self.versions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A pair of versions; "" = the active one, or not known."""

    retrieval: str = ""
    ranking: str = ""

    def of(self, tier: str) -> str:
        return self.retrieval if tier == "retrieval" else self.ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """When a canary ends by itself; 0 = as the orchestrator is configured."""

    min_requests: int = 0
    max_error_rate_increase: float = 0.0
    max_degraded_rate_increase: float = 0.0
    max_p99_ratio: float = 0.0
    click_rate_alpha: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was seen of one release."""

    requests: int = 0
    failed: int = 0
    degraded: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    pages: int = 0
    clicks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A share of the users on another release, as one orchestrator sees it."""

    release: Release = field(default_factory=Release)
    share: float = 0.0
    running: bool = False
    rolled_back_because: str = ""
    figures: Figures = field(default_factory=Figures)
    others: Figures = field(default_factory=Figures)
    fallen_back: int = 0  # requests that the active pair had to answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """Pages made a second time by another release, for nobody, as one orchestrator sees it."""

    release: Release
    share: float
    requests: int
    failed: int
    skipped: int
    overlap: float
    same_first: float
    p50_ratio: float
    p99_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutState:
    """What one orchestrator serves to whom."""

    stable: Release
    canary: Canary | None  # None = there was none since the process started
    shadow: Shadow | None


class Process:
    """One process of a running system, at `host:port`."""

    def __init__(self, target: str) -> None:
        self.target = target
        # Neighbours: a proxy set for the outside world is not between us.
        self._channel = grpc.aio.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)])
        self._admin: Any = admin_pb2_grpc.AdminStub(self._channel)
        self._rollout: Any = rollout_pb2_grpc.RolloutStub(self._channel)

    async def close(self) -> None:
        await self._channel.close(None)

    # -- every process ----------------------------------------------------------------------------

    async def status(self) -> ProcessStatus:
        return await self._ask(self._admin.GetStatus, admin_pb2.GetStatusRequest(), _status)

    async def prepare(self, version: str, *, tier: str = "") -> None:
        """Verify, load and warm `version`. Raises `VersionNotServed` for what is refused, and
        `NotEnoughMemory`."""
        request = admin_pb2.PrepareVersionRequest(version=version, tier=tier)
        await self._ask(self._admin.PrepareVersion, request, _nothing, timeout_s=_LOADING_S)

    async def activate(self, version: str, *, tier: str = "") -> str:
        """Serve a prepared version; returns the one that served until now."""
        request = admin_pb2.ActivateVersionRequest(version=version, tier=tier)
        return await self._ask(
            self._admin.ActivateVersion, request, lambda answer: answer.previous_version
        )

    async def retire(self, version: str, *, tier: str = "") -> None:
        """Unload a version that is not active, once its last request is answered."""
        request = admin_pb2.RetireVersionRequest(version=version, tier=tier)
        await self._ask(self._admin.RetireVersion, request, _nothing, timeout_s=_LOADING_S)

    # -- orchestrators ----------------------------------------------------------------------------

    async def refresh(self) -> Release:
        """Have it look at once which versions are active; they are named from now on."""
        return await self._ask(
            self._rollout.Refresh,
            rollout_pb2.RefreshRequest(),
            lambda answer: _release(answer.stable),
        )

    async def set_canary(self, release: Release, share: float, guards: Guards) -> None:
        """Give a share of its users another release; 0 ends that."""
        request = rollout_pb2.SetCanaryRequest(
            release=rollout_pb2.Release(
                retrieval_version=release.retrieval, ranking_version=release.ranking
            ),
            share=share,
            guards=rollout_pb2.Guards(**dataclasses.asdict(guards)),
        )
        await self._ask(self._rollout.SetCanary, request, _nothing)

    async def set_shadow(self, release: Release, share: float) -> None:
        """Have a share of its pages made a second time by another release; 0 ends that."""
        request = rollout_pb2.SetShadowRequest(
            release=rollout_pb2.Release(
                retrieval_version=release.retrieval, ranking_version=release.ranking
            ),
            share=share,
        )
        await self._ask(self._rollout.SetShadow, request, _nothing)

    async def rollout(self) -> RolloutState:
        return await self._ask(self._rollout.GetRollout, rollout_pb2.GetRolloutRequest(), _state)

    async def canary(self) -> Canary | None:
        """The canary as it is; None if there was none since the process started."""
        return await self._ask(
            self._rollout.GetRollout,
            rollout_pb2.GetRolloutRequest(),
            lambda answer: _canary(answer.canary) if answer.HasField("canary") else None,
        )

    async def _ask(
        self,
        method: Callable[..., Awaitable[Any]],
        request: Any,
        parse: Callable[[Any], Answer],
        *,
        timeout_s: float = _SOON_S,
    ) -> Answer:
        try:
            # A process that is being restarted is waited for; one that is gone fails in time.
            return parse(await method(request, timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            raise _error(error, self.target) from None


def _error(error: grpc.aio.AioRpcError, target: str) -> ShortlistError:
    """As everywhere, but in the words of those who answer these calls."""
    kind = ERRORS[error.code()]
    if kind is Overloaded:  # what Admin is short of is memory
        return NotEnoughMemory(f"{target}: {error.details()}")
    if kind in (VersionNotServed, TierUnavailable):
        return kind(f"{target}: {error.details()}")
    return error_from_rpc(error, target)


def _nothing(_: Any) -> None:
    return None


def _status(message: admin_pb2.GetStatusResponse) -> ProcessStatus:
    return ProcessStatus(
        tier=message.tier,
        shard=message.shard,
        shards=message.shards,
        versions=tuple(
            LoadedVersion(
                version=one.version,
                active=one.active,
                items=one.items,
                items_total=one.items_total,
                watermark_ms=one.watermark_ms,
                log=LogPosition(sequence=one.log_sequence, lag_ms=one.lag_ms),
                tier=one.tier or message.tier,
            )
            for one in message.versions
        ),
    )


def _release(message: rollout_pb2.Release) -> Release:
    return Release(retrieval=message.retrieval_version, ranking=message.ranking_version)


def _canary(message: rollout_pb2.Canary) -> Canary:
    return Canary(
        release=_release(message.release),
        share=message.share,
        running=message.running,
        rolled_back_because=message.rolled_back_because,
        figures=_figures(message.figures),
        others=_figures(message.others),
        fallen_back=message.fallen_back,
    )


def _shadow(message: rollout_pb2.Shadow) -> Shadow:
    return Shadow(
        release=_release(message.release),
        share=message.share,
        requests=message.requests,
        failed=message.failed,
        skipped=message.skipped,
        overlap=message.overlap,
        same_first=message.same_first,
        p50_ratio=message.p50_ratio,
        p99_ratio=message.p99_ratio,
    )


def _state(message: rollout_pb2.GetRolloutResponse) -> RolloutState:
    return RolloutState(
        stable=_release(message.stable),
        canary=_canary(message.canary) if message.HasField("canary") else None,
        shadow=_shadow(message.shadow) if message.HasField("shadow") else None,
    )


def _figures(message: rollout_pb2.ReleaseFigures) -> Figures:
    return Figures(
        requests=message.requests,
        failed=message.failed,
        degraded=message.degraded,
        p50_ms=message.p50_ms,
        p99_ms=message.p99_ms,
        pages=message.pages,
        clicks=message.clicks,
    )
