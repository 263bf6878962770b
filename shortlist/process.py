"""What the entry points of the serving processes (`python -m retrieval_svc`, ...) have in common.

Numpy's BLAS reads its thread count when it is loaded, so neither this module nor an entry point
imports numpy at its top, nor Arrow, which chooses its memory then; `service_options` says what they
shall read before the command's body runs.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shortlist.config import Config
from shortlist.errors import ShortlistError
from shortlist.scheduling import ask_for_short_turns
from shortlist.serving import Server, ServerOptions
from shortlist.telemetry import Watches, setup_logging

if TYPE_CHECKING:
    from shortlist.admin import TierStatus
    from shortlist.metrics import Metrics
    from shortlist.stores import Store

__all__ = ["CONTEXT", "ServiceArguments", "service_options"]

CONTEXT: Final[dict[str, Any]] = {
    "auto_envvar_prefix": "SHORTLIST",
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}

# How long a thread that computes in Python keeps others waiting. With Python's 5 ms, 9 of 10 pages
# took 3.7 to 6.4 times as long beside 5,000 events a second on a crowded machine, with this 3 to
# 3.8 times as long.
_SWITCH_S = 0.0005

# Unless the environment says otherwise: one BLAS thread, as more processes beat more threads; and
# Arrow in the memory of everybody else. A pool of its own keeps what loading took, and grows by
# 4 MB at once long after: a shard of 10,000 items begins with 99 MB with it, with 82 MB without.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}

_VERSION = click.option(
    "--version", metavar="NAME", help="Serve this version.  [default: the current one]"
)

_PLACES = (
    click.option(
        "--workdir",
        type=click.Path(path_type=Path),
        help="Folder with shortlist.yaml and artifacts/.",
    ),
    click.option(
        "--artifacts",
        metavar="PATH|URL",
        help="Where the artifacts are, if not in the workdir: a folder, or a URL like s3://b/a.",
    ),
)

_COMMON = (
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=0,
        show_default=True,
        help="Port to listen on; 0 takes any free one and says which.",
    ),
    click.option(
        "--metrics-port",
        type=click.IntRange(0, 65535),
        help="Answer GET /metrics, for Prometheus, on this port of the same address; 0 takes any "
        "free one and says which.  [default: count nothing]",
    ),
    click.option(
        "--event-loop",
        type=click.Choice(["asyncio", "uvloop"]),
        default="asyncio",
        show_default=True,
        help="uvloop takes less of the processor, and times itself less exactly.",
    ),
    click.option(
        "--log-level",
        type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"]),
        default="INFO",
        show_default=True,
        help="Least level of the JSON lines on stderr.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ServiceArguments:
    """The options that every service has."""

    workdir: Path | None
    artifacts: str | None
    process: str
    version: str | None
    host: str
    port: int
    metrics_port: int | None  # None = nobody asks, nothing is counted
    event_loop: str
    log_level: str

    @property
    def artifact_root(self) -> str:
        """Raises `click.UsageError` when the command line names no place."""
        if self.artifacts:
            return self.artifacts
        if self.workdir:
            return str(self.workdir / "artifacts")
        raise click.UsageError("give --workdir or --artifacts")

    @functools.cached_property
    def config(self) -> Config:
        """Of the workdir; the defaults without one."""
        return Config.load(self.workdir / "shortlist.yaml") if self.workdir else Config()

    def live_store(self) -> Store | None:
        """Where the log of changes is; None without a workdir, where nobody said so."""
        from shortlist.stores.opening import open_store  # it imports numpy

        if self.workdir is None:
            return None
        return open_store(self.config.store, self.workdir)

    @functools.cached_property
    def metrics(self) -> Metrics | None:
        """What this process counts of itself, if anybody asks."""
        from shortlist.metrics import Metrics  # it imports numpy

        return None if self.metrics_port is None else Metrics(self.process)

    def server(self) -> Server:
        """A server with the limits of the configuration, whose calls the metrics count."""
        limits = self.config.serving
        return Server(
            ServerOptions(
                host=self.host,
                port=self.port,
                max_message_bytes=limits.max_message_bytes,
                max_concurrency=limits.max_concurrency,
                min_concurrency=limits.min_concurrency,
                drain_s=limits.drain_s,
            ),
            self.metrics.calls if self.metrics else None,
        )

    @property
    def watches(self) -> Watches:
        """What the parts of the process tell what they do."""
        return self.metrics.watches if self.metrics else Watches()

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """`asyncio.run`, on the event loop that was chosen."""
        with asyncio.Runner(loop_factory=_loop_factory(self.event_loop)) as runner:
            runner.run(main)

    async def serve(self, server: Server, status: Callable[[], TierStatus]) -> None:
        """Serve until SIGTERM or SIGINT; one JSON line on stdout says when, and on which ports.

        `status` says, to any thread, what this process serves.
        """
        # What is loaded stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(_SWITCH_S)
        if self.metrics is None or self.metrics_port is None:
            await _serve(server, {})
            return
        self.metrics.follow(status)
        with self.metrics.served(self.host, self.metrics_port) as port:
            await _serve(server, {"metrics_port": port})


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """None = Python's own."""
    if name == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        raise click.UsageError("--event-loop uvloop: pip install 'shortlist[uvloop]'") from None
    return uvloop.new_event_loop


def service_options(
    process: str, *, versioned: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate the body of a service's command, which then gets `ServiceArguments` first.

    Around the body: what libraries read in the environment when they are loaded, short turns on the
    processor, logs, and one line instead of a traceback for a `ShortlistError`. A process that is
    not `versioned` serves no artifact of its own, so it has no --version.
    """

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(body)
        def command(
            workdir: Path | None,
            artifacts: str | None,
            host: str,
            port: int,
            metrics_port: int | None,
            event_loop: str,
            log_level: str,
            version: str | None = None,
            **own: Any,
        ) -> None:
            for variable, value in _ENVIRONMENT.items():
                os.environ.setdefault(variable, value)
            ask_for_short_turns()  # before there are threads
            setup_logging(process, log_level)
            arguments = ServiceArguments(
                workdir=workdir,
                artifacts=artifacts,
                process=process,
                version=version,
                host=host,
                port=port,
                metrics_port=metrics_port,
                event_loop=event_loop,
                log_level=log_level,
            )
            try:
                body(arguments, **own)
            except ShortlistError as error:
                raise click.ClickException(str(error)) from None

        options = (*_PLACES, *([_VERSION] if versioned else []), *_COMMON)
        return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)

    return decorate


async def _serve(server: Server, ports: dict[str, int]) -> None:
    port = await server.start()
    click.echo(json.dumps({"event": "serving", "port": port, **ports}))
    await server.serve_until_stopped()
