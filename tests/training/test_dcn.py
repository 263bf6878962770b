from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ranking_svc.models import open_model
from ranking_svc.models.dcn import ENGINES, PARITY, WEIGHTS_FOLDER, DcnWeights
from shortlist.config import DcnConfig, RankingConfig
from shortlist.errors import ArtifactRefused
from tests.ranking_svc.factory import HEADS
from tests.ranking_svc.tables import NOTHING
from tests.training.lesson_groups import BUILDER, REWARDS, random_groups, rows_of
from training.fitting import Fitted, check_parity, fit_network
from training.groups import Groups
from training.judging import judge
from training.rewards import Rewards

if TYPE_CHECKING:
    from training.dcn import Dcn, Sizes

pytestmark = pytest.mark.slow  # TensorFlow

SMALL = {"cross_layers": 2, "hidden": (16, 8), "epochs": 6, "learning_rate": 0.01}


def sizes(rewards: Rewards = REWARDS) -> Sizes:
    from training.dcn import Sizes

    return Sizes(
        vocabularies=(
            BUILDER.item.vocabulary_size,
            BUILDER.user.vocabulary_size,
            BUILDER.context.vocabulary_size,
        ),
        item_slots=BUILDER.item_slots,
        heads=rewards.heads,
        loss_shares=rewards.loss_shares,
        has_value=rewards.value_scale is not None,
    )


def train(groups: Groups, **changes: Any) -> Dcn:
    from training.dcn import train_dcn

    model, _ = train_dcn(groups, groups.held_out(0), DcnConfig(**SMALL | changes), sizes())
    return model


def fit(
    folder: Path,
    name: str = "dcn",
    *,
    has_time: bool = True,
    progress: Callable[[int, int], None] = lambda *_: None,
    **changes: Any,
) -> Fitted:
    folder.mkdir()
    builder = copy.copy(BUILDER)  # the same columns
    builder.spec = replace(BUILDER.spec, has_time=has_time)
    return fit_network(
        name,
        random_groups(),
        builder,
        REWARDS,
        RankingConfig(dcn=DcnConfig(**SMALL | changes)),
        folder,
        seed=0,
        progress=progress,
    )


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "parallel": ("dcn", {"projection_dim": 0}),
    "parallel, low rank": ("dcn", {"projection_dim": 3}),
    "stacked": ("dcn", {"structure": "stacked", "projection_dim": 0}),
    "stacked, low rank": ("dcn", {"structure": "stacked", "projection_dim": 3}),
    "linear": ("linear", {}),
}


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def fitted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Fitted]:
    name, changes = request.param
    folder = tmp_path_factory.mktemp("fitted") / name
    return name, folder, fit(folder, name, epochs=2, **changes)


def test_every_engine_of_a_trained_network_gives_the_same_scores_and_the_same_best_20(
    fitted: tuple[str, Path, Fitted],
) -> None:
    name, folder, _ = fitted
    models = {engine: open_model(name, folder, BUILDER, engine) for engine in ENGINES}
    for at in range(4):
        outputs = {
            engine: model.score(rows_of(random_groups(), at)).columns
            for engine, model in models.items()
        }
        truth = outputs["savedmodel"]
        assert truth.shape[1] == len(HEADS) + 1
        assert truth.std(axis=0).min() > 0.01
        for mine in outputs.values():
            assert np.abs(mine - truth).max() <= PARITY
            # The same best 20; only what truly scores alike may stand in another order.
            best, expected = np.argsort(-mine, axis=0)[:20], np.argsort(-truth, axis=0)[:20]
            np.testing.assert_allclose(
                np.take_along_axis(truth, best, axis=0),
                np.take_along_axis(truth, expected, axis=0),
                atol=2 * PARITY,
            )


def test_the_parity_of_all_engines_is_told(fitted: tuple[str, Path, Fitted]) -> None:
    _, _, result = fitted
    assert set(result.metrics["parity"]) == set(ENGINES)
    assert max(result.metrics["parity"].values()) <= PARITY
    assert result.held_out.shape[0] == random_groups().held_out(0).sum()


def alter_weights(folder: Path) -> None:
    path = folder / "weights" / "output_bias.npy"
    np.save(path, np.load(path) + np.float32(0.05))


def alter_onnx(folder: Path) -> None:
    from training.onnx_export import write_dcn

    weights = DcnWeights.load(folder / "weights")
    altered = replace(weights, output_kernel=weights.output_kernel * np.float32(1.1))
    write_dcn(altered, folder / "model.onnx")


@pytest.mark.parametrize(("engine", "alter"), [("numpy", alter_weights), ("onnx", alter_onnx)])
def test_the_parity_gate_refuses_an_engine_that_differs(
    fitted: tuple[str, Path, Fitted], tmp_path: Path, engine: str, alter: Callable[[Path], None]
) -> None:
    name, folder, _ = fitted
    shutil.copytree(folder, tmp_path / "altered")
    alter(tmp_path / "altered")
    rows = rows_of(random_groups(), 1)
    truth = open_model(name, folder, BUILDER, "savedmodel").score(rows).columns
    with pytest.raises(ArtifactRefused, match=f"{name}: engine {engine} differs from the model"):
        check_parity(name, tmp_path / "altered", BUILDER, [rows], [truth])


@pytest.mark.parametrize(
    ("structure", "columns"),
    # So few values teach the parallel network only, whose crosses hold a linear way to them.
    [("parallel", [0, 1, 2]), ("stacked", [0, 1])],
)
def test_it_learns_what_each_head_is_about_and_the_value(
    structure: str, columns: list[int]
) -> None:
    unseen = random_groups(seed=1)
    outputs = train(random_groups(), structure=structure).predict(unseen)
    there = unseen.mass > 0
    for column in columns:  # each is about the number of the same place
        known = np.corrcoef(outputs[there][:, column], unseen.numeric[there][:, column])[0, 1]
        assert known > 0.3
    judged = judge(outputs, unseen, REWARDS)
    nobody = judge(np.zeros_like(outputs), unseen, REWARDS)
    assert judged["auc"] > 0.7
    assert judged["ndcg@20"] > nobody["ndcg@20"] + 0.1


def linear(groups: Groups, *, epochs: int) -> Dcn:
    """Logistic regression."""
    from training.dcn import LINEAR, train_dcn

    config = LINEAR.model_copy(update={"epochs": epochs})
    model, _ = train_dcn(groups, groups.held_out(0), config, sizes())
    return model


def of_pairs(groups: Groups) -> Groups:
    """Where the two first numbers go together, both things happen: no line tells them apart."""
    product = groups.numeric[..., 0] * groups.numeric[..., 1]
    top = (product > np.sort(product, axis=1)[:, [-4]]) & (groups.mass > 0)
    happens = np.repeat(top[..., None], 2, axis=2).astype(np.float32)
    return replace(
        groups, head_labels=happens, labels=(happens @ REWARDS.weights).astype(np.float32)
    )


WITH_A_LINEAR_WAY: list[dict[str, Any]] = [
    {"projection_dim": 0},
    {"projection_dim": 3},
    {"structure": "stacked", "hidden": ()},
]


@pytest.mark.parametrize("changes", WITH_A_LINEAR_WAY)
def test_where_nothing_better_is_found_it_is_the_logistic_regression(
    changes: dict[str, Any],
) -> None:
    from training.dcn import train_dcn

    groups = random_groups()
    useless = DcnConfig(**SMALL | {"learning_rate": 1.0, "epochs": 1} | changes)
    model, epochs = train_dcn(groups, groups.held_out(0), useless, sizes())
    assert epochs == 0
    begun = linear(groups, epochs=1).predict(groups)
    np.testing.assert_allclose(model.predict(groups), begun, atol=1e-5)


@pytest.mark.parametrize("changes", WITH_A_LINEAR_WAY)
def test_it_goes_on_to_learn_what_no_logistic_regression_can(changes: dict[str, Any]) -> None:
    groups, unseen = of_pairs(random_groups()), of_pairs(random_groups(seed=1))
    model = train(groups, epochs=10, **changes)
    assert judge(model.predict(unseen), unseen, REWARDS)["auc"] > 0.65
    for cross in model.weights().crosses:
        assert all(kernel.any() for kernel in cross.kernels)


def test_a_logistic_regression_cannot() -> None:
    groups, unseen = of_pairs(random_groups()), of_pairs(random_groups(seed=1))
    auc = judge(linear(groups, epochs=3).predict(unseen), unseen, REWARDS)["auc"]
    assert auc == pytest.approx(0.5, abs=0.1)


def test_decay_leads_back_to_where_it_began() -> None:
    groups = random_groups()
    tight = train(groups, epochs=2, weight_decay=1e4, learning_rate=1e-4).weights()
    begun = linear(groups, epochs=2).weights()
    wide = tight.output_kernel[: len(begun.output_kernel)]
    np.testing.assert_allclose(wide, begun.output_kernel, atol=0.01)
    assert np.abs(begun.output_kernel).max() > 0.1


def test_its_loss_is_that_of_all_rankers() -> None:
    import tensorflow as tf

    from training.dcn import _head_losses
    from training.losses import ranking_loss

    groups = random_groups(requests=12)
    labels = groups.head_labels[..., 0]
    scores = np.random.default_rng(0).normal(-2, 1, labels.shape)
    here = _head_losses(*(tf.constant(one, tf.float32) for one in (scores, labels, groups.mass)))
    assert float(tf.reduce_mean(here)) == pytest.approx(
        ranking_loss(scores, labels, groups.mass).mean, rel=1e-5
    )


def test_the_seed_decides_the_network() -> None:
    first, same = (train(random_groups(), epochs=1).weights() for _ in range(2))
    for mine, theirs in zip(first.hidden, same.hidden, strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])


def test_groups_without_a_liked_candidate_are_refused() -> None:
    groups = random_groups()
    with pytest.raises(ArtifactRefused, match="none of the items"):
        train(replace(groups, head_labels=np.zeros_like(groups.head_labels)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    groups = random_groups()
    groups.numeric[5, 2, 7] = value
    with np.errstate(invalid="ignore"), pytest.raises(ArtifactRefused, match=r"NaN|diverged"):
        train(groups)


def test_requests_of_a_single_user_can_be_learned_from() -> None:
    groups = replace(random_groups(), user=np.zeros(len(random_groups()), np.int32))
    assert np.isfinite(train(groups, epochs=1).predict(groups)).all()


def rank_in(folder: Path) -> int | None:
    """Of a cross; None = full."""
    kernels = DcnWeights.load(folder / WEIGHTS_FOLDER).crosses[0].kernels
    return kernels[0].shape[1] if len(kernels) == 2 else None


@pytest.mark.parametrize("has_time", [True, False])
def test_a_rank_that_is_set_is_kept(tmp_path: Path, has_time: bool) -> None:
    fit(tmp_path / "dcn", has_time=has_time, epochs=1, projection_dim=3)
    assert rank_in(tmp_path / "dcn") == 3


def test_with_times_crosses_have_rank_8(tmp_path: Path) -> None:
    fit(tmp_path / "dcn", epochs=1)
    assert rank_in(tmp_path / "dcn") == 8


def test_without_times_held_out_requests_choose_the_rank(tmp_path: Path) -> None:
    small: dict[str, Any] = {"cross_layers": 1, "hidden": (), "epochs": 1}
    seen: list[float] = []
    chosen = fit(
        tmp_path / "chosen",
        has_time=False,
        progress=lambda done, total: seen.append(done / total),
        **small,
    )
    losses = {
        rank: fit(tmp_path / str(rank), projection_dim=rank or 0, **small).metrics["held_out_loss"]
        for rank in (8, None)
    }
    assert losses[8] != losses[None]
    assert rank_in(tmp_path / "chosen") == min(losses, key=losses.__getitem__)
    assert chosen.metrics["held_out_loss"] == min(losses.values())
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_without_crosses_there_is_nothing_to_choose_between(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    fit(
        tmp_path / "dcn",
        has_time=False,
        progress=lambda done, total: told.append((done, total)),
        cross_layers=0,
        hidden=(4,),
        epochs=1,
    )
    assert {total for _, total in told} == {1}


def test_data_without_any_features_or_values_can_be_learned_from() -> None:
    from training.dcn import train_dcn

    groups = random_groups()
    empty = {
        name: getattr(groups, name)[..., :0]
        for side in ("item", "user", "context")
        for name in (f"{side}_tokens", f"{side}_weights")
    }
    model, _ = train_dcn(
        replace(groups, **empty),
        groups.held_out(0),
        DcnConfig(epochs=1, hidden=(8,)),
        replace(
            sizes(),
            vocabularies=(NOTHING.vocabulary_size,) * 3,
            item_slots=(),
            has_value=False,
        ),
    )
    weights = model.weights()
    weights.check()
    assert weights.width == len(BUILDER.names)
    assert weights.output_kernel.shape[1] == len(HEADS)
