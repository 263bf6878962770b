# ruff: noqa: N802, ARG002 - gRPC decides the names and signatures of handlers
"""`shortlist.v1.Rollout`: translate, hand over, translate back."""

from __future__ import annotations

import grpc

from orchestrator.guards import Guards
from orchestrator.releases import Release
from orchestrator.rollout import Rollout
from orchestrator.rollout_canary import Canary, SeenRelease
from orchestrator.shadow import Shadow
from shortlist.v1 import rollout_pb2, rollout_pb2_grpc

__all__ = ["RolloutServicer"]


class RolloutServicer(rollout_pb2_grpc.RolloutServicer):
    """Says and changes which versions one orchestrator serves to whom."""

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout

    async def GetRollout(
        self, request: rollout_pb2.GetRolloutRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.GetRolloutResponse:
        return rollout_pb2.GetRolloutResponse(
            stable=_release_to_proto(self._rollout.stable),
            canary=_canary_to_proto(self._rollout.canary),
            shadow=_shadow_to_proto(self._rollout.shadow),
        )

    async def Refresh(
        self, request: rollout_pb2.RefreshRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.RefreshResponse:
        stable = await self._rollout.refresh()
        return rollout_pb2.RefreshResponse(stable=_release_to_proto(stable))

    async def SetCanary(
        self, request: rollout_pb2.SetCanaryRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.SetCanaryResponse:
        canary = await self._rollout.set_canary(
            _release_from_proto(request.release),
            request.share,
            _guards_from_proto(request.guards, self._rollout.default_guards),
        )
        return rollout_pb2.SetCanaryResponse(canary=_canary_to_proto(canary))

    async def SetShadow(
        self, request: rollout_pb2.SetShadowRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.SetShadowResponse:
        shadow = await self._rollout.set_shadow(_release_from_proto(request.release), request.share)
        return rollout_pb2.SetShadowResponse(shadow=_shadow_to_proto(shadow))


def _release_from_proto(message: rollout_pb2.Release) -> Release:
    return Release(retrieval=message.retrieval_version, ranking=message.ranking_version)


def _release_to_proto(release: Release) -> rollout_pb2.Release:
    return rollout_pb2.Release(retrieval_version=release.retrieval, ranking_version=release.ranking)


def _guards_from_proto(message: rollout_pb2.Guards, defaults: Guards) -> Guards:
    """What is 0 is as configured."""
    return Guards(
        min_requests=message.min_requests or defaults.min_requests,
        max_error_rate_increase=message.max_error_rate_increase or defaults.max_error_rate_increase,
        max_degraded_rate_increase=message.max_degraded_rate_increase
        or defaults.max_degraded_rate_increase,
        max_p99_ratio=message.max_p99_ratio or defaults.max_p99_ratio,
        click_rate_alpha=message.click_rate_alpha or defaults.click_rate_alpha,
    )


def _guards_to_proto(guards: Guards) -> rollout_pb2.Guards:
    return rollout_pb2.Guards(
        min_requests=guards.min_requests,
        max_error_rate_increase=guards.max_error_rate_increase,
        max_degraded_rate_increase=guards.max_degraded_rate_increase,
        max_p99_ratio=guards.max_p99_ratio,
        click_rate_alpha=guards.click_rate_alpha,
    )


def _canary_to_proto(canary: Canary | None) -> rollout_pb2.Canary | None:
    if canary is None:
        return None
    seen = canary.seen(canary=True)
    return rollout_pb2.Canary(
        release=_release_to_proto(canary.release),
        share=canary.share,
        guards=_guards_to_proto(canary.guards),
        running=canary.running,
        rolled_back_because=canary.rolled_back_because,
        started_ms=canary.started_ms,
        figures=_figures_to_proto(seen),
        others=_figures_to_proto(canary.seen(canary=False)),
        fallen_back=seen.figures.fallen_back,
    )


def _figures_to_proto(seen: SeenRelease) -> rollout_pb2.ReleaseFigures:
    return rollout_pb2.ReleaseFigures(
        requests=seen.figures.requests,
        failed=seen.figures.failed,
        degraded=seen.figures.degraded + seen.figures.fallen_back,
        p50_ms=seen.newest.durations.quantile(0.5),
        p99_ms=seen.newest.durations.quantile(0.99),
        pages=seen.pages,
        clicks=seen.clicks,
    )


def _shadow_to_proto(shadow: Shadow) -> rollout_pb2.Shadow | None:
    figures = shadow.figures
    if figures is None:
        return None
    return rollout_pb2.Shadow(
        release=_release_to_proto(shadow.release),
        share=shadow.share,
        requests=figures.requests,
        failed=figures.failed,
        skipped=figures.skipped,
        overlap=figures.overlap,
        same_first=figures.same_first,
        p50_ratio=figures.time_ratio(0.5),
        p99_ratio=figures.time_ratio(0.99),
    )
