"""Tiers in other processes, behind the protocols of `shortlist.tiers`.

A call that fails raises a `ShortlistError` and nothing else: gRPC's own errors are translated here,
in one table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shortlist import telemetry, wire
from shortlist.errors import (
    ArtifactNotFound,
    BudgetExceeded,
    InvalidRequest,
    ItemNotFound,
    NotImplementedYet,
    ShortlistError,
    TierUnavailable,
    VersionNotServed,
)
from shortlist.serving import Overloaded
from shortlist.tiers import (
    ItemCards,
    LogPosition,
    RankerStatus,
    RetrievedSlice,
    RetrieveQuery,
    RetrieverStatus,
    ScoreQuery,
    Scores,
)
from shortlist.v1 import admin_pb2, admin_pb2_grpc, ranking_pb2_grpc, retrieval_pb2_grpc

__all__ = ["ERRORS", "RemoteRanker", "RemoteRetriever", "error_from_rpc"]

Answer = TypeVar("Answer")

STATUS_TIMEOUT_MS = 2000.0

ERRORS: Mapping[grpc.StatusCode, type[ShortlistError]] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
        grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
        grpc.StatusCode.NOT_FOUND: ArtifactNotFound,
        grpc.StatusCode.FAILED_PRECONDITION: VersionNotServed,
        grpc.StatusCode.UNIMPLEMENTED: NotImplementedYet,
        grpc.StatusCode.DEADLINE_EXCEEDED: BudgetExceeded,
        grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
        # Whatever else a tier says, it did not answer; a sibling may.
        grpc.StatusCode.ABORTED: TierUnavailable,
        grpc.StatusCode.ALREADY_EXISTS: TierUnavailable,
        grpc.StatusCode.CANCELLED: TierUnavailable,
        grpc.StatusCode.DATA_LOSS: TierUnavailable,
        grpc.StatusCode.INTERNAL: TierUnavailable,
        grpc.StatusCode.PERMISSION_DENIED: TierUnavailable,
        grpc.StatusCode.UNAUTHENTICATED: TierUnavailable,
        grpc.StatusCode.UNAVAILABLE: TierUnavailable,
        grpc.StatusCode.UNKNOWN: TierUnavailable,
    }
)
"""What each status of a failed call is to us: every status but OK."""


def error_from_rpc(error: grpc.aio.AioRpcError, target: str) -> ShortlistError:
    """The error to raise for a failed call to `target`; it keeps the violations of bad fields."""
    kind = ERRORS[error.code()]
    text = f"{target}: {error.code().name}: {error.details()}"
    violations = _violations(error)
    if kind is InvalidRequest:
        return InvalidRequest(violations or [("request", text)])
    if kind is ArtifactNotFound and violations:  # a field names what is not there: an item
        return ItemNotFound(*violations[0])
    return kind(text)


class RemoteRetriever:
    """One replica of one shard, at `host:port`."""

    def __init__(self, target: str, *, max_message_bytes: int = 16 * 1024 * 1024) -> None:
        self._connection = _Connection(target, max_message_bytes)
        self._retrieval: Any = retrieval_pb2_grpc.RetrievalStub(self._connection.channel)

    @property
    def name(self) -> str:
        return self._connection.target

    async def retrieve(self, query: RetrieveQuery) -> RetrievedSlice:
        return await self._connection.call(
            self._retrieval.Retrieve,
            wire.retrieve_request_to_proto(query),
            wire.retrieved_slice_from_proto,
            timeout_ms=query.deadline_ms,
        )

    async def describe(
        self,
        keys: wire.Keys,
        fields: tuple[str, ...],
        index_version: str | None,
        groups: bool = True,
    ) -> ItemCards:
        return await self._connection.call(
            self._retrieval.Describe,
            wire.describe_request_to_proto(keys, fields, index_version, groups),
            wire.item_cards_from_proto,
        )

    async def status(self) -> RetrieverStatus:
        return await self._connection.status(_retriever_status)

    async def close(self) -> None:
        await self._connection.channel.close(None)


class RemoteRanker:
    """One replica of the ranking tier, at `host:port`."""

    def __init__(self, target: str, *, max_message_bytes: int = 16 * 1024 * 1024) -> None:
        self._connection = _Connection(target, max_message_bytes)
        self._ranking: Any = ranking_pb2_grpc.RankingStub(self._connection.channel)

    @property
    def name(self) -> str:
        return self._connection.target

    async def score(self, query: ScoreQuery) -> Scores:
        return await self._connection.call(
            self._ranking.Score,
            wire.score_request_to_proto(query),
            lambda message: wire.scores_from_proto(message, len(query.candidates)),
            timeout_ms=query.deadline_ms,
        )

    async def status(self) -> RankerStatus:
        return await self._connection.status(_ranker_status)

    async def close(self) -> None:
        await self._connection.channel.close(None)


class _Connection:
    """A channel to one process, and the way every call to it is made."""

    def __init__(self, target: str, max_message_bytes: int) -> None:
        self.target = target
        self.channel = grpc.aio.insecure_channel(target, options=_options(max_message_bytes))
        self._admin: Any = admin_pb2_grpc.AdminStub(self.channel)

    async def call(
        self,
        method: Callable[..., Awaitable[Any]],
        request: Any,
        parse: Callable[[Any], Answer],
        *,
        timeout_ms: float | None = None,
    ) -> Answer:
        """One attempt; a port that refuses fails at once instead of waiting to be ready."""
        if timeout_ms is not None and timeout_ms <= 0:
            raise BudgetExceeded(f"{self.target}: no time left to ask")
        try:
            message = await method(
                request,
                timeout=None if timeout_ms is None else timeout_ms / 1000,
                metadata=(("x-request-id", telemetry.request_id.get()),),
            )
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, self.target) from None
        try:
            return parse(message)
        except InvalidRequest as error:
            raise TierUnavailable(f"{self.target} answered nonsense: {error}") from None

    async def status(self, parse: Callable[[admin_pb2.GetStatusResponse], Answer]) -> Answer:
        return await self.call(
            self._admin.GetStatus,
            admin_pb2.GetStatusRequest(),
            parse,
            timeout_ms=STATUS_TIMEOUT_MS,
        )


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # The orchestrator decides what to try again, and where.
        ("grpc.enable_retries", 0),
        # A process that comes back is found within a second, not within gRPC's two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.min_reconnect_backoff_ms", 1000),  # in fact the time one attempt to connect may take
        # Tiers are neighbours; a proxy set for the outside world is not between them.
        ("grpc.enable_http_proxy", 0),
    ]


def _retriever_status(message: admin_pb2.GetStatusResponse) -> RetrieverStatus:
    def status(one: admin_pb2.LoadedVersion) -> RetrieverStatus:
        return RetrieverStatus(
            shard=message.shard,
            shards=message.shards,
            index_version=one.version,
            items=one.items,
            items_total=one.items_total,
            sources=tuple(one.capabilities or message.capabilities),
            watermark_ms=one.watermark_ms,
            log=LogPosition(sequence=one.log_sequence, lag_ms=one.lag_ms),
        )

    active, *others = map(status, _active_first(message))
    return replace(active, others=tuple(others))


def _ranker_status(message: admin_pb2.GetStatusResponse) -> RankerStatus:
    def status(one: admin_pb2.LoadedVersion) -> RankerStatus:
        return RankerStatus(
            model_version=one.version,
            engine=next(iter(one.capabilities or message.capabilities), ""),
            items=one.items,
            watermark_ms=one.watermark_ms,
            models=tuple(one.models or message.models),
            log=LogPosition(sequence=one.log_sequence, lag_ms=one.lag_ms),
        )

    active, *others = map(status, _active_first(message))
    return replace(active, others=tuple(others))


def _active_first(message: admin_pb2.GetStatusResponse) -> list[admin_pb2.LoadedVersion]:
    versions = sorted(message.versions, key=lambda one: not one.active)
    if not versions or not versions[0].active:
        raise TierUnavailable(f"a {message.tier} process has no active version")
    return versions


def _violations(error: Any) -> list[tuple[str, str]]:
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details that contradict the status
        return []
    bad = error_details_pb2.BadRequest()
    for detail in status.details if status else ():
        if detail.Unpack(bad):
            return [(one.field, one.description) for one in bad.field_violations]
    return []
