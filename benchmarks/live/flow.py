"""A steady flow of events, sent by a process of its own: whoever times pages does nothing else.

What is sent is put into bytes before the flow begins, so that it takes as little of the machine as
a client in another place would.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from types import TracebackType
from typing import Self

import grpc
import numpy as np

from shortlist.v1 import common_pb2, events_pb2

__all__ = ["EventFlow"]

_METHOD = "/shortlist.v1.Events/RecordEvents"
_BATCH = 100  # events a call
_IN_FLIGHT = 8  # calls
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Script:
    """What the sending process knows."""

    target: str
    users: Sequence[str]
    items: Sequence[str]


class EventFlow:
    """Random clicks of `users` on `items`, sent to `target`. Use it as a context manager."""

    def __init__(self, target: str, users: Sequence[str], items: Sequence[str]) -> None:
        self._process = ProcessPoolExecutor(
            1,
            mp_context=get_context("spawn"),  # gRPC does not survive a fork
            initializer=_begin,
            initargs=(_Script(target=target, users=users, items=items),),
        )

    async def prepare(self, events: int, seed: int) -> None:
        """Make the next events."""
        await self._there(partial(_make, events, seed))

    async def send(self, seconds: float, *, rate: float | None = None) -> float:
        """Send what was prepared for so long, or until there is no more: at `rate` events a second,
        None = as fast as they are acknowledged. Returns the events a second that are durable.
        """
        return await self._there(partial(_send, seconds, rate))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.shutdown(cancel_futures=True)

    async def _there(self, work: partial[float]) -> float:
        return await asyncio.get_running_loop().run_in_executor(self._process, work)


# -- in the process that sends --------------------------------------------------------------------

_script: _Script
_calls: list[bytes] = []


def _begin(script: _Script) -> None:
    global _script
    _script = script


def _make(events: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    _calls.clear()
    for _ in range(0, events, _BATCH):
        _calls.append(_call(rng))
    return float(events)


def _call(rng: np.random.Generator) -> bytes:
    users = rng.integers(len(_script.users), size=_BATCH).tolist()
    items = rng.integers(len(_script.items), size=_BATCH).tolist()
    prefix = uuid.uuid4().hex
    request = events_pb2.RecordEventsRequest(
        events=[
            events_pb2.RecordedEvent(
                event_id=f"{prefix}-{at}",
                user_id=_script.users[user],
                event=common_pb2.UserEvent(item_id=_script.items[item]),
            )
            for at, (user, item) in enumerate(zip(users, items, strict=True))
        ]
    )
    return request.SerializeToString()


def _send(seconds: float, rate: float | None) -> float:
    return asyncio.run(_send_all(seconds, rate))


async def _send_all(seconds: float, rate: float | None) -> float:
    accepted = sent = 0
    async with grpc.aio.insecure_channel(_script.target) as channel:
        record = channel.unary_unary(
            _METHOD, response_deserializer=events_pb2.RecordEventsResponse.FromString
        )
        await channel.channel_ready()
        started = time.perf_counter()

        async def write() -> None:  # one of those in flight
            nonlocal accepted, sent
            while _calls and (now := time.perf_counter() - started) < seconds:
                if rate is not None and sent > rate * now:
                    await asyncio.sleep((sent - rate * now) / rate)
                    continue
                sent += _BATCH
                answer = await record(_calls.pop(), timeout=_TIMEOUT_S)
                accepted += answer.accepted  # read after the wait: others have counted meanwhile

        await asyncio.gather(*(write() for _ in range(_IN_FLIGHT)))
        return accepted / (time.perf_counter() - started)
