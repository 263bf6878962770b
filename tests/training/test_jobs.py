"""Both training jobs on a real private Ray, and what is served from what they published."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ranking_svc.features import FeatureBuilder, FeatureSpec
from ranking_svc.ranker import open_builder
from retrieval_svc.slice_files import RetrievalMeta, slice_folder
from retrieval_svc.source_data import SharedData, SourceData
from retrieval_svc.sources import SOURCES
from shortlist.artifacts import ArtifactStore
from shortlist.config import Config
from shortlist.errors import ArtifactNotFound
from shortlist.ids import shard_of
from shortlist.launch import module_command, tethered
from shortlist.tiers import UserContext
from tests.trained import Trained, job_environment, processes_naming, short_tmp
from training.dataset import Dataset, write_dataset
from training.encoding import fit_encoders
from training.histories import user_histories
from training.item_statistics import HalfLives, build_item_table
from training.lessons import Proposer
from training.shards import read_slices, read_source, reshard
from training.sources import TRAINERS, SourceLesson, TrainedSource
from training.windows import backtest_window, serving_window

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TIERS = ("backtest", "retrieval", "ranking")


@pytest.fixture(scope="module")
def store(trained: Trained) -> ArtifactStore:
    return ArtifactStore(trained.artifacts)


@pytest.fixture(scope="module")
def dataset(trained: Trained) -> Dataset:
    return Dataset.load(trained.workdir / "dataset")


def some_users(dataset: Dataset, count: int = 15) -> list[UserContext]:
    window = serving_window(dataset)
    users = np.linspace(0, dataset.n_users - 1, count).astype(int)
    histories = user_histories(dataset, window.known, users)
    return [UserContext(user_key=0, history=h, time_ms=window.as_of_ms) for h in histories]


# --- what the jobs leave ---


def test_the_jobs_print_the_versions_that_they_published_and_promoted(
    trained: Trained, store: ArtifactStore
) -> None:
    printed = trained.retrieval | trained.ranking
    assert set(printed) == set(TIERS)
    for tier, version in printed.items():
        assert store.current(tier) == version
        assert store.versions(tier) == [version]


@pytest.mark.parametrize("tier", TIERS)
def test_what_they_published_verifies(store: ArtifactStore, tier: str) -> None:
    artifact = store.open(tier)
    assert len(artifact.manifest.files) > 15


def test_the_jobs_leave_no_process_no_file_elsewhere_and_nothing_half_published(
    trained: Trained,
) -> None:
    assert trained.left == []
    staged = [p for p in trained.artifacts.rglob(".staging-*") if p.is_dir()]
    assert staged == []


def test_the_jobs_show_progress_on_stderr_without_tracebacks(trained: Trained) -> None:
    sources = [f"{name} ({tier})" for name in TRAINERS for tier in ("backtest", "retrieval")]
    for task in ("two-tower (retrieval)", *sources, "ranker lessons"):
        assert task in trained.log
    assert "Traceback" not in trained.log


# --- the retrieval artifact ---


@pytest.mark.parametrize("tier", ["backtest", "retrieval"])
def test_every_item_is_in_the_shard_that_owns_it(
    store: ArtifactStore, dataset: Dataset, tier: str
) -> None:
    artifact = store.open(tier)
    meta = RetrievalMeta.of(artifact)
    assert meta.shards == 2
    for shard in range(2):
        keys = np.load(artifact.path / f"shard-{shard:05d}" / "keys.npy")
        owned = dataset.item_keys[shard_of(dataset.item_keys, 2) == shard]
        np.testing.assert_array_equal(keys, owned)


def test_the_manifests_say_what_was_learned_from(store: ArtifactStore, dataset: Dataset) -> None:
    windows = {"backtest": backtest_window(dataset), "retrieval": serving_window(dataset)}
    for tier, window in windows.items():
        meta = store.open(tier).manifest.meta
        assert meta["watermark_ms"] == window.as_of_ms
        assert meta["schema_hash"] == dataset.schema.digest()
        assert meta["items_total"] == dataset.n_items
    spaces = {store.open(tier).manifest.meta["embedding_space"] for tier in windows}
    assert len(spaces) == 2


@pytest.mark.parametrize("tier", ["backtest", "retrieval"])
def test_every_source_is_there_with_all_its_files_or_the_manifest_says_why_not(
    store: ArtifactStore, tier: str
) -> None:
    artifact = store.open(tier)
    meta = RetrievalMeta.of(artifact)
    assert meta.sources == [name for name in SOURCES if name in meta.sources]
    assert set(meta.sources) | set(meta.absent) == set(SOURCES)
    assert {"two_tower", "mf", "cooccurrence", "popular", "trending"} <= set(meta.sources)
    for shard, items in enumerate(meta.items_per_shard):
        for name in meta.sources:
            data = SourceData.load(slice_folder(artifact.path, shard) / name, items)
            assert data.columns or data.lists or name == "two_tower"
            SharedData.load(artifact.path / name)


def test_the_blend_is_learned_on_the_backtest_for_both_versions(store: ArtifactStore) -> None:
    past, present = (store.open(tier).manifest.meta for tier in ("backtest", "retrieval"))
    for meta in (past, present):
        assert set(meta["fusion"]) == set(meta["sources"])
        assert all(weight > 0 and offset > 0 for weight, offset in meta["fusion"].values())
    both = set(past["fusion"]) & set(present["fusion"])
    assert all(past["fusion"][name] == present["fusion"][name] for name in both)
    assert past["metrics"]["fusion"]["users"] > 0


def test_what_is_counted_is_nothing_of_the_test_part(
    store: ArtifactStore, trained: Trained, dataset: Dataset
) -> None:
    artifact, window = store.open("retrieval"), serving_window(dataset)
    whole = read_slices(artifact)
    lesson = SourceLesson(
        dataset=dataset,
        rows=window.known,
        as_of_ms=window.as_of_ms,
        config=Config.load(trained.workdir / "shortlist.yaml").retrieval,
        half_life_ms=artifact.manifest.meta["half_life_ms"],
    )
    for name in ("popular", "trending"):
        expected = TRAINERS[name](lesson)
        assert isinstance(expected, TrainedSource)
        found = read_source(artifact, name, whole.places).columns
        assert found.keys() == expected.data.columns.keys()
        for column, counted in expected.data.columns.items():
            np.testing.assert_array_equal(found[column], counted)


def test_resharding_keeps_the_candidates_and_promotes_nothing(
    trained_copy: Path, dataset: Dataset
) -> None:
    store, config = (
        ArtifactStore(trained_copy / "artifacts"),
        Config.load(trained_copy / "shortlist.yaml"),
    )
    parent = store.current("retrieval")
    version = reshard(trained_copy, 3)
    assert reshard(trained_copy, 3) == version  # made once
    assert reshard(trained_copy, 2) == parent
    assert store.current("retrieval") == parent
    parents = store.open("retrieval", version).manifest.parents
    assert parents == {"retrieval": parent, "backtest": store.current("backtest")}
    two, three = (Proposer.open(store, "retrieval", v, config) for v in (parent, version))
    for user in some_users(dataset):
        ours, theirs = two.propose(user), three.propose(user)
        np.testing.assert_array_equal(ours.keys, theirs.keys)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)
        np.testing.assert_array_equal(ours.ranks, theirs.ranks)


# --- the ranking artifact ---


def test_the_ranker_names_its_parents_features_and_parity(
    trained: Trained, store: ArtifactStore
) -> None:
    artifact = store.open("ranking")
    assert artifact.manifest.parents == trained.retrieval
    meta: Any = artifact.manifest.meta
    assert tuple(meta["features"]) == open_builder(artifact).names
    assert meta["models"] == ["dcn", "gbdt", "linear", "ensemble"]
    assert meta["default_model"] == "ensemble"
    assert min(meta["heads"].values()) > 0
    metrics = meta["metrics"]["models"]
    assert set(metrics) == set(meta["models"])
    for name in ("dcn", "gbdt", "linear"):
        assert max(metrics[name]["parity"].values()) <= 1e-4
    blend = [metrics["ensemble"][key]["blend"] for key in ("weights", "weights_of_strangers")]
    assert blend[0] < blend[1]
    assert meta["metrics"]["requests"] > meta["metrics"]["held_out_requests"] > 0


def test_the_ensemble_orders_held_out_requests_about_as_well_as_its_best_model(
    store: ArtifactStore,
) -> None:
    metrics: Any = store.open("ranking").manifest.meta["metrics"]
    ndcg = {name: one["ndcg@20"] for name, one in metrics["models"].items()}
    assert ndcg["ensemble"] >= 0.9 * max(ndcg.values())


def test_serving_builds_the_features_that_training_builds(
    trained: Trained, store: ArtifactStore, dataset: Dataset
) -> None:
    past, present = backtest_window(dataset), serving_window(dataset)
    retrieval, config = store.open("retrieval"), Config.load(trained.workdir / "shortlist.yaml")
    encoders, lives = fit_encoders(dataset, past.known), HalfLives.of(dataset, past.known)
    vectors = np.load(retrieval.path / "tower" / "item_vectors.npy")
    table = build_item_table(
        dataset,
        present.known,
        present.as_of_ms,
        vectors=vectors,
        encoder=encoders.item,
        half_lives=lives,
    )
    sources: Any = store.open("ranking").manifest.meta["sources"]
    spec = FeatureSpec(sources=tuple(sources), statistics=lives.statistics, has_time=True)
    training = FeatureBuilder(spec, table, encoders.item, encoders.user, encoders.context)
    serving = open_builder(store.open("ranking"))
    assert serving.names == training.names
    proposer = Proposer.open(store, "retrieval", None, config)
    for user in some_users(dataset):
        about = replace(user, attributes={"country": "NZ"}, context={"device": "phone"})
        candidates = proposer.propose(about)
        mine, theirs = serving.build(about, candidates), training.build(about, candidates)
        # Factors are computed anew here, perhaps with another number of threads.
        rounded = np.array(["factors" in name for name in serving.names])
        np.testing.assert_array_equal(mine.numeric[:, ~rounded], theirs.numeric[:, ~rounded])
        np.testing.assert_allclose(
            mine.numeric[:, rounded], theirs.numeric[:, rounded], rtol=1e-3, atol=1e-5
        )
        np.testing.assert_array_equal(mine.items, theirs.items)
        np.testing.assert_array_equal(mine.user.tokens, theirs.user.tokens)
        np.testing.assert_array_equal(mine.context.tokens, theirs.context.tokens)
        assert mine.unknown == 0


# --- evaluation ---


@pytest.fixture(scope="module")
def evaluated(
    trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    from training.evaluation import evaluate

    workdir = tmp_path_factory.mktemp("evaluated") / "w"
    shutil.copytree(trained.workdir, workdir)
    return evaluate(workdir, users=150), workdir


def test_what_was_learned_orders_better_than_chance(
    evaluated: tuple[dict[str, Any], Path],
) -> None:
    result, _ = evaluated
    assert 0 < result["users"]["evaluated"] <= 150
    assert result["split"] == "time"
    for name in ("dcn", "gbdt", "linear", "ensemble"):
        assert 0.5 < result["rankers"][name]["auc"] <= 1
    random = result["systems"]["random"]
    for system in ("page", "two_tower", "popular"):
        assert result["systems"][system]["ndcg@20"] > random["ndcg@20"]


def test_a_source_alone_finds_everything_that_may_be_found_at_a_thousand(
    evaluated: tuple[dict[str, Any], Path],
) -> None:
    """The catalogue has 800 items."""
    recalls = evaluated[0]["retrieval"]
    assert recalls["popular"]["recall@1000"] == recalls["two_tower"]["recall@1000"] == 1


# --- what cannot be trained ---


def run(module: str, workdir: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a job to its end; what is left of Ray afterwards."""
    with short_tmp() as tmp:
        done = subprocess.run(
            tethered(module_command(module, "--workdir", str(workdir))),
            env=job_environment(tmp, tmp / "home"),
            capture_output=True,
            text=True,
            check=False,
        )
        left = [path.name for path in tmp.glob("sl-ray-*")] + processes_naming(str(tmp))
        return done, left


def test_the_ranker_is_not_trained_before_retrieval(trained_copy: Path) -> None:
    from training.ranking import train

    shutil.rmtree(trained_copy / "artifacts")
    with pytest.raises(ArtifactNotFound, match="retrieval"):
        train(trained_copy)
    done, left = run("training.ranking", trained_copy)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert left == []


def test_the_ranker_is_not_trained_on_another_catalogue_than_retrieval(
    trained_copy: Path, dataset: Dataset
) -> None:
    keys = dataset.item_keys + 1
    write_dataset(
        trained_copy / "dataset",
        items=dataset.items.set_column(0, "key", pa.array(keys)),
        users=dataset.users,
        interactions=pq.read_table(trained_copy / "dataset" / "interactions.parquet"),
        info=dataset.info,
    )
    done, left = run("training.ranking", trained_copy)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert re.match(r"error: (backtest|retrieval) \S+ was trained on another catalogue", said)
    assert "Traceback" not in done.stderr
    assert left == []


def test_data_without_a_positive_interaction_is_refused_and_the_old_version_stays(
    trained_copy: Path, dataset: Dataset
) -> None:
    store = ArtifactStore(trained_copy / "artifacts")
    before = {tier: store.current(tier) for tier in TIERS}
    interactions = pq.read_table(trained_copy / "dataset" / "interactions.parquet")
    weightless = interactions.set_column(
        interactions.schema.get_field_index("weight"),
        "weight",
        pa.array(np.zeros(len(interactions), np.float32)),
    )
    write_dataset(
        trained_copy / "dataset",
        items=dataset.items,
        users=dataset.users,
        interactions=weightless,
        info=dataset.info,
    )
    done, left = run("training.retrieval", trained_copy)
    assert done.returncode == 1
    assert "error: no positive interaction" in done.stderr
    assert "Traceback" not in done.stderr
    assert left == []
    assert {tier: store.current(tier) for tier in TIERS} == before
    assert [store.versions(tier) for tier in TIERS] == [[before[tier]] for tier in TIERS]


def test_a_run_that_cannot_publish_both_versions_promotes_neither(trained_copy: Path) -> None:
    store = ArtifactStore(trained_copy / "artifacts")
    before = {tier: store.current(tier) for tier in TIERS}
    small = dict.fromkeys(SOURCES, 0) | {"two_tower": 50, "popular": 50}
    tower = {"dim": 8, "epochs": 1}
    config = {"retrieval": {"quotas": small, "guaranteed": small, "two_tower": tower}}
    Config.model_validate(config).save(trained_copy / "shortlist.yaml")
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(_keep_from_publishing, trained_copy / "artifacts" / "retrieval")
        done, left = run("training.retrieval", trained_copy)
        blocked.result()
    assert done.returncode == 1
    assert "IsADirectoryError" in done.stderr
    assert left == []
    assert len(store.versions("backtest")) == 2
    assert store.versions("retrieval") == [before["retrieval"]]
    assert {tier: store.current(tier) for tier in TIERS} == before


def _keep_from_publishing(home: Path) -> None:
    """As soon as a job writes a version there, nobody can take the lock to give it a name."""
    deadline = time.monotonic() + 120
    while not any(home.glob(".staging-*")):
        assert time.monotonic() < deadline, "no job has begun to write a version"
        time.sleep(0.02)
    (home / ".lock").unlink()
    (home / ".lock").mkdir()
