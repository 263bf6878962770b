from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranking_svc.ranker import LocalRanker, RankerGeneration, ScoresNotFinite
from shortlist.artifacts import ArtifactStore
from shortlist.errors import (
    ArtifactCorrupt,
    ArtifactNotFound,
    ArtifactRefused,
    BudgetExceeded,
    VersionNotServed,
)
from tests.contracts.ranker import RankerContract, a_query
from tests.ranking_svc.factory import KEYS, publish_ranker
from tests.ranking_svc.tables import NOW_MS
from tests.trained import Trained


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(tmp_path)
    publish_ranker(store, version="v1")
    return store


@pytest.fixture
async def local(store: ArtifactStore) -> AsyncIterator[LocalRanker]:
    ranker = LocalRanker.open(store)
    yield ranker
    await ranker.close()


class TestLocalRanker(RankerContract):
    @pytest.fixture
    def ranker(self, local: LocalRanker) -> Any:
        return local


class TestLocalRankerInNumpy(RankerContract):
    @pytest.fixture
    def ranker(self, store: ArtifactStore) -> Any:
        return LocalRanker.open(store, engine="numpy")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "numpy", "savedmodel"])
class TestTrainedRanker(RankerContract):
    @pytest.fixture
    def ranker(self, trained: Trained, engine: str) -> Any:
        return LocalRanker.open(ArtifactStore(trained.artifacts), engine=engine)

    @pytest.fixture
    def known_keys(self, ranker: LocalRanker) -> Any:
        return ranker.versions.active.builder.table.keys[5:60]


# --- what it says of itself ---


async def test_its_status_names_engine_items_and_watermark(local: LocalRanker) -> None:
    status = await local.status()
    assert (status.model_version, status.engine, status.items) == ("v1", "onnx", len(KEYS))
    assert status.watermark_ms == NOW_MS
    assert local.versions.status().capabilities == ("onnx",)


# --- versions ---


async def test_versions_are_prepared_activated_and_retired(
    local: LocalRanker, store: ArtifactStore
) -> None:
    publish_ranker(store, version="v2", seed=1)
    await local.versions.prepare("v2")
    before = await local.score(a_query(KEYS))
    ahead = await local.score(a_query(KEYS, model_version="v2"))
    assert (before.model_version, ahead.model_version) == ("v1", "v2")
    assert not np.allclose(before.scores, ahead.scores)
    await local.versions.activate("v2")
    np.testing.assert_array_equal((await local.score(a_query(KEYS))).scores, ahead.scores)
    await local.versions.retire("v1")
    with pytest.raises(VersionNotServed, match="v1"):
        await local.score(a_query(KEYS, model_version="v1"))


async def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving(
    local: LocalRanker, store: ArtifactStore
) -> None:
    def put_nan(folder: Path) -> None:
        path = folder / "weights" / "hidden_0_kernel.npy"
        np.save(path, np.full_like(np.load(path), np.nan))

    publish_ranker(store, version="v2", damage=put_nan)
    with pytest.raises(ArtifactRefused, match="NaN or Inf"):
        await local.versions.prepare("v2")
    with pytest.raises(ArtifactNotFound, match="v3"):
        await local.versions.prepare("v3")
    assert (await local.score(a_query(KEYS))).model_version == "v1"
    assert [one.version for one in local.versions.status().versions] == ["v1"]


# --- what is refused ---


def test_without_a_published_version_there_is_no_ranker(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound):
        LocalRanker.open(ArtifactStore(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "spec.json",
        "item_features.json",
        "user_features.json",
        "items/vectors.npy",
        "weights/mean.npy",
        "weights/output_kernel.npy",
        "weights/crosses_1_bias.npy",
        "model.onnx",
    ],
)
@pytest.mark.parametrize("garbage", [b"garbage", None])
def test_an_artifact_that_was_published_without_a_whole_file_is_refused(
    tmp_path: Path, name: str, garbage: bytes | None
) -> None:
    def spoil(folder: Path) -> None:
        if garbage is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(garbage)

    def publish_and_open() -> None:
        store = ArtifactStore(tmp_path)
        publish_ranker(store, damage=spoil)  # refuses some by itself
        LocalRanker.open(store)

    with pytest.raises((ArtifactCorrupt, ArtifactRefused)):
        publish_and_open()


@pytest.mark.parametrize("watermark", [None, "now", 1.5])
def test_a_manifest_without_a_watermark_is_refused(tmp_path: Path, watermark: Any) -> None:
    store = ArtifactStore(tmp_path)
    publish_ranker(store, watermark_ms=watermark)
    with pytest.raises(ArtifactRefused, match="watermark_ms"):
        LocalRanker.open(store)


async def test_scores_that_are_not_finite_are_an_error(local: LocalRanker) -> None:
    class Broken:
        name = "broken"

        def score(self, rows: Any) -> Any:
            scores = np.zeros(len(rows.items), np.float32)
            scores[1:3] = [np.nan, np.inf]
            return scores

    broken = replace(local.versions.active, version="broken", engine=Broken())
    with pytest.raises(ScoresNotFinite, match="broken gave 2 scores"):
        broken.score(a_query(KEYS))


def test_a_version_whose_scores_are_not_finite_is_not_loaded(tmp_path: Path) -> None:
    """It overflows on the rows that every version is warmed up with."""

    def too_large(folder: Path) -> None:
        for path in (folder / "weights").glob("*_kernel.npy"):
            np.save(path, np.full_like(np.load(path), 3e38))

    store = ArtifactStore(tmp_path)
    artifact = publish_ranker(store, damage=too_large)
    with np.errstate(all="ignore"), pytest.raises(ScoresNotFinite):
        RankerGeneration.open(artifact, "numpy")


async def test_a_question_whose_deadline_passed_in_the_queue_is_not_scored(
    local: LocalRanker,
) -> None:
    with pytest.raises(BudgetExceeded, match="passed before scoring began"):
        await local.score(a_query(KEYS, deadline_ms=0.0))


async def test_no_candidates_have_no_scores(local: LocalRanker) -> None:
    answer = await local.score(a_query(KEYS[:0]))
    assert answer.scores.shape == (0,)
