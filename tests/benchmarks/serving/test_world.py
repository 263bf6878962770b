"""A world of a few thousand items: the same files as of a million, written in seconds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving.bound import bound_of, search_cost
from benchmarks.serving.rankers import FORMS, flops, load_weights
from benchmarks.serving.recall import RecallProbe
from benchmarks.serving.sgemm import best_sgemm_gflops, sgemm_gflops
from benchmarks.serving.systems import Running, running
from benchmarks.serving.world import Probes, WorldShape, prepare
from shortlist.artifacts import ArtifactStore
from shortlist.client import AsyncClient
from shortlist.page import Page, PageRequest
from tests.benchmarks.serving.conftest import SHAPE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_an_equal_shape_is_not_made_again_and_another_one_is_refused(world: Path) -> None:
    told: list[str] = []
    prepare(world, SHAPE, told.append)
    assert told == []
    with pytest.raises(FileExistsError, match="something else"):
        prepare(world, WorldShape(items=5000), told.append)


def test_a_world_has_the_versions_that_are_asked_for_whatever_is_encoded_at_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.serving.rankers._ENCODED_AT_ONCE", 1500)
    prepare(tmp_path / "small", replace(SHAPE, shards=(2,), forms=("fast",)), lambda _: None)
    store = ArtifactStore(tmp_path / "small" / "artifacts")
    assert store.versions("retrieval") == ["shards-2"]
    assert store.versions("ranking") == ["fast"]
    whole = ArtifactStore(world / "artifacts").open("ranking", "fast").path / "items"
    parts = store.open("ranking", "fast").path / "items"
    for name in ("tokens", "token_weights", "numeric", "token_shares"):
        np.testing.assert_array_equal(
            np.load(parts / f"{name}.npy"), np.load(whole / f"{name}.npy")
        )


@pytest.mark.parametrize("form", FORMS)
def test_a_ranker_has_the_width_and_the_layers_of_its_form(world: Path, form: str) -> None:
    artifact = ArtifactStore(world / "artifacts").open("ranking", form)
    weights = load_weights(artifact.path)
    assert 300 <= weights.width <= 340
    assert len(artifact.manifest.meta["features"]) >= 16  # type: ignore[arg-type]
    assert weights.structure == FORMS[form].structure
    assert [len(bias) for _, bias in weights.hidden] == [256, 128]
    assert [cross.kernels[0].shape[1] for cross in weights.crosses] == [FORMS[form].rank] * 3
    products = 3 * 2 * weights.width * FORMS[form].rank + weights.width * 256 + 256 * 128
    assert flops(weights, 10) == 20 * (products + weights.output_kernel.size)


def test_the_bound_is_made_of_the_search_and_the_products(world: Path) -> None:
    bound = bound_of(world, "fast", SHAPE.candidates)
    model_s = bound.model_mflop / bound.gflops / 1000
    assert bound.rps == pytest.approx(bound.cores / (bound.search_cpu_ms / 1000 + model_s))
    assert bound.recall == 1.0  # so few items are searched exactly
    assert sgemm_gflops() > 0
    assert best_sgemm_gflops() > 0
    assert search_cost(world)[0] > 0


@pytest.mark.parametrize("kind", ["embedded", "distributed"])
async def test_pages_are_complete_and_the_shards_find_what_an_exact_search_finds(
    world: Path, kind: str
) -> None:
    async with running(world, kind, "fast", rankers=1) as system:
        page = await _page(system)
        assert len(page.items) == 20
        assert page.degradations == ()
        assert page.coverage.share == 1.0
        assert page.versions.ranking == "fast"
        assert page.versions.retrieval == ("shards-1" if kind == "embedded" else "shards-2")
        assert not page.cold_start
        assert all(one.memory_mb["rss"] >= one.memory_mb["pss"] > 0 for one in system.processes)
        if system.shards:
            probe = RecallProbe(world, system.shards)
            async with probe.running():
                while len(probe.found) < 3:
                    await asyncio.sleep(0.05)
            await probe.close()
            assert probe.recall == 1.0


def test_probes_know_what_their_users_have_seen(world: Path) -> None:
    probes = Probes.load(world / "probes.npz")
    assert probes.exact.shape == (len(probes.users), SHAPE.candidates)
    for seen, exact in zip(probes.seen, probes.exact, strict=True):
        assert not np.isin(seen, exact).any()


async def _page(system: Running) -> Page:
    async with AsyncClient(system.target, timeout_s=60) as client:
        return await client.recommend(PageRequest(user_id="user-000001"))
