"""The gate, on a small world that the real jobs have trained."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ranking_svc.models import model_folder
from ranking_svc.models.dcn import WEIGHTS_FOLDER, DcnWeights
from ranking_svc.models.ensemble import MIXTURE_FILE, Ensemble, Mixture
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.config import Config
from tests.trained import run_job, short_tmp
from training.gate import GateRefused, judge, pass_gate, report_path

pytestmark = pytest.mark.slow


def again(
    store: ArtifactStore, tier: str, change: Callable[[Path], None] = lambda folder: None
) -> Artifact:
    """The current version's files, perhaps changed, as a version that is not promoted."""
    current = store.open(tier)
    with store.stage(tier) as staged:
        shutil.copytree(current.path, staged.path, dirs_exist_ok=True)
        (staged.path / "manifest.json").unlink()
        change(staged.path)
        return staged.publish(
            version="again", meta=current.manifest.meta, parents=current.manifest.parents
        )


def config_of(workdir: Path, **gate: object) -> Config:
    config = Config.load(workdir / "shortlist.yaml")
    return config.model_copy(update={"gate": config.gate.model_copy(update=gate)})


def forget(folder: Path) -> None:
    """The ensemble listens to a network alone that has learned nothing."""
    weights = DcnWeights.load(model_folder(folder, "dcn") / WEIGHTS_FOLDER)
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=weights.output_kernel.shape).astype(np.float32)
    replace(weights, output_kernel=kernel).save(model_folder(folder, "dcn") / WEIGHTS_FOLDER)
    path = model_folder(folder, Ensemble.name) / MIXTURE_FILE
    mixture = Mixture.load(path)
    alone = {name: float(name == "dcn") for name in mixture.weights}
    replace(mixture, weights=alone, strangers=None).save(path)


@pytest.mark.parametrize("tier", ["retrieval", "ranking"])
def test_a_version_that_is_as_good_passes_with_a_report(tier: str, trained_copy: Path) -> None:
    store = ArtifactStore(trained_copy / "artifacts")
    verdict = pass_gate(trained_copy, config_of(trained_copy), again(store, tier))
    assert verdict.passed
    report = json.loads(report_path(trained_copy, tier, "again").read_text())
    assert report["passed"]
    assert report["serving"] == store.current(tier)
    assert report["users"] > 50
    for name in ("recall_1000", "ndcg_20", "auc", "calibration", "coverage"):
        assert report["figures"][name]["difference"] == 0, name
    assert report["figures"]["recall_1000"]["judged"] is (tier == "retrieval")
    assert report["figures"]["auc"]["judged"] is (tier == "ranking")


def test_a_ranker_that_orders_by_nothing_is_refused_in_one_line(trained_copy: Path) -> None:
    store = ArtifactStore(trained_copy / "artifacts")
    worse = again(store, "ranking", forget)
    config = config_of(trained_copy)
    in_numpy = config.ranking.model_copy(update={"engine": "numpy"})
    with pytest.raises(GateRefused) as refused:
        pass_gate(trained_copy, config.model_copy(update={"ranking": in_numpy}), worse)
    text = str(refused.value)
    assert text.startswith("ranking again is refused: ")
    assert "auc is 0." in text
    assert text.endswith(str(report_path(trained_copy, "ranking", "again")))
    assert "\n" not in text
    report = json.loads(report_path(trained_copy, "ranking", "again").read_text())
    assert not report["passed"]
    low, high = report["figures"]["auc"]["difference_ci"]
    assert low <= report["figures"]["auc"]["difference"] <= high < -0.1
    assert store.current("ranking") != "again"


def test_a_floor_holds_whatever_serves(trained_copy: Path) -> None:
    store = ArtifactStore(trained_copy / "artifacts")
    version = again(store, "retrieval")
    verdict = judge(trained_copy, config_of(trained_copy, floors={"recall_1000": 0.999}), version)
    assert not verdict.passed
    assert verdict.reasons[0].startswith("recall_1000 is 0.")
    assert verdict.reasons[0].endswith("at least 0.999 is asked for")


def test_the_first_version_of_a_tier_has_no_rival(trained_copy: Path) -> None:
    store = ArtifactStore(trained_copy / "artifacts")
    first = again(store, "ranking")
    (trained_copy / "artifacts" / "ranking" / "current").unlink()
    verdict = judge(trained_copy, config_of(trained_copy), first)
    assert verdict.passed
    assert verdict.rival is None


def test_a_version_trained_on_shuffled_labels_is_refused(
    trained_copy: Path, tmp_path: Path
) -> None:
    shuffled = tmp_path / "shuffled"
    shutil.copytree(trained_copy, shuffled)
    shuffle_items(shuffled / "dataset")
    with short_tmp() as tmp:
        done = run_job("training.retrieval", shuffled, tmp, tmp_path, "--no-gate")
    made = Path("artifacts") / "retrieval" / json.loads(done.stdout)["retrieval"]
    shutil.copytree(shuffled / made, trained_copy / made)
    worse = ArtifactStore(trained_copy / "artifacts").open("retrieval", made.name)
    with pytest.raises(GateRefused, match="recall_1000"):
        pass_gate(trained_copy, config_of(trained_copy), worse)


def shuffle_items(folder: Path) -> None:
    """Who did something keeps doing it, but to any item."""
    path = folder / "interactions.parquet"
    table = pq.read_table(path)
    items = np.random.default_rng(0).permutation(table["item"].to_numpy())
    at = table.schema.get_field_index("item")
    column = pa.array(items, table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), column), path)
    info = json.loads((folder / "dataset.json").read_text())
    info["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(info))
