"""The typed Python client.

    with Client("127.0.0.1:7700") as client:
        page = client.recommend(PageRequest(user_id="42", page_size=10))
        for item in page.items:
            print(item.rank, item.title or item.id, item.score)

        client.record_events([RecordedEvent(event_id="e1", user_id="42", item_id="i17")])

`AsyncClient` has the same methods as coroutines. A failed call raises a `ShortlistError`:
`InvalidRequest` with the fields at fault, `TierUnavailable`, `BudgetExceeded`, ...

Several orchestrators are one target, `"10.0.0.1:7700,10.0.0.2:7700"` or a list. Reads and
`record_events` are asked again when nobody was there to answer (`UNAVAILABLE`), up to four times
within the deadline and within a budget for all calls; see `shortlist.client_channel`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from typing import Any, cast

import grpc

from shortlist.client_channel import channel_options, channel_target
from shortlist.errors import InvalidRequest, ShortlistError
from shortlist.feed import (
    Acknowledgement,
    CatalogPage,
    CatalogReport,
    EventBatch,
    EventReport,
    FoundItems,
    RecordedEvent,
)
from shortlist.feed_wire import (
    acknowledgement_from_proto,
    batch_to_proto,
    catalog_page_from_proto,
    catalog_report_from_proto,
    event_report_from_proto,
    event_to_proto,
    found_items_from_proto,
    item_to_proto,
)
from shortlist.live import CatalogItem
from shortlist.page import (
    Coverage,
    Degradation,
    DegradationReason,
    Item,
    Page,
    PageRequest,
    Ranking,
    RankRequest,
    RecentEvent,
    SimilarItems,
    SimilarRequest,
    StageTrace,
    Trace,
    Versions,
)
from shortlist.remote import ERRORS, error_from_rpc
from shortlist.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    common_pb2,
    events_pb2,
    events_pb2_grpc,
    orchestrator_pb2,
    orchestrator_pb2_grpc,
)
from shortlist.wire import attributes_from_proto, attributes_to_proto

__all__ = ["AsyncClient", "Client"]

_ERROR_OF_CODE = {status.value[0]: kind for status, kind in ERRORS.items()}


class Client:
    """Asks the orchestrators at `target` (`host:port`, several with commas between them or as a
    sequence). Use it as a context manager, or `close` it.

    `timeout_s` is every call's deadline unless the call brings its own. Without `retries` every
    call is one attempt. Safe to share by threads.
    """

    def __init__(
        self, target: str | Sequence[str], *, timeout_s: float = 10.0, retries: bool = True
    ) -> None:
        self._target = channel_target(target)
        self._timeout_s = timeout_s
        options = channel_options(retries=retries)
        self._channel = grpc.insecure_channel(self._target, options=options)
        self._stub = orchestrator_pb2_grpc.OrchestratorStub(self._channel)
        self._events = events_pb2_grpc.EventsStub(self._channel)
        self._catalog = catalog_pb2_grpc.CatalogStub(self._channel)

    def recommend(self, request: PageRequest, *, timeout_s: float | None = None) -> Page:
        """One page."""
        return _page(self._call(self._stub.Recommend, _page_request(request), timeout_s))

    def recommend_batch(
        self, requests: Sequence[PageRequest], *, timeout_s: float | None = None
    ) -> list[Page | ShortlistError]:
        """Aligned with the requests: each has a page or its own error."""
        return _outcomes(self._call(self._stub.BatchRecommend, _batch(requests), timeout_s))

    def rank(self, request: RankRequest, *, timeout_s: float | None = None) -> Ranking:
        """The given items, best first."""
        return _ranking(self._call(self._stub.Rank, _rank_request(request), timeout_s))

    def similar(self, request: SimilarRequest, *, timeout_s: float | None = None) -> SimilarItems:
        """Items like one item. Raises `ItemNotFound`."""
        return _similar(self._call(self._stub.Similar, _similar_request(request), timeout_s))

    def record_events(
        self, events: Sequence[RecordedEvent], *, timeout_s: float | None = None
    ) -> EventReport:
        """1 to 10,000 events; those not refused are durable. Safe to send again."""
        message = events_pb2.RecordEventsRequest(events=map(event_to_proto, events))
        return event_report_from_proto(self._call(self._events.RecordEvents, message, timeout_s))

    def stream_events(self, batches: Iterable[EventBatch]) -> Iterator[Acknowledgement]:
        """Acknowledgements as they come; an error ends them, and what was not acknowledged may be
        sent again. There is no deadline."""
        call = self._events.StreamEvents(map(batch_to_proto, batches))
        try:
            yield from map(acknowledgement_from_proto, call)
        except grpc.RpcError as error:
            raise error_from_rpc(cast(grpc.aio.AioRpcError, error), self._target) from None
        finally:
            call.cancel()

    def upsert_items(
        self,
        items: Sequence[CatalogItem],
        *,
        wait_for_index: bool = False,
        timeout_s: float | None = None,
    ) -> CatalogReport:
        """Add or replace 1 to 10,000 items."""
        message = catalog_pb2.UpsertItemsRequest(
            items=map(item_to_proto, items), wait_for_index=wait_for_index
        )
        return catalog_report_from_proto(self._call(self._catalog.UpsertItems, message, timeout_s))

    def delete_items(
        self,
        ids: Sequence[str],
        *,
        wait_for_index: bool = False,
        timeout_s: float | None = None,
    ) -> CatalogReport:
        """Remove 1 to 10,000 items; with `wait_for_index` they are on no page any more."""
        message = catalog_pb2.DeleteItemsRequest(ids=ids, wait_for_index=wait_for_index)
        return catalog_report_from_proto(self._call(self._catalog.DeleteItems, message, timeout_s))

    def get_items(self, ids: Sequence[str], *, timeout_s: float | None = None) -> FoundItems:
        """1 to 1000 items by id, in the order asked."""
        message = catalog_pb2.GetItemsRequest(ids=ids)
        return found_items_from_proto(self._call(self._catalog.GetItems, message, timeout_s))

    def list_items(
        self, *, page_size: int = 0, page_token: str = "", timeout_s: float | None = None
    ) -> CatalogPage:
        """A page of the catalogue, 1 to 1000 items (0 = 100)."""
        message = catalog_pb2.ListItemsRequest(page_size=page_size, page_token=page_token)
        return catalog_page_from_proto(self._call(self._catalog.ListItems, message, timeout_s))

    def delete_users(self, ids: Sequence[str], *, timeout_s: float | None = None) -> CatalogReport:
        """Forget 1 to 1000 users; later events of theirs are refused."""
        message = catalog_pb2.DeleteUsersRequest(ids=ids)
        return catalog_report_from_proto(self._call(self._catalog.DeleteUsers, message, timeout_s))

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: Any, message: Any, timeout_s: float | None) -> Any:
        try:
            return method(message, timeout=self._timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            raise error_from_rpc(cast(grpc.aio.AioRpcError, error), self._target) from None


class AsyncClient:
    """`Client` for asyncio."""

    def __init__(
        self, target: str | Sequence[str], *, timeout_s: float = 10.0, retries: bool = True
    ) -> None:
        self._target = channel_target(target)
        self._timeout_s = timeout_s
        options = channel_options(retries=retries)
        self._channel = grpc.aio.insecure_channel(self._target, options=options)
        self._stub = orchestrator_pb2_grpc.OrchestratorStub(self._channel)
        self._events = events_pb2_grpc.EventsStub(self._channel)
        self._catalog = catalog_pb2_grpc.CatalogStub(self._channel)

    async def recommend(self, request: PageRequest, *, timeout_s: float | None = None) -> Page:
        """One page."""
        return _page(await self._call(self._stub.Recommend, _page_request(request), timeout_s))

    async def recommend_batch(
        self, requests: Sequence[PageRequest], *, timeout_s: float | None = None
    ) -> list[Page | ShortlistError]:
        """Aligned with the requests: each has a page or its own error."""
        return _outcomes(await self._call(self._stub.BatchRecommend, _batch(requests), timeout_s))

    async def rank(self, request: RankRequest, *, timeout_s: float | None = None) -> Ranking:
        """The given items, best first."""
        return _ranking(await self._call(self._stub.Rank, _rank_request(request), timeout_s))

    async def similar(
        self, request: SimilarRequest, *, timeout_s: float | None = None
    ) -> SimilarItems:
        """Items like one item. Raises `ItemNotFound`."""
        return _similar(await self._call(self._stub.Similar, _similar_request(request), timeout_s))

    async def record_events(
        self, events: Sequence[RecordedEvent], *, timeout_s: float | None = None
    ) -> EventReport:
        """1 to 10,000 events; those not refused are durable. Safe to send again."""
        message = events_pb2.RecordEventsRequest(events=map(event_to_proto, events))
        return event_report_from_proto(
            await self._call(self._events.RecordEvents, message, timeout_s)
        )

    async def stream_events(
        self, batches: AsyncIterable[EventBatch]
    ) -> AsyncGenerator[Acknowledgement, None]:
        """Acknowledgements as they come; an error ends them, and what was not acknowledged may be
        sent again. There is no deadline."""
        call = self._events.StreamEvents(_batches(batches))
        try:
            async for message in call:
                yield acknowledgement_from_proto(message)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, self._target) from None
        finally:
            call.cancel()

    async def upsert_items(
        self,
        items: Sequence[CatalogItem],
        *,
        wait_for_index: bool = False,
        timeout_s: float | None = None,
    ) -> CatalogReport:
        """Add or replace 1 to 10,000 items."""
        message = catalog_pb2.UpsertItemsRequest(
            items=map(item_to_proto, items), wait_for_index=wait_for_index
        )
        return catalog_report_from_proto(
            await self._call(self._catalog.UpsertItems, message, timeout_s)
        )

    async def delete_items(
        self,
        ids: Sequence[str],
        *,
        wait_for_index: bool = False,
        timeout_s: float | None = None,
    ) -> CatalogReport:
        """Remove 1 to 10,000 items; with `wait_for_index` they are on no page any more."""
        message = catalog_pb2.DeleteItemsRequest(ids=ids, wait_for_index=wait_for_index)
        return catalog_report_from_proto(
            await self._call(self._catalog.DeleteItems, message, timeout_s)
        )

    async def get_items(self, ids: Sequence[str], *, timeout_s: float | None = None) -> FoundItems:
        """1 to 1000 items by id, in the order asked."""
        message = catalog_pb2.GetItemsRequest(ids=ids)
        return found_items_from_proto(await self._call(self._catalog.GetItems, message, timeout_s))

    async def list_items(
        self, *, page_size: int = 0, page_token: str = "", timeout_s: float | None = None
    ) -> CatalogPage:
        """A page of the catalogue, 1 to 1000 items (0 = 100)."""
        message = catalog_pb2.ListItemsRequest(page_size=page_size, page_token=page_token)
        return catalog_page_from_proto(
            await self._call(self._catalog.ListItems, message, timeout_s)
        )

    async def delete_users(
        self, ids: Sequence[str], *, timeout_s: float | None = None
    ) -> CatalogReport:
        """Forget 1 to 1000 users; later events of theirs are refused."""
        message = catalog_pb2.DeleteUsersRequest(ids=ids)
        return catalog_report_from_proto(
            await self._call(self._catalog.DeleteUsers, message, timeout_s)
        )

    async def close(self) -> None:
        await self._channel.close(None)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, method: Any, message: Any, timeout_s: float | None) -> Any:
        try:
            return await method(
                message, timeout=self._timeout_s if timeout_s is None else timeout_s
            )
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, self._target) from None


async def _batches(
    batches: AsyncIterable[EventBatch],
) -> AsyncGenerator[events_pb2.StreamEventsRequest, None]:
    async for batch in batches:
        yield batch_to_proto(batch)


# -- requests -------------------------------------------------------------------------------------


def _page_request(request: PageRequest) -> orchestrator_pb2.RecommendRequest:
    return orchestrator_pb2.RecommendRequest(
        request_id=request.request_id,
        surface=request.surface,
        user=_user(request),
        page_size=request.page_size,
        page_token=request.page_token,
        exclude_item_ids=request.exclude_item_ids,
        exclude_seen=request.exclude_seen,
        filter=request.filter,
        blocked={
            name: common_pb2.TextList(values=values) for name, values in request.blocked.items()
        },
        diversity=orchestrator_pb2.DiversityOptions(strength=request.diversity, caps=request.caps),
        sources=orchestrator_pb2.SourceOptions(only=request.sources, quotas=request.quotas),
        context=attributes_to_proto(request.context),
        time_ms=request.time_ms,
        return_attributes=request.return_attributes,
        trace=request.trace,
        min_coverage=request.min_coverage,
        arm=request.arm,
    )


def _batch(requests: Sequence[PageRequest]) -> orchestrator_pb2.BatchRecommendRequest:
    return orchestrator_pb2.BatchRecommendRequest(requests=map(_page_request, requests))


def _rank_request(request: RankRequest) -> orchestrator_pb2.RankRequest:
    return orchestrator_pb2.RankRequest(
        request_id=request.request_id,
        user=_user(request),
        item_ids=request.item_ids,
        context=attributes_to_proto(request.context),
        time_ms=request.time_ms,
        trace=request.trace,
        arm=request.arm,
    )


def _similar_request(request: SimilarRequest) -> orchestrator_pb2.SimilarRequest:
    return orchestrator_pb2.SimilarRequest(
        request_id=request.request_id,
        item_id=request.item_id,
        page_size=request.page_size,
        exclude_item_ids=request.exclude_item_ids,
        filter=request.filter,
        return_attributes=request.return_attributes,
        trace=request.trace,
    )


def _user(request: PageRequest | RankRequest) -> common_pb2.User:
    return common_pb2.User(
        id=request.user_id,
        session_id=request.session_id,
        attributes=attributes_to_proto(request.user_attributes),
        recent_events=map(_event, request.recent_events),
    )


def _event(event: RecentEvent) -> common_pb2.UserEvent:
    return common_pb2.UserEvent(
        item_id=event.item_id,
        event_type=event.event_type,
        time_ms=event.time_ms,
        value=event.value,
    )


# -- answers --------------------------------------------------------------------------------------


def _page(message: orchestrator_pb2.RecommendResponse) -> Page:
    return Page(
        request_id=message.request_id,
        items=tuple(map(_item, message.items)),
        attribution_token=message.attribution_token,
        next_page_token=message.next_page_token,
        coverage=_coverage(message.coverage),
        degradations=tuple(map(_degradation, message.degradations)),
        versions=_versions(message.versions),
        unknown_items=message.unknown_items,
        cold_start=message.cold_start,
        trace=_trace(message.trace) if message.HasField("trace") else None,
    )


def _ranking(message: orchestrator_pb2.RankResponse) -> Ranking:
    return Ranking(
        request_id=message.request_id,
        items=tuple(map(_item, message.items)),
        unknown_items=message.unknown_items,
        degradations=tuple(map(_degradation, message.degradations)),
        versions=_versions(message.versions),
        trace=_trace(message.trace) if message.HasField("trace") else None,
    )


def _similar(message: orchestrator_pb2.SimilarResponse) -> SimilarItems:
    return SimilarItems(
        request_id=message.request_id,
        items=tuple(map(_item, message.items)),
        coverage=_coverage(message.coverage),
        degradations=tuple(map(_degradation, message.degradations)),
        versions=_versions(message.versions),
        trace=_trace(message.trace) if message.HasField("trace") else None,
    )


def _outcomes(message: orchestrator_pb2.BatchRecommendResponse) -> list[Page | ShortlistError]:
    return [
        _page(one.response) if one.HasField("response") else _error(one.error)
        for one in message.results
    ]


def _error(message: orchestrator_pb2.BatchError) -> ShortlistError:
    kind = _ERROR_OF_CODE.get(message.code, ShortlistError)
    if issubclass(kind, InvalidRequest):
        return kind([("requests", message.message)])
    return kind(message.message)


def _item(message: orchestrator_pb2.RecommendedItem) -> Item:
    return Item(
        id=message.id,
        score=message.score,
        rank=message.rank,
        sources=tuple(message.sources),
        title=message.title,
        attributes=attributes_from_proto(message.attributes, "attributes"),
    )


def _coverage(message: common_pb2.Coverage) -> Coverage:
    return Coverage(
        shards_answered=message.shards_answered,
        shards_total=message.shards_total,
        items_searched=message.items_searched,
        items_total=message.items_total,
    )


def _degradation(message: common_pb2.Degradation) -> Degradation:
    return Degradation(reason=_reason(message.reason), stage=message.stage, detail=message.detail)


def _reason(number: int) -> DegradationReason:
    """A reason that only a newer server knows becomes `UNSPECIFIED`."""
    known = common_pb2.Degradation.Reason.DESCRIPTOR.values_by_number
    if number not in known:
        return DegradationReason.UNSPECIFIED
    return DegradationReason(known[number].name.removeprefix("REASON_"))


def _versions(message: common_pb2.Versions) -> Versions:
    return Versions(
        retrieval=message.retrieval,
        ranking=message.ranking,
        retrieval_watermark_ms=message.retrieval_watermark_ms,
        software=message.software,
        ranker=message.ranker,
        arm=message.arm,
        release=message.release,
        log_sequence=message.log_sequence,
        lag_ms=message.lag_ms,
    )


def _trace(message: common_pb2.Trace) -> Trace:
    return Trace(
        stages=tuple(
            StageTrace(
                stage=one.stage,
                duration_us=one.duration_us,
                items_in=one.items_in,
                items_out=one.items_out,
                dropped=dict(one.dropped),
                by_source=dict(one.by_source),
            )
            for one in message.stages
        ),
        total_us=message.total_us,
    )
