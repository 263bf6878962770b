from __future__ import annotations

import shutil
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranking_svc.models import Outputs, model_folder
from ranking_svc.models.ensemble import MIXTURE_FILE, Mixture
from ranking_svc.ranker import LocalRanker, RankerGeneration, ScoresNotFinite
from shortlist.artifacts import ArtifactStore
from shortlist.config import RankingConfig
from shortlist.errors import (
    ArtifactCorrupt,
    ArtifactNotFound,
    ArtifactRefused,
    BudgetExceeded,
    InvalidField,
    VersionNotServed,
)
from shortlist.tiers import ScoreQuery, Scores
from tests.contracts.ranker import RankerContract, a_query
from tests.ranking_svc.factory import KEYS, publish_ranker
from tests.ranking_svc.tables import NOW_MS, user_with
from tests.trained import Trained


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """Read only: version v1 alone."""
    store = ArtifactStore(tmp_path_factory.mktemp("store"))
    publish_ranker(store, version="v1")
    return store


@pytest.fixture
def own_store(store: ArtifactStore, tmp_path: Path) -> ArtifactStore:
    """A copy for a test that publishes."""
    shutil.copytree(store.open("ranking").path.parent, tmp_path / "ranking")
    return ArtifactStore(tmp_path)


@pytest.fixture
async def local(store: ArtifactStore) -> AsyncIterator[LocalRanker]:
    ranker = LocalRanker.open(store)
    yield ranker
    await ranker.close()


def open_with(store: ArtifactStore, **ranking: Any) -> LocalRanker:
    return LocalRanker.open(store, config=RankingConfig(**ranking))


class TestLocalRanker(RankerContract):
    @pytest.fixture
    def ranker(self, local: LocalRanker) -> Any:
        return local


class TestLocalRankerInNumpy(RankerContract):
    @pytest.fixture
    def ranker(self, store: ArtifactStore) -> Any:
        return open_with(store, engine="numpy")


@pytest.mark.parametrize("model", ["dcn", "gbdt", "linear"])
class TestLocalRankerWithAnotherDefault(RankerContract):
    @pytest.fixture
    def ranker(self, store: ArtifactStore, model: str) -> Any:
        return open_with(store, default=model)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "numpy", "savedmodel"])
class TestTrainedRanker(RankerContract):
    @pytest.fixture
    def ranker(self, trained: Trained, engine: str) -> Any:
        return open_with(ArtifactStore(trained.artifacts), engine=engine)

    @pytest.fixture
    def known_keys(self, ranker: LocalRanker) -> Any:
        return ranker.versions.active.builder.table.keys[5:60]


# --- what it says of itself ---


async def test_its_status_names_engine_items_and_watermark(local: LocalRanker) -> None:
    status = await local.status()
    assert (status.model_version, status.engine, status.items) == ("v1", "onnx", len(KEYS))
    assert status.watermark_ms == NOW_MS
    assert status.models == ("dcn", "gbdt", "linear", "ensemble", "none")
    assert local.versions.status().capabilities == ("onnx",)
    assert local.versions.status().models == status.models


# --- models ---


async def test_each_model_has_an_opinion_of_its_own(local: LocalRanker) -> None:
    scores = [
        (await local.score(a_query(KEYS, model=model))).scores
        for model in ("dcn", "gbdt", "linear", "ensemble")
    ]
    for place, mine in enumerate(scores):
        assert not any(np.allclose(mine, other) for other in scores[:place])


async def test_the_ensemble_takes_who_has_no_history_for_a_stranger(tmp_path: Path) -> None:
    def listen(folder: Path) -> None:
        odds = {"click": 0.0, "purchase": 0.0}
        theirs = Mixture(weights={"gbdt": 1.0}, biases=odds)
        mixture = Mixture(weights={"dcn": 1.0}, biases=odds, strangers=theirs)
        mixture.save(model_folder(folder, "ensemble") / MIXTURE_FILE)

    store = ArtifactStore(tmp_path)
    publish_ranker(store, damage=listen)
    ranker = LocalRanker.open(store)
    stranger = a_query(KEYS)
    known = replace(stranger, user=user_with((1, 1.0)))
    for query, model in ((stranger, "gbdt"), (known, "dcn")):
        together, alone = [
            (await ranker.score(replace(query, model=name))).scores for name in ("ensemble", model)
        ]
        np.testing.assert_allclose(together, alone, rtol=1e-5)


async def test_the_ranker_none_keeps_the_order_of_the_candidates(local: LocalRanker) -> None:
    for keys in (KEYS, KEYS[::-1]):
        scores = (await local.score(a_query(keys, model="none"))).scores
        np.testing.assert_array_equal(scores, -np.arange(len(keys)))


async def test_the_configuration_chooses_the_default_model(store: ArtifactStore) -> None:
    answer = await open_with(store, default="gbdt").score(a_query(KEYS))
    assert answer.model == "gbdt"
    assert (await open_with(store).score(a_query(KEYS))).model == "ensemble"


async def test_without_an_ensemble_the_only_model_is_the_default(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    publish_ranker(store, models=["gbdt"], default_model="gbdt")
    ranker = LocalRanker.open(store)
    assert (await ranker.status()).models == ("gbdt", "none")
    assert (await ranker.score(a_query(KEYS))).model == "gbdt"


def test_a_default_that_the_version_does_not_have_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(InvalidField, match=r"ranking.default: no ranker 'forest'; .*gbdt"):
        open_with(store, default="forest")


# --- worth ---


def purchase_preferred(ranker: LocalRanker, model: str) -> float:
    """How strongly the order follows the odds of a purchase instead of a click."""
    generation = ranker.versions.active
    query = a_query(KEYS, model=model)
    rows = generation.builder.build(query.user, query.candidates)
    click, purchase = generation.models[model].score(rows).logits.T
    scores = generation.score(query).scores
    return float(np.corrcoef(scores, purchase)[0, 1] - np.corrcoef(scores, click)[0, 1])


@pytest.mark.parametrize("model", ["dcn", "gbdt", "linear", "ensemble"])
async def test_declaring_a_purchase_worth_more_reorders_without_training(
    store: ArtifactStore, model: str
) -> None:
    plain = open_with(store)
    raised = open_with(store, head_weights={"purchase": 500.0})
    before = (await plain.score(a_query(KEYS, model=model))).scores
    after = (await raised.score(a_query(KEYS, model=model))).scores
    assert np.argsort(-before).tolist() != np.argsort(-after).tolist()
    assert purchase_preferred(raised, model) > purchase_preferred(plain, model)
    only = open_with(store, head_weights={"click": 0.0})
    assert purchase_preferred(only, model) > purchase_preferred(plain, model)


async def test_the_predicted_value_counts_as_much_as_declared(store: ArtifactStore) -> None:
    query = a_query(KEYS, model="dcn")
    plain, valued = open_with(store), open_with(store, value_weight=2.0)
    generation = plain.versions.active
    rows = generation.builder.build(query.user, query.candidates)
    values = generation.models["dcn"].score(rows).values
    difference = (await valued.score(query)).scores - (await plain.score(query)).scores
    np.testing.assert_allclose(difference, 2 * values, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"refund": 1.0}, "head_weights.refund: no such head; there are: click, purchase"),
        ({"click": 0.0, "purchase": 0.0}, "no head has a weight above 0"),
    ],
)
def test_weights_that_make_no_order_are_refused(
    store: ArtifactStore, weights: dict[str, float], says: str
) -> None:
    with pytest.raises(InvalidField, match=says):
        open_with(store, head_weights=weights)


# --- versions ---


async def test_versions_are_prepared_activated_and_retired(own_store: ArtifactStore) -> None:
    local = LocalRanker.open(own_store)
    publish_ranker(own_store, version="v2", seed=1)
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
    await local.close()


async def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving(
    own_store: ArtifactStore,
) -> None:
    local = LocalRanker.open(own_store)

    def put_nan(folder: Path) -> None:
        path = folder / "models" / "dcn" / "weights" / "hidden_0_kernel.npy"
        np.save(path, np.full_like(np.load(path), np.nan))

    publish_ranker(own_store, version="v2", damage=put_nan)
    with pytest.raises(ArtifactRefused, match="NaN or Inf"):
        await local.versions.prepare("v2")
    with pytest.raises(ArtifactNotFound, match="v3"):
        await local.versions.prepare("v3")
    assert (await local.score(a_query(KEYS))).model_version == "v1"
    assert [one.version for one in local.versions.status().versions] == ["v1"]
    await local.close()


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
        "models/dcn/weights/network.json",
        "models/dcn/weights/mean.npy",
        "models/dcn/weights/output_kernel.npy",
        "models/dcn/weights/cross_1_bias.npy",
        "models/dcn/model.onnx",
        "models/linear/model.onnx",
        "models/gbdt/trees.json",
        "models/gbdt/trees/threshold.npy",
        "models/gbdt/model.onnx",
        "models/ensemble/ensemble.json",
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


@pytest.mark.parametrize(
    "meta",
    [
        {"models": []},
        {"models": ["dcn"], "default_model": "gbdt"},
        {"models": ["dcn", "oracle"], "default_model": "dcn"},
        {"heads": {}},
        {"heads": {"click": -1.0, "purchase": 1.0}},
        {"heads": None},
    ],
)
def test_a_manifest_whose_models_or_heads_make_no_sense_is_refused(
    tmp_path: Path, meta: dict[str, Any]
) -> None:
    store = ArtifactStore(tmp_path)
    publish_ranker(store, **meta)
    with pytest.raises(ArtifactRefused, match="manifest"):
        LocalRanker.open(store)


async def test_scores_that_are_not_finite_are_an_error(local: LocalRanker) -> None:
    class Broken:
        name, heads = "broken", ("click",)

        def score(self, rows: Any) -> Outputs:
            logits = np.zeros((len(rows.items), 1), np.float32)
            logits[1:3, 0] = [np.nan, np.inf]
            return Outputs(logits=logits)

    broken = replace(local.versions.active, models={"broken": Broken()})
    with pytest.raises(ScoresNotFinite, match="broken of version v1 gave 2 scores"):
        broken.score(a_query(KEYS, model="broken"))


def test_a_version_whose_scores_are_not_finite_is_not_loaded(tmp_path: Path) -> None:
    """It overflows on the rows that every version is warmed up with."""

    def too_large(folder: Path) -> None:
        for path in (folder / "models" / "linear" / "weights").glob("output_kernel.npy"):
            np.save(path, np.full_like(np.load(path), 3e38))

    store = ArtifactStore(tmp_path)
    artifact = publish_ranker(store, damage=too_large)
    with np.errstate(all="ignore"), pytest.raises(ScoresNotFinite, match="linear"):
        RankerGeneration.open(artifact, RankingConfig(engine="numpy"))


@pytest.mark.parametrize("deadline_ms", [0.0, 1.0])  # a millisecond is less than the answer takes
async def test_a_question_whose_deadline_passed_in_the_queue_is_not_scored(
    local: LocalRanker, deadline_ms: float
) -> None:
    with pytest.raises(BudgetExceeded, match="passed before scoring began"):
        await local.score(a_query(KEYS, deadline_ms=deadline_ms))


@pytest.mark.parametrize(("on_loop", "thread"), [(False, "ranker_0"), (True, "MainThread")])
async def test_a_process_of_its_own_scores_on_its_loop(
    on_loop: bool, thread: str, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, threads = RankerGeneration.score, []

    def score(generation: RankerGeneration, query: ScoreQuery) -> Scores:
        threads.append(threading.current_thread().name)
        return scored(generation, query)

    ranker = LocalRanker.open(store, on_loop=on_loop)
    monkeypatch.setattr(RankerGeneration, "score", score)
    await ranker.score(a_query(KEYS))
    assert threads == [thread]
    await ranker.close()


async def test_no_candidates_have_no_scores(local: LocalRanker) -> None:
    answer = await local.score(a_query(KEYS[:0]))
    assert answer.scores.shape == (0,)
