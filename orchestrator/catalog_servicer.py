# ruff: noqa: N802, ARG002 - gRPC decides the names and signatures of handlers
"""`shortlist.v1.Catalog`: translate, hand over, translate back."""

from __future__ import annotations

import grpc

from orchestrator.pipeline import Recommender
from shortlist.feed_wire import (
    Translated,
    catalog_page_to_proto,
    found_items_to_proto,
    item_from_proto,
    refusals_to_proto,
)
from shortlist.serving import remaining_ms
from shortlist.v1 import catalog_pb2, catalog_pb2_grpc

__all__ = ["CatalogServicer"]


class CatalogServicer(catalog_pb2_grpc.CatalogServicer):
    """Changes and reads the catalogue of one recommender."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender

    async def UpsertItems(
        self, request: catalog_pb2.UpsertItemsRequest, context: grpc.aio.ServicerContext
    ) -> catalog_pb2.UpsertItemsResponse:
        report = await self._recommender.upsert_items(
            Translated(request.items, item_from_proto),
            wait_for_index=request.wait_for_index,
            deadline_ms=remaining_ms(context),
        )
        return catalog_pb2.UpsertItemsResponse(
            sequence=report.sequence,
            accepted=report.accepted,
            errors=refusals_to_proto(report.errors),
        )

    async def DeleteItems(
        self, request: catalog_pb2.DeleteItemsRequest, context: grpc.aio.ServicerContext
    ) -> catalog_pb2.DeleteItemsResponse:
        report = await self._recommender.delete_items(
            request.ids, wait_for_index=request.wait_for_index, deadline_ms=remaining_ms(context)
        )
        return catalog_pb2.DeleteItemsResponse(
            sequence=report.sequence,
            accepted=report.accepted,
            errors=refusals_to_proto(report.errors),
        )

    async def GetItems(
        self, request: catalog_pb2.GetItemsRequest, context: grpc.aio.ServicerContext
    ) -> catalog_pb2.GetItemsResponse:
        return found_items_to_proto(await self._recommender.get_items(request.ids))

    async def ListItems(
        self, request: catalog_pb2.ListItemsRequest, context: grpc.aio.ServicerContext
    ) -> catalog_pb2.ListItemsResponse:
        page = await self._recommender.list_items(
            page_size=request.page_size, page_token=request.page_token
        )
        return catalog_page_to_proto(page)

    async def DeleteUsers(
        self, request: catalog_pb2.DeleteUsersRequest, context: grpc.aio.ServicerContext
    ) -> catalog_pb2.DeleteUsersResponse:
        report = await self._recommender.delete_users(request.ids)
        return catalog_pb2.DeleteUsersResponse(
            sequence=report.sequence,
            accepted=report.accepted,
            errors=refusals_to_proto(report.errors),
        )
