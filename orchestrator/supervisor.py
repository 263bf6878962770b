"""Runs processes as one system: starts them in waves, watches them, and leaves none behind.

A child counts as started when it answers SERVING over gRPC health. One that dies is reported, and
restarted on its port only where that was asked for. Children die with the supervisor, even when it
is killed (`shortlist.launch.tethered`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shortlist.errors import ShortlistError
from shortlist.launch import child_environment, tethered

__all__ = [
    "AlreadyUp",
    "Child",
    "ChildSpec",
    "StartFailed",
    "Supervisor",
    "SupervisorOptions",
    "Wave",
    "is_serving",
]

Role = Literal["retrieval", "ranking", "orchestrator"]
Probe = Callable[[str], Awaitable[bool]]

_STOP_ORDER: tuple[Role, ...] = ("orchestrator", "ranking", "retrieval")
_PROBE_EVERY_S = 0.1
_LOG_TAIL_LINES = 15
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.5, 30.0


class StartFailed(ShortlistError):
    """A child died, or did not answer SERVING in time, while the system was starting."""

    status_name = "UNAVAILABLE"


class AlreadyUp(ShortlistError):
    """Another supervisor serves this workdir."""

    status_name = "FAILED_PRECONDITION"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """One process to run; `command` lacks the host and ports, which the supervisor adds."""

    name: str
    role: Role
    command: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 0
    metrics_port: int | None = None  # 0 = any free one; None = no metrics


Wave = Callable[[Sequence["Child"]], Sequence[ChildSpec]]
"""Given the children that already serve, the ones to start next."""


class Child:
    """One running process, its log file, and the port that it says it serves on."""

    def __init__(self, spec: ChildSpec, log: Path) -> None:
        self.spec = spec
        self.log = log
        self.port = spec.port
        self.metrics_port = spec.metrics_port
        self.started = 0.0  # monotonic seconds
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._announced: asyncio.Event = asyncio.Event()

    @property
    def address(self) -> str:
        """`host:port` for clients on this machine."""
        host = "127.0.0.1" if self.spec.host in ("0.0.0.0", "::") else self.spec.host
        return f"{host}:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process; on a restart it gets the ports it had."""
        command = [
            *self.spec.command,
            *("--host", self.spec.host),
            *("--port", str(self.port)),
        ]
        if self.metrics_port is not None:
            command += ["--metrics-port", str(self.metrics_port)]
        self._announced.clear()
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            # A session of its own: a terminal's Ctrl-C reaches the supervisor only, which drains
            # the children in order.
            self._process = await asyncio.create_subprocess_exec(
                *tethered(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=child_environment(),
                start_new_session=True,
            )
        self._reader = asyncio.create_task(self._read_output(self._process))

    async def wait(self) -> int:
        """The exit code, once it has ended (negative: the signal that ended it)."""
        if self._process is None:
            return 0
        code = await self._process.wait()
        if self._reader:
            await asyncio.shield(self._reader)
        return code

    async def until_serving(self, probe: Probe) -> None:
        """Returns once the child has announced its port and `probe` says that it serves."""
        await self._announced.wait()
        while not await probe(self.address):
            await asyncio.sleep(_PROBE_EVERY_S)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL for one that does not end within `grace_s`."""
        if self.running:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wait(), grace_s)
        self.kill()
        await self.wait()

    def kill(self) -> None:
        if self.running:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGKILL)

    def tail(self) -> str:
        """The last lines of the log, for an error message."""
        lines = self.log.read_text("utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def _read_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        with self.log.open("ab") as log:
            async for line in process.stdout:
                log.write(line)
                log.flush()
                self._notice(line)

    def _notice(self, line: bytes) -> None:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and event.get("event") == "serving":
                self.port = int(event["port"])
                self.metrics_port = event.get("metrics_port")
                self._announced.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorOptions:
    """Times in seconds."""

    restart: bool = False  # start a child again that died
    start_timeout_s: float = 120.0
    grace_s: float = 10.0  # for a child to drain after SIGTERM


class Supervisor:
    """Runs waves of children until told to stop.

    `tell` gets one line for each thing that people should hear of while it runs.
    """

    def __init__(
        self,
        run_folder: Path,
        waves: Sequence[Wave],
        *,
        options: SupervisorOptions | None = None,
        probe: Probe | None = None,
        tell: Callable[[str], None] = print,
    ) -> None:
        self._folder = run_folder
        self._waves = waves
        self._options = options or SupervisorOptions()
        self._probe = probe or is_serving
        self._tell = tell
        self._children: list[Child] = []
        self._watchers: list[asyncio.Task[None]] = []

    @property
    def children(self) -> Sequence[Child]:
        return tuple(self._children)

    @property
    def status_file(self) -> Path:
        """Names, process ids and ports, for scripts: `run/up.json`."""
        return self._folder / "up.json"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Supervisor]:
        """Everything serves inside the block, and nothing is left after it.

        Raises `StartFailed` with the end of the failing child's log, `AlreadyUp`.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._refuse_second()
        try:
            await self._start()
            yield self
        finally:
            await self._stop()

    async def until_all_died(self) -> None:
        """Returns when no child is left; with `restart` that never happens."""
        await asyncio.gather(*self._watchers)

    async def _start(self) -> None:
        for wave in self._waves:
            children = [self._child(spec) for spec in wave(self._children)]
            self._children += children
            await _all_or_first_error([self._start_one(child) for child in children])
        self._watchers = [asyncio.create_task(self._watch(child)) for child in self._children]
        self._write_status()

    def _child(self, spec: ChildSpec) -> Child:
        log = self._folder / f"{spec.name}.log"
        log.write_bytes(b"")
        return Child(spec, log)

    async def _start_one(self, child: Child) -> None:
        await child.start()
        serving = asyncio.create_task(child.until_serving(self._probe))
        ended = asyncio.create_task(child.wait())
        try:
            await asyncio.wait(
                {serving, ended},
                timeout=self._options.start_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ended.done():
                raise StartFailed(
                    f"{child.spec.name} ended with {_exit_text(ended.result())} while starting; "
                    f"{child.log} ends with:\n{child.tail()}"
                )
            if not serving.done():
                raise StartFailed(
                    f"{child.spec.name} did not serve within {self._options.start_timeout_s:g} s; "
                    f"{child.log} ends with:\n{child.tail()}"
                )
            serving.result()
        finally:
            serving.cancel()
            ended.cancel()

    async def _watch(self, child: Child) -> None:
        """Report the child's death; with `restart`, bring it back on its port for ever."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            code = await child.wait()
            self._tell(f"{child.spec.name} (pid {child.pid}) died: {_exit_text(code)}; {child.log}")
            if not self._options.restart:
                self._write_status()
                return
            if time.monotonic() - child.started > _LONGEST_BACKOFF_S:
                backoff_s = _FIRST_BACKOFF_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
            with contextlib.suppress(StartFailed):
                await self._start_one(child)
                self._tell(f"{child.spec.name} serves again as pid {child.pid}")
            self._write_status()

    async def _stop(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        # No orchestrator may be left asking a tier that has gone.
        for role in _STOP_ORDER:
            group = [child for child in self._children if child.spec.role == role]
            await asyncio.gather(*(child.stop(self._options.grace_s) for child in group))
        self.status_file.unlink(missing_ok=True)

    def _refuse_second(self) -> None:
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
            pid = int(json.loads(self.status_file.read_text("utf-8"))["pid"])
            if _alive(pid):
                raise AlreadyUp(f"process {pid} already serves {self._folder.parent}")

    def _write_status(self) -> None:
        status = {
            "pid": os.getpid(),
            "processes": [
                {
                    "name": child.spec.name,
                    "role": child.spec.role,
                    "pid": child.pid,
                    "address": child.address,
                    "port": child.port,
                    "metrics_port": child.metrics_port,
                    "running": child.running,
                    "log": str(child.log),
                }
                for child in self._children
            ],
        }
        partial = self.status_file.with_suffix(".partial")
        partial.write_text(json.dumps(status, indent=2), "utf-8")
        partial.replace(self.status_file)


async def is_serving(address: str) -> bool:
    """Whether the gRPC health service at `address` answers SERVING."""
    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=1.0
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _all_or_first_error(steps: Sequence[Awaitable[None]]) -> None:
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _exit_text(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
