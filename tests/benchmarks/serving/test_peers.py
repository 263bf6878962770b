"""Peers answer pages of the same world with the same weights."""

from __future__ import annotations

import asyncio
import base64
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from benchmarks.serving.peers import messages
from benchmarks.serving.peers.preparing import item_slots, prepare_peers
from benchmarks.serving.peers.stages import Searcher, open_scorer
from benchmarks.serving.rankers import load_weights
from benchmarks.serving.systems import PEERS, running_peers
from benchmarks.serving.wire import of_peers
from shortlist.artifacts import ArtifactStore

USER = "user-000003"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def prepared(world: Path) -> Path:
    prepare_peers(world, print)  # raises where TensorFlow's scores are not ours
    return world


@pytest.mark.parametrize("engine", PEERS)
async def test_a_peer_answers_the_best_of_what_the_search_finds(
    prepared: Path, engine: str
) -> None:
    api = of_peers([USER])
    async with (
        running_peers(prepared, engine, "fast", rankers=1) as system,
        grpc.aio.insecure_channel(system.target) as channel,
    ):
        data = await channel.unary_unary(api.method)(base64.b64decode(api.plain[0]), timeout=60)
        processes = [psutil.Process(one.pid) for one in system.processes]
        assert system.orchestrator.cpu_s > 0
    assert api.parse(data).complete
    page = messages.Page.FromString(data)
    ids, scores = await asyncio.to_thread(_expected_page, prepared)
    assert list(page.ids) == ids
    np.testing.assert_allclose(page.scores, scores, atol=1e-4)
    assert not any(one.is_running() for one in processes)


def _expected_page(workdir: Path) -> tuple[list[str], list[float]]:
    """In a process of its own, as TensorFlow wants its threads set before it does anything."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_best, workdir).result()


def _best(workdir: Path) -> tuple[list[str], list[float]]:
    rows, _ = Searcher(workdir)(USER)
    scores = open_scorer(workdir, "fast", "savedmodel")(rows)
    best = np.argsort(-scores)[:20]
    ids = np.load(workdir / "peers" / "ids.npy")
    return ids[rows[best]].tolist(), scores[best].tolist()


def test_a_model_that_computes_something_else_is_refused(prepared: Path, tmp_path: Path) -> None:
    from benchmarks.serving.peers.model import Inputs, ModelDiffers, check_parity, saved_model

    artifact = ArtifactStore(prepared / "artifacts").open("ranking", "fast").path
    weights, slots = load_weights(artifact), item_slots(artifact)
    inputs = Inputs.open(prepared / "peers", artifact).of(np.arange(50))
    scores = saved_model(prepared / "peers" / "fast")(inputs)
    check_parity(scores, weights, slots, inputs)
    with pytest.raises(ModelDiffers, match="differ"):
        check_parity(scores + 0.01, weights, slots, inputs)
