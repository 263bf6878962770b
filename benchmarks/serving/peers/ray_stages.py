"""The peers' stages as deployments of Ray Serve; between them travel bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
from ray import serve

from benchmarks.serving.peers.messages import METHODS, Page, Query
from benchmarks.serving.peers.stages import PAGE, Searcher, open_scorer

__all__ = ["INGRESS", "Ranking", "Recommender", "Retrieval", "add_recommender", "application"]

INGRESS = "Recommender"  # the deployment that clients ask
# Enough that a replica never waits for its next request, and few enough that what waits is given
# to the replica that is free first.
_RANKER_ONGOING = 4
_OTHERS_ONGOING = 1000
_PLAIN = {"request_serialization": "pickle", "response_serialization": "pickle"}


class Retrieval:
    """Rows of the best items, int32, and their scores are left at home."""

    def __init__(self, workdir: str) -> None:
        self._search = Searcher(Path(workdir))

    async def retrieve(self, user: str) -> bytes:
        rows, _ = self._search(user)
        return rows.astype(np.int32).tobytes()


class Ranking:
    """float32 scores of int32 rows."""

    def __init__(self, workdir: str, form: str) -> None:
        self._score = open_scorer(Path(workdir), form, "savedmodel")

    async def score(self, rows: bytes) -> bytes:
        return self._score(np.frombuffer(rows, np.int32)).astype(np.float32).tobytes()


class Recommender:
    """Asks the two, and describes the best."""

    def __init__(self, workdir: str, retrieval: Any, ranking: Any) -> None:
        self._ids = np.load(Path(workdir) / "peers" / "ids.npy", mmap_mode="r")
        self._retrieve = retrieval.options(method_name="retrieve", **_PLAIN)
        self._score = ranking.options(method_name="score", **_PLAIN)

    async def Recommend(self, request: bytes) -> Any:  # noqa: N802 - Serve calls it as gRPC does
        found = await self._retrieve.remote(Query.FromString(request).user)
        scores = np.frombuffer(await self._score.remote(found), np.float32)
        best = np.argpartition(-scores, PAGE - 1)[:PAGE]
        best = best[np.argsort(-scores[best], kind="stable")]
        rows = np.frombuffer(found, np.int32)[best]
        return Page(ids=self._ids[rows].tolist(), scores=scores[best].tolist())


def application(workdir: Path, form: str, rankers: int) -> Any:
    """All three, each with a fixed number of replicas."""
    folder = str(workdir)
    retrieval = _deployment(Retrieval, 1, _OTHERS_ONGOING).bind(folder)
    ranking = _deployment(Ranking, rankers, _RANKER_ONGOING).bind(folder, form)
    return _deployment(Recommender, 1, _OTHERS_ONGOING).bind(folder, retrieval, ranking)


def add_recommender(servicer: Any, server: Any) -> None:
    """Tells Serve's gRPC proxy the method; what it gets stays bytes until the deployment."""
    _, service, name = METHODS["recommend"].split("/")
    handler = grpc.unary_unary_rpc_method_handler(getattr(servicer, name, None))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {name: handler}),)
    )


def _deployment(stage: type, replicas: int, ongoing: int) -> Any:
    return serve.deployment(
        name=stage.__name__,
        num_replicas=replicas,
        max_ongoing_requests=ongoing,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=1.0,
        logging_config={"enable_access_log": False, "log_level": "ERROR"},
    )(stage)
