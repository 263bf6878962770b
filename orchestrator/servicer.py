# ruff: noqa: N802 - gRPC decides the names and signatures of handlers
"""`shortlist.v1.Orchestrator`: translate, ask the recommender, translate back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import grpc

from orchestrator.admin import FollowingTier
from orchestrator.catalog_servicer import CatalogServicer
from orchestrator.events_servicer import EventsServicer
from orchestrator.pipeline import Recommender
from orchestrator.rollout_servicer import RolloutServicer
from shortlist.admin import AdminServicer
from shortlist.errors import InvalidField, ShortlistError
from shortlist.page import (
    Coverage,
    Degradation,
    Item,
    Page,
    PageRequest,
    Ranking,
    RankRequest,
    RecentEvent,
    SimilarItems,
    SimilarRequest,
    Trace,
    Versions,
)
from shortlist.serving import Server, remaining_ms
from shortlist.tiers import AttributeValue
from shortlist.v1 import (
    admin_pb2_grpc,
    catalog_pb2_grpc,
    common_pb2,
    events_pb2_grpc,
    orchestrator_pb2,
    orchestrator_pb2_grpc,
    rollout_pb2_grpc,
)
from shortlist.wire import attributes_to_proto

__all__ = ["OrchestratorServicer", "add_services", "page_request_from_proto", "page_to_proto"]


class OrchestratorServicer(orchestrator_pb2_grpc.OrchestratorServicer):
    """Serves one recommender."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender

    async def Recommend(
        self, request: orchestrator_pb2.RecommendRequest, context: grpc.aio.ServicerContext
    ) -> orchestrator_pb2.RecommendResponse:
        page = await self._recommender.recommend(
            page_request_from_proto(request), deadline_ms=remaining_ms(context)
        )
        return page_to_proto(page)

    async def BatchRecommend(
        self, request: orchestrator_pb2.BatchRecommendRequest, context: grpc.aio.ServicerContext
    ) -> orchestrator_pb2.BatchRecommendResponse:
        outcomes = await self._recommender.recommend_batch(
            [
                page_request_from_proto(one, f"requests[{at}].")
                for at, one in enumerate(request.requests)
            ],
            deadline_ms=remaining_ms(context),
        )
        return orchestrator_pb2.BatchRecommendResponse(results=map(_result_to_proto, outcomes))

    async def Rank(
        self, request: orchestrator_pb2.RankRequest, context: grpc.aio.ServicerContext
    ) -> orchestrator_pb2.RankResponse:
        ranking = await self._recommender.rank(
            _rank_request_from_proto(request), deadline_ms=remaining_ms(context)
        )
        return _ranking_to_proto(ranking)

    async def Similar(
        self, request: orchestrator_pb2.SimilarRequest, context: grpc.aio.ServicerContext
    ) -> orchestrator_pb2.SimilarResponse:
        similar = await self._recommender.similar(
            _similar_request_from_proto(request), deadline_ms=remaining_ms(context)
        )
        return _similar_to_proto(similar)


def add_services(server: Server, recommender: Recommender) -> None:
    """Everything that an orchestrator's process offers, before `server` starts."""
    registry = cast(grpc.aio.Server, server)  # it takes the place of one
    orchestrator_pb2_grpc.add_OrchestratorServicer_to_server(
        OrchestratorServicer(recommender), registry
    )
    events_pb2_grpc.add_EventsServicer_to_server(EventsServicer(recommender), registry)
    catalog_pb2_grpc.add_CatalogServicer_to_server(CatalogServicer(recommender), registry)
    rollout_pb2_grpc.add_RolloutServicer_to_server(RolloutServicer(recommender.rollout), registry)
    admin = AdminServicer(FollowingTier(recommender), recommender.inside)
    admin_pb2_grpc.add_AdminServicer_to_server(admin, registry)


# -- requests -------------------------------------------------------------------------------------


def page_request_from_proto(
    message: orchestrator_pb2.RecommendRequest, path: str = ""
) -> PageRequest:
    """The request as a value, unchecked; only an attribute without a value raises here."""
    user = message.user
    return PageRequest(
        request_id=message.request_id,
        surface=message.surface,
        user_id=user.id,
        session_id=user.session_id,
        user_attributes=_attributes(user.attributes, f"{path}user.attributes"),
        recent_events=_recent_events(user.recent_events),
        page_size=message.page_size,
        page_token=message.page_token,
        exclude_item_ids=tuple(message.exclude_item_ids),
        exclude_seen=message.exclude_seen if message.HasField("exclude_seen") else True,
        filter=message.filter,
        blocked={name: tuple(texts.values) for name, texts in message.blocked.items()},
        diversity=message.diversity.strength if message.diversity.HasField("strength") else None,
        caps=dict(message.diversity.caps),
        sources=tuple(message.sources.only),
        quotas=dict(message.sources.quotas),
        context=_attributes(message.context, f"{path}context"),
        time_ms=message.time_ms,
        return_attributes=tuple(message.return_attributes),
        trace=message.trace,
        min_coverage=message.min_coverage,
        arm=message.arm,
    )


def _rank_request_from_proto(message: orchestrator_pb2.RankRequest) -> RankRequest:
    user = message.user
    return RankRequest(
        request_id=message.request_id,
        user_id=user.id,
        session_id=user.session_id,
        user_attributes=_attributes(user.attributes, "user.attributes"),
        recent_events=_recent_events(user.recent_events),
        item_ids=tuple(message.item_ids),
        context=_attributes(message.context, "context"),
        time_ms=message.time_ms,
        trace=message.trace,
        arm=message.arm,
    )


def _similar_request_from_proto(message: orchestrator_pb2.SimilarRequest) -> SimilarRequest:
    return SimilarRequest(
        request_id=message.request_id,
        item_id=message.item_id,
        page_size=message.page_size,
        exclude_item_ids=tuple(message.exclude_item_ids),
        filter=message.filter,
        return_attributes=tuple(message.return_attributes),
        trace=message.trace,
    )


def _recent_events(messages: Sequence[common_pb2.UserEvent]) -> tuple[RecentEvent, ...]:
    return tuple(
        RecentEvent(
            item_id=one.item_id,
            event_type=one.event_type,
            time_ms=one.time_ms,
            value=one.value if one.HasField("value") else None,
        )
        for one in messages
    )


def _attributes(
    messages: Mapping[str, common_pb2.AttributeValue], path: str
) -> dict[str, AttributeValue]:
    """Numbers pass as they are: `orchestrator.validation` reports all that are not finite."""
    return {name: _attribute(one, f'{path}["{name}"]') for name, one in messages.items()}


def _attribute(message: common_pb2.AttributeValue, path: str) -> AttributeValue:
    match message.WhichOneof("kind"):
        case "text":
            return message.text
        case "number":
            return message.number
        case "texts":
            return tuple(message.texts.values)
    raise InvalidField(path, "has no value")


# -- answers --------------------------------------------------------------------------------------


def page_to_proto(page: Page) -> orchestrator_pb2.RecommendResponse:
    return orchestrator_pb2.RecommendResponse(
        request_id=page.request_id,
        items=map(_item_to_proto, page.items),
        attribution_token=page.attribution_token,
        next_page_token=page.next_page_token,
        coverage=_coverage_to_proto(page.coverage),
        degradations=map(_degradation_to_proto, page.degradations),
        versions=_versions_to_proto(page.versions),
        trace=_trace_to_proto(page.trace),
        unknown_items=page.unknown_items,
        cold_start=page.cold_start,
    )


def _ranking_to_proto(ranking: Ranking) -> orchestrator_pb2.RankResponse:
    return orchestrator_pb2.RankResponse(
        request_id=ranking.request_id,
        items=map(_item_to_proto, ranking.items),
        unknown_items=ranking.unknown_items,
        degradations=map(_degradation_to_proto, ranking.degradations),
        versions=_versions_to_proto(ranking.versions),
        trace=_trace_to_proto(ranking.trace),
    )


def _similar_to_proto(similar: SimilarItems) -> orchestrator_pb2.SimilarResponse:
    return orchestrator_pb2.SimilarResponse(
        request_id=similar.request_id,
        items=map(_item_to_proto, similar.items),
        coverage=_coverage_to_proto(similar.coverage),
        degradations=map(_degradation_to_proto, similar.degradations),
        versions=_versions_to_proto(similar.versions),
        trace=_trace_to_proto(similar.trace),
    )


def _result_to_proto(outcome: Page | ShortlistError) -> orchestrator_pb2.BatchRecommendResult:
    if isinstance(outcome, Page):
        return orchestrator_pb2.BatchRecommendResult(response=page_to_proto(outcome))
    code = grpc.StatusCode[outcome.status_name].value[0]
    return orchestrator_pb2.BatchRecommendResult(
        error=orchestrator_pb2.BatchError(code=code, message=str(outcome))
    )


def _item_to_proto(item: Item) -> orchestrator_pb2.RecommendedItem:
    return orchestrator_pb2.RecommendedItem(
        id=item.id,
        score=item.score,
        rank=item.rank,
        sources=item.sources,
        title=item.title,
        attributes=attributes_to_proto(item.attributes),
    )


def _coverage_to_proto(coverage: Coverage) -> common_pb2.Coverage:
    return common_pb2.Coverage(
        shards_answered=coverage.shards_answered,
        shards_total=coverage.shards_total,
        items_searched=coverage.items_searched,
        items_total=coverage.items_total,
    )


def _degradation_to_proto(degradation: Degradation) -> common_pb2.Degradation:
    return common_pb2.Degradation(
        reason=common_pb2.Degradation.Reason.Value(f"REASON_{degradation.reason}"),
        stage=degradation.stage,
        detail=degradation.detail,
    )


def _versions_to_proto(versions: Versions) -> common_pb2.Versions:
    return common_pb2.Versions(
        retrieval=versions.retrieval,
        ranking=versions.ranking,
        retrieval_watermark_ms=versions.retrieval_watermark_ms,
        software=versions.software,
        ranker=versions.ranker,
        arm=versions.arm,
        release=versions.release,
        log_sequence=versions.log_sequence,
        lag_ms=versions.lag_ms,
    )


def _trace_to_proto(trace: Trace | None) -> common_pb2.Trace | None:
    if trace is None:
        return None
    return common_pb2.Trace(
        stages=[
            common_pb2.StageTrace(
                stage=one.stage,
                duration_us=one.duration_us,
                items_in=one.items_in,
                items_out=one.items_out,
                dropped=one.dropped,
                by_source=one.by_source,
            )
            for one in trace.stages
        ],
        total_us=trace.total_us,
    )
