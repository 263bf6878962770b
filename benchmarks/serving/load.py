"""`python -m benchmarks.serving.load`: an open-loop load generator in a process of its own.

It reads one plan a line from stdin and answers with one line of figures. Requests are bytes, made
beforehand, and answers are not parsed, so that it takes as little of the machine as it can. A
request is sent when it is due, whether or not others are answered, and its latency counts from
then: a client that waits its turn has waited all the same.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
import numpy as np

from shortlist.scheduling import ask_for_short_turns

__all__ = ["LoadGenerator", "Plan", "Step"]

_TIMEOUT_S = 10.0
_MOST_IN_FLIGHT = 600  # beyond it a request is counted as not sent
_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One stretch of load at a constant rate."""

    target: str
    method: str  # /package.Service/Method
    requests: list[str]  # base64; taken in turn
    rate: float  # requests a second
    seconds: float
    kept: list[str] = field(default_factory=list)  # requests whose answers are wanted
    keep_every: int = 0  # every so many requests one of `kept` is sent; 0 = never


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What came of a plan. Latencies are those of answers that were OK."""

    offered_rps: float
    ok_rps: float  # answered OK while the load lasted
    statuses: dict[str, int]
    latency_ms: dict[str, float]
    sender_cpu_s: float
    late_ms: float  # p99 of how late a request was sent: above a few ms the sender was too slow
    answers: list[str]  # base64, of the requests that were kept

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != "OK")


async def run(plan: Plan, channel: grpc.aio.Channel) -> Step:
    """Send, wait for all answers, and add up."""
    call = channel.unary_unary(plan.method)
    plain, kept = ([base64.b64decode(one) for one in some] for some in (plan.requests, plan.kept))
    statuses: Counter[str] = Counter()
    latencies: list[float] = []
    ended: list[float] = []
    late: list[float] = []
    answers: list[bytes] = []
    running: set[asyncio.Task[None]] = set()

    async def one(request: bytes, due: float, keep: bool) -> None:
        late.append(time.perf_counter() - due)
        try:
            answer = await call(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            statuses[error.code().name] += 1
            return
        now = time.perf_counter()
        statuses["OK"] += 1
        latencies.append(now - due)
        ended.append(now)
        if keep:
            answers.append(answer)

    cpu = time.process_time()
    begun = time.perf_counter()
    count = max(1, round(plan.rate * plan.seconds))
    for number in range(count):
        due = begun + number / plan.rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if len(running) >= _MOST_IN_FLIGHT:
            statuses["NOT_SENT"] += 1
            continue
        keep = bool(plan.keep_every and kept) and number % plan.keep_every == 0
        requests = kept if keep else plain
        task = asyncio.create_task(one(requests[number % len(requests)], due, keep))
        running.add(task)
        task.add_done_callback(running.discard)
    while running:
        await asyncio.wait(running)
    stop = begun + count / plan.rate
    return Step(
        offered_rps=plan.rate,
        ok_rps=sum(at <= stop for at in ended) / (stop - begun),
        statuses=dict(statuses),
        latency_ms={f"p{q}": _percentile_ms(latencies, q) for q in _PERCENTILES},
        sender_cpu_s=time.process_time() - cpu,
        late_ms=_percentile_ms(late, 99),
        answers=[base64.b64encode(one).decode() for one in answers],
    )


class LoadGenerator:
    """The other end: starts the process and hands it plans. Use it as an async context manager."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command, self._environment = command, environment
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> LoadGenerator:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            limit=1 << 28,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def run(self, plan: Plan) -> Step:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(plan)).encode() + b"\n")
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator ended with {await self._process.wait()}")
        return Step(**json.loads(line))


def _percentile_ms(seconds: list[float], q: float) -> float:
    return 1000 * float(np.percentile(seconds, q)) if seconds else float("nan")


async def _serve(read: Callable[[], str]) -> None:
    channels: dict[str, grpc.aio.Channel] = {}
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    while line := await asyncio.to_thread(read):
        plan = Plan(**json.loads(line))
        if plan.target not in channels:
            channels[plan.target] = grpc.aio.insecure_channel(plan.target, options=options)
        step = await run(plan, channels[plan.target])
        print(json.dumps(asdict(step)), flush=True)
    for channel in channels.values():
        await channel.close()


if __name__ == "__main__":
    ask_for_short_turns()  # whoever asks from another machine waits for nobody here, either
    asyncio.run(_serve(sys.stdin.readline))
