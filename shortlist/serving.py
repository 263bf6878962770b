"""One way to run a gRPC server, used by all three services.

    server = Server(ServerOptions(port=7001))
    add_RetrievalServicer_to_server(servicer, server)
    port = await server.start()
    await server.serve_until_stopped()

Handlers are coroutines that raise `ShortlistError`; they never touch status codes. What they raise
becomes a status in one place, `status_of`. The wrapping is done once, when a servicer is added,
where an interceptor would do it again for each call.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    aclosing,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import grpc
from google.protobuf import descriptor_pool
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_status import rpc_status

from shortlist import telemetry
from shortlist.concurrency import AdaptiveLimit
from shortlist.errors import (
    BudgetExceeded,
    CoverageTooLow,
    InvalidField,
    InvalidRequest,
    ShortlistError,
    TierUnavailable,
)
from shortlist.right_of_way import REQUESTS_FIRST
from shortlist.telemetry import CallWatch, Unwatched

__all__ = ["CannotListen", "Overloaded", "Server", "ServerOptions", "remaining_ms", "status_of"]

_logger = logging.getLogger(__name__)

# The published type stubs of gRPC know only handlers of threaded servers.
Handler = Any  # a grpc.RpcMethodHandler whose behaviours are coroutines
_health_aio = cast(Any, health).aio
_reflection_aio = cast(Any, reflection).aio

_REQUEST_ID_HEADER = "x-request-id"
_MAX_REQUEST_ID_BYTES = 128
_WATCHERS_GRACE_S = 0.05  # for health watchers to hear NOT_SERVING before their stream ends

# Answered however busy the process is: probes and operators must get through.
_ALWAYS_ADMITTED = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "shortlist.v1.Admin",
)

# Calls that are alike, one page each: how long they take tells how busy the process is.
_ADAPTIVE = {"shortlist.v1.Orchestrator": ("Recommend", "Rank", "Similar")}

# While these are answered, the process puts off what can wait.
_GO_FIRST = (*_ADAPTIVE, "shortlist.v1.Retrieval", "shortlist.v1.Ranking")

# A context tells the number of its status, or the status.
_STATUS_NAMES = {known: code.name for code in grpc.StatusCode for known in (code, code.value[0])}

# Tells clients that retry (gRFC A6) not to: what is missing would be missing again, and who asks
# for a coverage wants to hear of it.
_NOT_AGAIN = (("grpc-retry-pushback-ms", "-1"),)

# gRPC clients take 8 kB of trailers, where a status and its details travel (base64).
_MAX_MESSAGE_BYTES = 512
_MAX_VIOLATIONS = 8
_MAX_FIELD_BYTES = 128
_MAX_DESCRIPTION_BYTES = 256


class CannotListen(ShortlistError):
    """The address is in use, not allowed, or not of this machine."""


class Overloaded(TierUnavailable):
    """More requests are running than this process takes; another replica may be free."""

    status_name = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where to listen, and the limits."""

    host: str = "127.0.0.1"
    port: int = 0  # 0 = any free one
    max_message_bytes: int = 16 * 1024 * 1024
    max_concurrency: int = 256  # requests running at once, of a service; the next one is refused
    # Of pages: so many are let in however slow they are, and up to `max_concurrency` while they are
    # not slow. 0 = always `max_concurrency`.
    min_concurrency: int = 0
    drain_s: float = 5.0  # running requests get this long after SIGTERM


class _ReflectionPool:
    """The default descriptor pool, which also finds the file of a method.

    The reflection protocol lets a client ask for `package.Service.Method`, and ghz does; protobuf's
    Python pools know no methods, so the service's name is looked up instead.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(descriptor_pool.Default(), name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - protobuf's name
        """Raises `KeyError` for an unknown symbol."""
        pool = descriptor_pool.Default()
        try:
            return pool.FindFileContainingSymbol(symbol)
        except KeyError:
            owner, _, name = symbol.rpartition(".")
            service = pool.FindServiceByName(owner)
            if name not in service.methods_by_name:
                raise
            return service.file


class Server:
    """A gRPC server with health, reflection, limits, error translation and graceful drain.

    It takes the place of a `grpc.aio.Server` in the generated `add_*Servicer_to_server`.
    """

    def __init__(self, options: ServerOptions, watch: CallWatch | None = None) -> None:
        """`watch` hears of every call."""
        self._options = options
        self._guard = _Guard(options, watch or Unwatched())
        self._services: dict[str, dict[str, Handler]] = {}
        self._health = _health_aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Generated code calls this too; `add_registered_method_handlers` carries the same."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Called by generated code, before `start`."""
        self._services[service] = self._guard.wrap_service(service, handlers)

    async def start(self) -> int:
        """Listen, and report SERVING; returns the port. Raises `CannotListen`."""
        self._add_reflection()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self)
        self._server = grpc.aio.server(options=self._channel_options())
        for service, handlers in self._services.items():
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, handlers),)
            )
        port = self._listen(self._server)
        await self._server.start()
        for service in self._services:
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def serve_until_stopped(self) -> None:
        """Return after SIGTERM or SIGINT, when running requests are answered."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        try:
            await stopped.wait()
            await self.stop()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def stop(self) -> None:
        """Report NOT_SERVING, take no new calls, and let running ones end within `drain_s`."""
        if self._server is None:
            return
        await self._health.enter_graceful_shutdown()
        draining = asyncio.ensure_future(self._server.stop(self._options.drain_s))
        await asyncio.sleep(_WATCHERS_GRACE_S)
        self._guard.end_streams()
        await draining

    def _add_reflection(self) -> None:
        names = [*self._services, reflection.SERVICE_NAME, health.SERVICE_NAME]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            _reflection_aio.ReflectionServicer(service_names=names, pool=_ReflectionPool()), self
        )

    def _channel_options(self) -> list[tuple[str, int]]:
        return [
            # Otherwise a second process could take half of the connections to this port.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", self._options.max_message_bytes),
            ("grpc.max_send_message_length", self._options.max_message_bytes),
        ]

    def _listen(self, server: grpc.aio.Server) -> int:
        host = self._options.host
        address = f"{f'[{host}]' if ':' in host else host}:{self._options.port}"
        try:
            return server.add_insecure_port(address)
        except RuntimeError:
            raise CannotListen(
                f"cannot listen on {address}: in use by another process, or not permitted"
            ) from None


def remaining_ms(context: grpc.aio.ServicerContext) -> float | None:
    """What is left of the call's deadline; None if the caller set none."""
    seconds = context.time_remaining()
    return None if seconds is None else seconds * 1000


def status_of(error: Exception, method: str, request_id: str) -> status_pb2.Status:
    """The whole table from exceptions to gRPC statuses.

    `ShortlistError` brings its own status and text. Any other text stays in the log: it was not
    written for users and may hold their data.
    """
    if isinstance(error, ShortlistError):
        status = _status(error.status_name, str(error))
    elif isinstance(error, NotImplementedError):  # from the generated base class of a servicer
        status = _status("UNIMPLEMENTED", f"{method} is not served by this version")
    else:
        status = _status("INTERNAL", f"internal error, request {request_id}")
    if isinstance(error, InvalidRequest):
        status.details.add().Pack(_bad_request(error))
    status.details.add().Pack(error_details_pb2.RequestInfo(request_id=request_id))
    return status


def _status(name: str, message: str) -> status_pb2.Status:
    return status_pb2.Status(
        code=grpc.StatusCode[name].value[0], message=_shorten(message, _MAX_MESSAGE_BYTES)
    )


def _bad_request(error: InvalidRequest) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation
    return error_details_pb2.BadRequest(
        field_violations=[
            violation(
                field=_shorten(field, _MAX_FIELD_BYTES),
                description=_shorten(description, _MAX_DESCRIPTION_BYTES),
            )
            for field, description in error.violations[:_MAX_VIOLATIONS]
        ]
    )


def _shorten(text: str, most: int) -> str:
    return text.encode(errors="replace")[:most].decode(errors="ignore")


@dataclass(frozen=True, slots=True)
class _Method:
    """One method of one service."""

    service: str
    name: str

    def __str__(self) -> str:
        return f"{self.service}/{self.name}"


class _Guard:
    """Stands around every handler: admission, parsing, request id, errors.

    Handlers behind it see and return messages; gRPC sees bytes. So a message that cannot be parsed
    and an answer that cannot be serialised are translated like every other error.
    """

    def __init__(self, options: ServerOptions, watch: CallWatch) -> None:
        self._max_concurrency = options.max_concurrency
        self._min_concurrency = options.min_concurrency
        self._watch = watch
        self._running: Counter[str] = Counter()  # by service
        self._adaptive: dict[str, AdaptiveLimit] = {}  # by service
        self._streams: set[asyncio.Task[Any]] = set()
        self._draining = False

    def wrap_service(self, service: str, handlers: Mapping[str, Handler]) -> dict[str, Handler]:
        if service not in _ALWAYS_ADMITTED:
            self._watch.serves(service, lambda: self._running[service], self._max_concurrency)
        if service in _ADAPTIVE and self._min_concurrency:
            adaptive = AdaptiveLimit(least=self._min_concurrency, most=self._max_concurrency)
            self._adaptive[service] = adaptive
            self._watch.adapts(service, lambda: adaptive.limit)
        return {
            method: self._wrap(_Method(service, method), handler)
            for method, handler in handlers.items()
        }

    def _wrap(self, method: _Method, handler: Handler) -> Handler:
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, handler))
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                self._unary_stream(method, handler), response_serializer=handler.response_serializer
            )
        return grpc.stream_stream_rpc_method_handler(
            self._stream_stream(method, handler), response_serializer=handler.response_serializer
        )

    def end_streams(self) -> None:
        """Streams may live for days (health watchers): end them instead of waiting."""
        self._draining = True
        for task in self._streams:
            task.cancel()

    def _unary(self, method: _Method, handler: Handler) -> Callable[..., Any]:
        async def call(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            with self._watched(method, context, timed=True):
                _begin(context)
                try:
                    # Counted here, when the message has arrived: half-sent calls take no place.
                    with self._admitted(method), self._going_first(method):
                        request = _parse(handler, data)
                        _adopt_id(request)
                        return handler.response_serializer(
                            await handler.unary_unary(request, context)
                        )
                except Exception as error:
                    return await _abort(context, error, str(method))

        return call

    def _unary_stream(self, method: _Method, handler: Handler) -> Callable[..., Any]:
        async def call(data: bytes, context: grpc.aio.ServicerContext) -> None:
            async with self._stream(method, context):
                await _send(handler.unary_stream(_parse(handler, data), context), context)

        return call

    def _stream_stream(self, method: _Method, handler: Handler) -> Callable[..., Any]:
        async def call(data: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async with self._stream(method, context):
                await _send(handler.stream_stream(_parsed(handler, data), context), context)

        return call

    @contextmanager
    def _watched(
        self, method: _Method, context: grpc.aio.ServicerContext, *, timed: bool
    ) -> Iterator[None]:
        """Tell how the call ends. Whatever fails leaves by `_abort`, which sets the status."""
        started = time.perf_counter()
        status = "UNKNOWN"
        try:
            yield
            status = "OK"
        except asyncio.CancelledError:
            status = "CANCELLED"
            raise
        except grpc.aio.AbortError:
            status = _STATUS_NAMES.get(context.code(), "UNKNOWN")
            raise
        finally:
            seconds = time.perf_counter() - started if timed else None
            self._watch.answered(method.service, method.name, status, seconds)

    @contextmanager
    def _admitted(self, method: _Method) -> Iterator[None]:
        """Every service has places of its own: a flood of events takes none from pages."""
        service = method.service
        adaptive = self._adaptive_of(method)
        running = self._running[service]
        places = adaptive.limit if adaptive else self._max_concurrency
        if running >= places and service not in _ALWAYS_ADMITTED:
            self._watch.refused(service)
            raise Overloaded(f"{running} requests are running, this process takes no more")
        self._running[service] += 1
        try:
            if adaptive is None:
                yield
            else:
                with self._timed(method, adaptive):
                    yield
        finally:
            self._running[service] -= 1

    @staticmethod
    def _going_first(method: _Method) -> AbstractContextManager[None]:
        return REQUESTS_FIRST.claimed() if method.service in _GO_FIRST else nullcontext()

    def _adaptive_of(self, method: _Method) -> AdaptiveLimit | None:
        adaptive = self._adaptive.get(method.service)
        return adaptive if adaptive and method.name in _ADAPTIVE[method.service] else None

    @contextmanager
    def _timed(self, method: _Method, adaptive: AdaptiveLimit) -> Iterator[None]:
        """Tell the limit how long a call took. One that failed was cut short, and says nothing;
        one that ran out of time, or was given up, says that it took too long."""
        started = time.perf_counter()
        telling = False
        try:
            yield
            telling = True
        except (asyncio.CancelledError, BudgetExceeded):
            telling = True
            raise
        finally:
            if telling:
                seconds = time.perf_counter() - started
                adaptive.finished(method.name, seconds, self._running[method.service])

    @asynccontextmanager
    async def _stream(
        self, method: _Method, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[None]:
        _begin(context)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        with self._watched(method, context, timed=False):
            try:
                yield
            except asyncio.CancelledError:
                if not self._draining:
                    raise
                shutting_down = TierUnavailable("this process is shutting down")
                await _abort(context, shutting_down, str(method))
            except Exception as error:
                await _abort(context, error, str(method))
            finally:
                self._streams.discard(task)


def _begin(context: grpc.aio.ServicerContext) -> None:
    """Give the call an id: the caller's, or a new one. Each call runs in its own context."""
    sent = dict(context.invocation_metadata() or ()).get(_REQUEST_ID_HEADER, "")
    telemetry.request_id.set(sent if _is_request_id(sent) else uuid.uuid4().hex)


def _adopt_id(request: Any) -> None:
    """The id in a request wins over the one in the metadata."""
    sent = getattr(request, "request_id", "")
    if _is_request_id(sent):
        telemetry.request_id.set(sent)


def _is_request_id(text: str) -> bool:
    return 0 < len(text.encode()) <= _MAX_REQUEST_ID_BYTES


def _parse(handler: Handler, data: bytes) -> Any:
    try:
        return handler.request_deserializer(data)
    except Exception:
        raise InvalidField("request", "is not a message of this call's type") from None


async def _parsed(handler: Handler, data: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for one in data:
        yield _parse(handler, one)


async def _send(answers: Any, context: grpc.aio.ServicerContext) -> None:
    """A streaming handler either yields its answers, or writes them to the context itself."""
    if isinstance(answers, AsyncGenerator):
        async with aclosing(answers):  # a client that leaves ends the handler, too
            async for answer in answers:
                await context.write(answer)
    else:
        await answers


async def _abort(context: grpc.aio.ServicerContext, error: Exception, method: str) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):  # a servicer of gRPC's own chose its status
        raise error
    request_id = telemetry.request_id.get()
    if isinstance(error, ShortlistError | NotImplementedError):
        _logger.debug("%s: %s", method, error)
    else:
        _logger.error("%s failed", method, exc_info=error)
    status = rpc_status.to_status(status_of(error, method, request_id))
    trailers = tuple(status.trailing_metadata)
    if isinstance(error, CoverageTooLow):
        trailers += _NOT_AGAIN
    await context.abort(status.code, status.details, trailers)
    raise AssertionError("abort always raises")
