"""`python -m benchmarks.serving.peers.servers ROLE`: a peer's process.

Threaded gRPC servers, repeated fields, TensorFlow in the ranker: what the tutorials lead to when
each stage becomes a service. They are spared what our own do besides: histories are not read, what
was seen is not left out, features of the user are not computed, there is no diversity, no version
and no token.
"""

from __future__ import annotations

import itertools
import json
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2_grpc

from benchmarks.serving.peers import messages
from benchmarks.serving.peers.messages import METHODS, Candidates, Page, Query, ScoreQuery, Scores
from benchmarks.serving.peers.stages import PAGE, Searcher, open_scorer

_THREADS = 16
_NO_PROXY = [("grpc.enable_http_proxy", 0)]
Handler = Callable[[Any, Any], Any]


@click.command()
@click.argument("role", type=click.Choice(["retrieval", "ranking", "orchestrator"]))
@click.option("--workdir", type=click.Path(path_type=Path), required=True)
@click.option("--form", required=True)
@click.option("--engine", type=click.Choice(["savedmodel", "keras"]), default="savedmodel")
@click.option("--retrieval", default="")
@click.option("--ranker", "rankers", multiple=True)
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=int, default=0)
def main(
    role: str,
    workdir: Path,
    form: str,
    engine: str,
    retrieval: str,
    rankers: tuple[str, ...],
    host: str,
    port: int,
) -> None:
    """Serve one stage."""
    if role == "retrieval":
        method, handler, query = METHODS["retrieve"], _retrieve(workdir), Query
    elif role == "ranking":
        method, handler, query = METHODS["score"], _score(workdir, form, engine), ScoreQuery
    else:
        method, handler, query = (
            METHODS["recommend"],
            _recommend(workdir, retrieval, rankers),
            Query,
        )
    _serve(method, handler, query, f"{host}:{port}")


def _retrieve(workdir: Path) -> Handler:
    search = Searcher(workdir)

    def handler(request: Any, _: Any) -> Any:
        rows, scores = search(request.user)
        return Candidates(rows=rows.tolist(), scores=scores.tolist())

    return handler


def _score(workdir: Path, form: str, engine: str) -> Handler:
    score = open_scorer(workdir, form, engine)

    def handler(request: Any, _: Any) -> Any:
        rows = np.fromiter(request.rows, np.int64, len(request.rows))
        return Scores(scores=score(rows).tolist())

    return handler


def _recommend(workdir: Path, retrieval: str, rankers: tuple[str, ...]) -> Handler:
    ids = np.load(workdir / "peers" / "ids.npy", mmap_mode="r")
    retrieve = _stub(retrieval, "retrieve", Candidates)
    # Whose turn it is; each ranker has one thread to compute with.
    turns = itertools.cycle([_stub(one, "score", Scores) for one in rankers])

    def handler(request: Any, _: Any) -> Any:
        found = retrieve(Query(user=request.user))
        scores = next(turns)(ScoreQuery(user=request.user, rows=found.rows)).scores
        best = sorted(zip(scores, found.rows, strict=True), reverse=True)[:PAGE]
        return Page(ids=[str(ids[row]) for _, row in best], scores=[score for score, _ in best])

    return handler


def _stub(target: str, method: str, answer: Any) -> Callable[[Any], Any]:
    call = grpc.insecure_channel(target, options=_NO_PROXY).unary_unary(
        METHODS[method],
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return lambda request: call(request, timeout=10)


def _serve(method: str, handler: Handler, query: Any, address: str) -> None:
    _, service, name = method.split("/")
    server = grpc.server(ThreadPoolExecutor(_THREADS))
    behaviour = grpc.unary_unary_rpc_method_handler(
        handler,
        request_deserializer=query.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {name: behaviour}),)
    )
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port(address)
    server.start()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    click.echo(json.dumps({"event": "serving", "port": port}))
    stopped.wait()
    server.stop(1).wait()


__all__ = ["main", "messages"]

if __name__ == "__main__":
    main()
