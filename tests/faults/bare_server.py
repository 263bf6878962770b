"""Every service of the contract on a real port, with none of its calls served."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from shortlist.serving import Server, ServerOptions

FILES = ("admin", "catalog", "events", "orchestrator", "ranking", "retrieval")


@asynccontextmanager
async def serving(**servicers: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server of all services; those named by a servicer are served by it."""
    server = Server(ServerOptions(drain_s=0))
    for file in FILES:
        stubs = importlib.import_module(f"shortlist.v1.{file}_pb2_grpc")
        for service in _services(file):
            servicer = servicers.get(service.name) or getattr(stubs, f"{service.name}Servicer")()
            getattr(stubs, f"add_{service.name}Servicer_to_server")(servicer, server)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        yield channel
    await server.stop()


def unary_methods() -> Iterator[tuple[str, type[Any]]]:
    """Path and request class of every call of the contract that does not stream."""
    for file in FILES:
        for service in _services(file):
            for method in service.methods:
                if not method.client_streaming:
                    yield f"/{service.full_name}/{method.name}", GetMessageClass(method.input_type)


def _services(file: str) -> list[Any]:
    messages = importlib.import_module(f"shortlist.v1.{file}_pb2")
    return list(messages.DESCRIPTOR.services_by_name.values())
