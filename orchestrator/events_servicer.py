# ruff: noqa: N802, ARG002 - gRPC decides the names and signatures of handlers
"""`shortlist.v1.Events`: translate, hand over, translate back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc

from orchestrator.pipeline import Recommender
from shortlist.feed import EventBatch
from shortlist.feed_wire import (
    Translated,
    acknowledgement_to_proto,
    batch_from_proto,
    event_from_proto,
    event_report_to_proto,
)
from shortlist.v1 import events_pb2, events_pb2_grpc

__all__ = ["EventsServicer"]


class EventsServicer(events_pb2_grpc.EventsServicer):
    """Takes in events for one recommender."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender

    async def RecordEvents(
        self, request: events_pb2.RecordEventsRequest, context: grpc.aio.ServicerContext
    ) -> events_pb2.RecordEventsResponse:
        events = Translated(request.events, event_from_proto)
        return event_report_to_proto(await self._recommender.record_events(events))

    async def StreamEvents(
        self,
        request_iterator: AsyncIterator[events_pb2.StreamEventsRequest],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[events_pb2.StreamEventsResponse]:
        stream = self._recommender.stream_events(_batches(request_iterator))
        async with aclosing(stream):
            async for acknowledgement in stream:
                yield acknowledgement_to_proto(acknowledgement)


async def _batches(
    messages: AsyncIterator[events_pb2.StreamEventsRequest],
) -> AsyncIterator[EventBatch]:
    async for message in messages:
        yield batch_from_proto(message)
