from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranking_svc.engine import (
    ENGINES,
    PARITY,
    DcnWeights,
    EngineUnavailable,
    InputAssembler,
    NumpyEngine,
    open_engine,
)
from ranking_svc.features import FeatureRows
from shortlist.config import RankingConfig
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from shortlist.features import Encoded
from shortlist.launch import child_environment
from tests.contracts.ranker import candidates_of
from tests.ranking_svc.factory import KEYS, random_builder, random_weights, write_files
from tests.ranking_svc.tables import NOTHING, STRANGER, user_with
from training.groups import Groups

BUILDER = random_builder()
SOMEBODY = user_with(
    (int(KEYS[3]), 1.0),
    (int(KEYS[9]), 2.0),
    attributes={"genre": "jazz", "age": 31.0},
    context={"device": "desk"},
)


def some_rows() -> FeatureRows:
    keys = np.concatenate([KEYS, np.array([STRANGER], np.uint64)])
    return BUILDER.build(SOMEBODY, candidates_of(keys))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path, BUILDER, random_weights(BUILDER))
    return tmp_path


def open_here(name: str, folder: Path) -> Any:
    return open_engine(name, folder, BUILDER.table, BUILDER.item_slots)


# --- the network ---


def test_the_network_worked_out_row_by_row() -> None:
    weights, rows = random_weights(BUILDER), some_rows()
    table, (slots,) = BUILDER.table, BUILDER.item_slots
    expected = []
    for place, item in enumerate(rows.items):
        genre = sum(
            weight * weights.item_tokens[token]
            for token, weight in zip(
                table.tokens[item, slice(*slots)],
                table.token_weights[item, slice(*slots)],
                strict=True,
            )
        )
        jazz = weights.user_tokens[BUILDER.user.encode_one({"genre": "jazz"}).tokens[0, 0]]
        desk = weights.context_tokens[BUILDER.context.encode_one({"device": "desk"}).tokens[0, 0]]
        numbers = np.clip((rows.numeric[place] - weights.mean) / weights.std, -4, 4)
        x = deep = x0 = np.concatenate([numbers, genre, jazz, desk])
        for kernel, bias in weights.crosses:
            x = x0 * (x @ kernel + bias) + x
        for kernel, bias in weights.hidden:
            deep = np.maximum(deep @ kernel + bias, 0)
        both = np.concatenate([x, deep])
        expected.append(float(both @ weights.output_kernel[:, 0] + weights.output_bias[0]))
    engine = NumpyEngine(weights, InputAssembler(weights, table, BUILDER.item_slots))
    np.testing.assert_allclose(engine.score(rows), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_onnx_and_numpy_agree(tmp_path: Path, seed: int) -> None:
    write_files(tmp_path, BUILDER, random_weights(BUILDER, seed=seed, crosses=1 + seed))
    rows = some_rows()
    scores = {name: open_here(name, tmp_path).score(rows) for name in ("onnx", "numpy")}
    assert scores["onnx"].dtype == np.float32
    assert np.abs(scores["onnx"] - scores["numpy"]).max() < PARITY


def test_an_engine_that_nobody_made_is_unavailable(folder: Path) -> None:
    with pytest.raises(EngineUnavailable, match="'abacus'; there are onnx, numpy, savedmodel"):
        open_here("abacus", folder)


def test_onnx_runtime_reports_to_nobody_and_keeps_nothing(folder: Path, tmp_path: Path) -> None:
    home, tmp = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    tmp.mkdir()
    code = (
        "import sys; from pathlib import Path; from ranking_svc.engine import open_engine;"
        "from tests.ranking_svc.factory import random_builder; b = random_builder();"
        "open_engine('onnx', Path(sys.argv[1]), b.table, b.item_slots)"
    )
    environment = child_environment({"HOME": str(home), "TMPDIR": str(tmp)})
    for name in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"):
        environment.pop(name, None)
    subprocess.run([sys.executable, "-c", code, os.fspath(folder)], check=True, env=environment)
    assert [*home.rglob("*"), *tmp.rglob("*")] == []


# --- files ---


def test_saved_weights_are_read_back(tmp_path: Path) -> None:
    weights = random_weights(BUILDER)
    weights.save(tmp_path)
    loaded = DcnWeights.load(tmp_path)
    for name in (*PLAIN, "output_kernel", "output_bias"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(weights, name))
    for part in ("crosses", "hidden"):
        for mine, theirs in zip(getattr(loaded, part), getattr(weights, part), strict=True):
            np.testing.assert_array_equal(mine[0], theirs[0])
            np.testing.assert_array_equal(mine[1], theirs[1])


PLAIN = ["mean", "std", "item_tokens", "user_tokens", "context_tokens"]
FILES = sorted(
    [*PLAIN, "output_kernel", "output_bias"]
    + [
        f"{part}_{place}_{kind}"
        for part, layers in (("crosses", 2), ("hidden", 2))
        for place in range(layers)
        for kind in ("kernel", "bias")
    ]
)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_refused(folder: Path, name: str, value: float) -> None:
    path = folder / "weights" / f"{name}.npy"
    array = np.load(path)
    array.ravel()[0] = value
    np.save(path, array)
    with pytest.raises(ArtifactRefused, match="NaN or Inf"):
        open_here("numpy", folder)


@pytest.mark.parametrize("name", FILES)
def test_weights_that_do_not_fit_together_are_refused(folder: Path, name: str) -> None:
    path = folder / "weights" / f"{name}.npy"
    if name.endswith("_tokens"):
        np.save(path, np.load(path)[:, :-1])
    else:
        np.save(path, np.concatenate([np.load(path)] * 2))
    with pytest.raises(ArtifactCorrupt, match="weights"):
        open_here("numpy", folder)


def test_a_network_without_layers_is_refused(folder: Path) -> None:
    for path in (folder / "weights").glob("hidden_*"):
        path.unlink()
    with pytest.raises(ArtifactCorrupt, match="weights"):
        open_here("numpy", folder)


# --- trained ---

REQUESTS, SIZE = 240, 30


def random_groups(*, seed: int = 0) -> Groups:
    """Requests in which the candidates of a high first number and of rock are liked."""
    rng = np.random.default_rng(seed)
    numeric = rng.normal(size=(REQUESTS, SIZE, len(BUILDER.names))).astype(np.float32)
    items = rng.integers(len(KEYS), size=(REQUESTS, SIZE))
    tokens, weights = BUILDER.table.tokens[items], BUILDER.table.token_weights[items]
    liking = numeric[:, :, 0] + 1.5 * (tokens[:, :, 0] == 1)
    mass = np.ones((REQUESTS, SIZE), np.float32)
    mass[::3, -5:] = 0  # padding
    labels = ((liking > np.sort(liking, axis=1)[:, [-4]]) * mass).astype(np.float32)
    labels[:, 0] += ~labels.any(axis=1)
    users = BUILDER.user.encode(
        {"genre": rng.choice(["rock", "jazz", "folk"], REQUESTS).tolist()}, REQUESTS
    )
    contexts = BUILDER.context.encode(
        {"device": rng.choice(["phone", "desk"], REQUESTS).tolist()}, REQUESTS
    )
    return Groups(
        numeric=numeric * mass[..., None],
        item_tokens=tokens,
        item_weights=weights,
        user_tokens=users.tokens,
        user_weights=users.weights,
        context_tokens=contexts.tokens,
        context_weights=contexts.weights,
        labels=labels,
        mass=mass,
        user=np.arange(REQUESTS, dtype=np.int32),
    )


def train(groups: Groups, **changes: Any) -> tuple[Any, dict[str, float]]:
    from training.dcn import train_dcn

    options = {"cross_layers": 2, "hidden": (16, 8), "epochs": 6, "learning_rate": 0.01}
    return train_dcn(
        groups,
        RankingConfig(**options | changes),
        vocabularies=(
            BUILDER.item.vocabulary_size,
            BUILDER.user.vocabulary_size,
            BUILDER.context.vocabulary_size,
        ),
        item_slots=BUILDER.item_slots,
    )


def rows_of(groups: Groups, at: int) -> FeatureRows:
    """A request of the groups as serving would build it, on random items."""
    nothing = np.zeros((1, 0), np.float32)
    return FeatureRows(
        numeric=groups.numeric[at],
        items=np.random.default_rng(at).integers(len(KEYS) + 1, size=SIZE),
        user=Encoded(
            tokens=groups.user_tokens[[at]], weights=groups.user_weights[[at]], numeric=nothing
        ),
        context=Encoded(
            tokens=groups.context_tokens[[at]],
            weights=groups.context_weights[[at]],
            numeric=nothing,
        ),
        unknown=0,
    )


def export(model: Any, folder: Path) -> list[FeatureRows]:
    """Write every engine's files; some rows to compare them on."""
    from ranking_svc.engine import saved_model_inputs

    samples = [rows_of(random_groups(), at) for at in range(4)]
    write_files(folder, BUILDER, model.weights())
    model.save(folder / "saved_model", saved_model_inputs(samples[0], BUILDER.table))
    return samples


@pytest.fixture(scope="module", params=[0, 3], ids=["full rank", "low rank"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[FeatureRows]]:
    folder = tmp_path_factory.mktemp("exported")
    model, _ = train(random_groups(), projection_dim=request.param)
    return folder, export(model, folder)


@pytest.mark.slow
def test_every_engine_of_a_trained_network_gives_the_same_scores_and_the_same_best_20(
    exported: tuple[Path, list[FeatureRows]],
) -> None:
    folder, samples = exported
    engines = {name: open_here(name, folder) for name in ENGINES}
    for rows in samples:
        scores = {name: engine.score(rows) for name, engine in engines.items()}
        truth = scores["savedmodel"]
        assert truth.std() > 0.1
        for mine in scores.values():
            assert np.abs(mine - truth).max() <= PARITY
            # The same best 20; only what truly scores alike may stand in another order.
            best, expected = np.argsort(-mine)[:20], np.argsort(-truth)[:20]
            np.testing.assert_allclose(truth[best], truth[expected], atol=2 * PARITY)


@pytest.mark.slow
def test_the_parity_gate_lets_equal_engines_pass(exported: tuple[Path, list[FeatureRows]]) -> None:
    from training.ranking import check_parity

    folder, samples = exported
    worst = check_parity(folder, BUILDER, samples)
    assert set(worst) == set(ENGINES)
    assert max(worst.values()) <= PARITY


def alter_weights(folder: Path) -> None:
    path = folder / "weights" / "hidden_0_bias.npy"
    np.save(path, np.load(path) + np.float32(0.05))


def alter_onnx(folder: Path) -> None:
    from training.onnx_export import write_onnx

    weights = DcnWeights.load(folder / "weights")
    (kernel, bias), *others = weights.crosses
    write_onnx(replace(weights, crosses=((kernel.T, bias), *others)), folder / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "alter"), [("numpy", alter_weights), ("onnx", alter_onnx)])
def test_the_parity_gate_refuses_an_engine_that_differs(
    exported: tuple[Path, list[FeatureRows]],
    tmp_path: Path,
    engine: str,
    alter: Callable[[Path], None],
) -> None:
    import shutil

    from training.ranking import check_parity

    folder, samples = exported
    shutil.copytree(folder, tmp_path / "altered")
    alter(tmp_path / "altered")
    with pytest.raises(ArtifactRefused, match=r"engine (onnx|numpy) differs from the model"):
        check_parity(tmp_path / "altered", BUILDER, samples)


@pytest.mark.slow
def test_it_learns_what_is_liked() -> None:
    from training.metrics import auc

    model, metrics = train(random_groups())
    weights = model.weights()
    engine = NumpyEngine(weights, InputAssembler(weights, BUILDER.table, BUILDER.item_slots))
    unseen = random_groups(seed=1)
    scores = []
    for at in range(REQUESTS):
        rows = rows_of(unseen, at)
        rows.numeric[:, 1:] = 0
        scores.append(engine.score(rows))
    first_number = unseen.numeric[:, :, 0]
    assert auc(np.concatenate(scores), (first_number > 1).ravel()) > 0.8
    assert np.isfinite(metrics["held_out_loss"])


@pytest.mark.slow
def test_the_seed_decides_the_network() -> None:
    first, same = (train(random_groups(), epochs=1)[0].weights() for _ in range(2))
    for mine, theirs in zip(first.hidden, same.hidden, strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])


@pytest.mark.slow
def test_groups_without_a_liked_candidate_are_refused() -> None:
    groups = random_groups()
    with pytest.raises(ArtifactRefused, match="none of the items"):
        train(replace(groups, labels=np.zeros_like(groups.labels)))


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    groups = random_groups()
    groups.numeric[5, 2, 7] = value
    with np.errstate(invalid="ignore"), pytest.raises(ArtifactRefused, match=r"NaN|diverged"):
        train(groups)


@pytest.mark.slow
def test_requests_of_a_single_user_can_be_learned_from() -> None:
    groups = random_groups()
    _, metrics = train(replace(groups, user=np.zeros(REQUESTS, np.int32)), epochs=1)
    assert np.isfinite(metrics["held_out_loss"])


@pytest.mark.slow
def test_data_without_any_features_can_be_learned_from(tmp_path: Path) -> None:
    from training.dcn import train_dcn

    groups = random_groups()
    empty = {
        name: getattr(groups, name)[..., :0]
        for side in ("item", "user", "context")
        for name in (f"{side}_tokens", f"{side}_weights")
    }
    model, _ = train_dcn(
        replace(groups, **empty),
        RankingConfig(epochs=1, hidden=(8,)),
        vocabularies=(NOTHING.vocabulary_size,) * 3,
        item_slots=(),
    )
    weights = model.weights()
    weights.check()
    assert weights.crosses[0][0].shape[0] == len(BUILDER.names)
