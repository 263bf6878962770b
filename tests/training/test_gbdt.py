from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ranking_svc.models import open_model
from ranking_svc.models.gbdt import NumpyTrees
from shortlist.config import GbdtConfig, RankingConfig
from shortlist.errors import ArtifactRefused
from tests.training.lesson_groups import BUILDER, REWARDS, random_groups, rows_of
from training.fitting import PARITY, Fitted, check_parity, fit_trees
from training.gbdt import BoostedTrees, round_down, train_gbdt
from training.groups import Groups
from training.judging import judge

SMALL = GbdtConfig(trees=30, leaves=7, min_rows=20, learning_rate=0.2)


def grow(groups: Groups, seed: int = 0) -> BoostedTrees:
    return train_gbdt(groups, groups.held_out(seed), SMALL, seed=seed)


def fit(folder: Path) -> Fitted:
    folder.mkdir()
    return fit_trees(
        "gbdt",
        random_groups(),
        BUILDER,
        REWARDS,
        RankingConfig(gbdt=SMALL),
        folder,
        seed=0,
        progress=lambda *_: None,
    )


@pytest.fixture(scope="module")
def grown() -> BoostedTrees:
    return grow(random_groups())


def test_they_learn_what_each_head_is_about(grown: BoostedTrees) -> None:
    unseen = random_groups(seed=1)
    outputs = grown.predict_groups(unseen)
    assert outputs.shape == unseen.head_labels.shape
    for head, number in ((0, 0), (1, 1)):
        there = unseen.mass > 0
        known = np.corrcoef(outputs[there][:, head], unseen.numeric[there][:, number])[0, 1]
        other = np.corrcoef(outputs[there][:, head], unseen.numeric[there][:, 1 - number])[0, 1]
        assert known > 0.4
        assert abs(other) < 0.1
    judged = judge(outputs, unseen, REWARDS)
    nobody = judge(np.zeros_like(outputs), unseen, REWARDS)
    assert judged["auc"] > 0.85
    assert judged["ndcg@20"] > nobody["ndcg@20"] + 0.2
    assert judged["held_out_loss"] < nobody["held_out_loss"]


def test_serving_decides_as_the_library_that_grew_them(grown: BoostedTrees) -> None:
    numbers = random_groups(seed=2).numeric.reshape(-1, len(BUILDER.names))
    np.testing.assert_allclose(
        NumpyTrees(grown.trees()).run(numbers), grown.predict(numbers), atol=1e-5
    )


def test_every_engine_of_the_published_trees_gives_the_same_scores(tmp_path: Path) -> None:
    fitted = fit(tmp_path / "gbdt")
    assert set(fitted.metrics["parity"]) == {"onnx", "numpy"}
    assert max(fitted.metrics["parity"].values()) <= PARITY
    rows = rows_of(random_groups(), 3)
    onnx, plain = (
        open_model("gbdt", tmp_path / "gbdt", BUILDER, engine).score(rows).logits
        for engine in ("onnx", "numpy")
    )
    np.testing.assert_allclose(onnx, plain, atol=PARITY)
    assert plain.std() > 0.1


def test_the_parity_gate_refuses_trees_that_differ(tmp_path: Path) -> None:
    fit(tmp_path / "gbdt")
    rows = rows_of(random_groups(), 3)
    truth = open_model("gbdt", tmp_path / "gbdt", BUILDER, "numpy").score(rows).logits
    path = tmp_path / "gbdt" / "trees" / "value.npy"
    np.save(path, np.load(path) * np.float32(1.01))
    with pytest.raises(ArtifactRefused, match="gbdt: engine numpy differs from the model"):
        check_parity("gbdt", tmp_path / "gbdt", BUILDER, [rows], [truth], ("onnx", "numpy"))


def test_training_ends_when_held_out_requests_stop_improving(grown: BoostedTrees) -> None:
    patient = train_gbdt(
        random_groups(requests=60),
        random_groups(requests=60).held_out(0),
        SMALL.model_copy(update={"trees": 400, "learning_rate": 0.5}),
    )
    assert len(patient.trees().root) < 2 * 400


def test_the_seed_decides_the_trees() -> None:
    first, same, other = (grow(random_groups(), seed).trees() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.value, same.value)
    assert not np.array_equal(first.threshold, other.threshold)


@pytest.mark.parametrize(
    "threshold", [0.1, -0.1, 1 / 3, 1.0, 0.0, 1e300, -1e300, 1.0000000180025095e-35, 16777217.0]
)
def test_rounded_thresholds_decide_alike_for_every_float(threshold: float) -> None:
    (rounded,) = round_down(np.array([threshold]))
    assert rounded.dtype == np.float32
    assert np.isfinite(rounded)
    near: npt.NDArray[Any] = np.array([rounded, np.float32(np.clip(threshold, -3e38, 3e38))])
    for step in (-np.inf, np.inf):
        with np.errstate(over="ignore"):
            near = np.concatenate([near, np.nextafter(near[:2], np.float32(step))])
    finite = near[np.isfinite(near) & (np.abs(near) < 3.4e38)]
    np.testing.assert_array_equal(finite <= rounded, finite.astype(np.float64) <= threshold)


def test_a_head_that_nobody_fulfilled_keeps_low_odds() -> None:
    groups = random_groups()
    groups.head_labels[..., 1] = 0
    outputs = grow(groups).predict_groups(groups)
    assert outputs[..., 1].max() < -5


def test_groups_without_a_liked_candidate_are_refused() -> None:
    groups = random_groups()
    with pytest.raises(ArtifactRefused, match="none of the items"):
        grow(replace(groups, head_labels=np.zeros_like(groups.head_labels)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    groups = random_groups()
    groups.numeric[5, 2, 7] = value
    with pytest.raises(ArtifactRefused, match="NaN or Inf"):
        grow(groups)


def test_requests_of_a_single_user_can_be_learned_from() -> None:
    groups = random_groups(requests=40)
    grown = grow(replace(groups, user=np.zeros(40, np.int32)))
    assert np.isfinite(grown.predict_groups(groups)).all()
