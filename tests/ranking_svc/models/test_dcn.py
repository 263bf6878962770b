from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ranking_svc.features import FeatureRows
from ranking_svc.models.dcn import (
    PARITY,
    DcnWeights,
    InputAssembler,
    NumpyEngine,
    open_dcn,
)
from ranking_svc.models.onnx_session import EngineUnavailable
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from shortlist.launch import child_environment
from tests.contracts.ranker import candidates_of
from tests.ranking_svc.factory import (
    HEADS,
    KEYS,
    random_builder,
    random_weights,
    write_network,
)
from tests.ranking_svc.tables import STRANGER, user_with

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
    write_network(tmp_path / "dcn", random_weights(BUILDER))
    return tmp_path / "dcn"


def open_here(name: str, folder: Path) -> Any:
    return open_dcn("dcn", folder, BUILDER, name).engine


# --- the network ---


SHAPES = {
    "parallel": {"structure": "parallel"},
    "stacked": {"structure": "stacked"},
    "parallel, low rank": {"structure": "parallel", "rank": 3},
    "stacked, low rank": {"structure": "stacked", "rank": 3},
    "stacked, crosses only": {"structure": "stacked", "hidden": ()},
    "parallel, crosses only": {"structure": "parallel", "hidden": ()},
    "deep only": {"structure": "parallel", "crosses": 0},
    "linear": {"hidden": (), "crosses": 0},
    "one head without values": {"heads": ("like",), "has_value": False},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def x0_of(weights: DcnWeights, rows: FeatureRows, place: int) -> npt.NDArray[np.float32]:
    table, (slots,), item = BUILDER.table, BUILDER.item_slots, rows.items[place]
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
    return np.concatenate([numbers, genre, jazz, desk])


@shapes
def test_the_network_worked_out_row_by_row(shape: dict[str, Any]) -> None:
    weights, rows = random_weights(BUILDER, **shape), some_rows()
    expected = []
    for place in range(len(rows.items)):
        x = x0 = x0_of(weights, rows, place)
        for cross in weights.crosses:
            kernel = np.linalg.multi_dot([np.eye(len(x)), *cross.kernels])
            x = x0 * (x @ kernel + cross.bias) + x
        deep = x if weights.structure == "stacked" else x0
        for kernel, bias in weights.hidden:
            deep = np.maximum(deep @ kernel + bias, 0)
        if weights.hidden:
            x = deep if weights.structure == "stacked" else np.concatenate([x, deep])
        expected.append(x @ weights.output_kernel + weights.output_bias)
    engine = NumpyEngine(weights, InputAssembler(weights, BUILDER.table, BUILDER.item_slots))
    np.testing.assert_allclose(engine.run(rows), expected, rtol=1e-3, atol=1e-4)


@shapes
@pytest.mark.parametrize("seed", range(2))
def test_onnx_and_numpy_agree(tmp_path: Path, shape: dict[str, Any], seed: int) -> None:
    write_network(tmp_path / "dcn", random_weights(BUILDER, seed=seed, **shape))
    rows = some_rows()
    outputs = {name: open_here(name, tmp_path / "dcn").run(rows) for name in ("onnx", "numpy")}
    assert outputs["onnx"].dtype == np.float32
    assert np.abs(outputs["onnx"] - outputs["numpy"]).max() < PARITY


def test_its_outputs_are_a_column_a_head_and_the_value(folder: Path) -> None:
    rows = some_rows()
    model = open_dcn("dcn", folder, BUILDER, "numpy")
    outputs = model.score(rows)
    assert model.heads == HEADS
    assert outputs.logits.shape == (len(rows.items), len(HEADS))
    np.testing.assert_array_equal(outputs.columns, model.engine.run(rows))
    assert outputs.values is not None


def test_an_engine_that_nobody_made_is_unavailable(folder: Path) -> None:
    with pytest.raises(EngineUnavailable, match="'abacus'; there are onnx, numpy, savedmodel"):
        open_here("abacus", folder)


def test_onnx_runtime_reports_to_nobody_and_keeps_nothing(folder: Path, tmp_path: Path) -> None:
    home, tmp = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    tmp.mkdir()
    code = (
        "import sys; from pathlib import Path; from ranking_svc.models.dcn import open_dcn;"
        "from tests.ranking_svc.factory import random_builder;"
        "open_dcn('dcn', Path(sys.argv[1]), random_builder(), 'onnx')"
    )
    environment = child_environment({"HOME": str(home), "TMPDIR": str(tmp)})
    for name in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"):
        environment.pop(name, None)
    subprocess.run([sys.executable, "-c", code, os.fspath(folder)], check=True, env=environment)
    assert [*home.rglob("*"), *tmp.rglob("*")] == []


# --- files ---


@shapes
def test_saved_weights_are_read_back(tmp_path: Path, shape: dict[str, Any]) -> None:
    weights = random_weights(BUILDER, **shape)
    weights.save(tmp_path)
    loaded = DcnWeights.load(tmp_path)
    assert (loaded.structure, loaded.heads) == (weights.structure, weights.heads)
    engines = [
        NumpyEngine(one, InputAssembler(one, BUILDER.table, BUILDER.item_slots))
        for one in (weights, loaded)
    ]
    first, second = (engine.run(some_rows()) for engine in engines)
    np.testing.assert_array_equal(first, second)


PLAIN = ["mean", "std", "item_tokens", "user_tokens", "context_tokens"]
FILES = sorted(
    [*PLAIN, "output_kernel", "output_bias", "cross_0_kernel_0", "cross_0_kernel_1"]
    + [f"cross_{place}_bias" for place in range(2)]
    + [f"hidden_{place}_{kind}" for place in range(2) for kind in ("kernel", "bias")]
)


@pytest.fixture
def thin(tmp_path: Path) -> Path:
    """A low-rank network: it has every kind of file."""
    write_network(tmp_path / "thin", random_weights(BUILDER, rank=3))
    return tmp_path / "thin"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_refused(thin: Path, name: str, value: float) -> None:
    path = thin / "weights" / f"{name}.npy"
    array = np.load(path)
    array.ravel()[0] = value
    np.save(path, array)
    with pytest.raises(ArtifactRefused, match="NaN or Inf"):
        open_here("numpy", thin)


@pytest.mark.parametrize("name", FILES)
def test_weights_that_do_not_fit_together_are_refused(thin: Path, name: str) -> None:
    path = thin / "weights" / f"{name}.npy"
    if name.endswith("_tokens"):
        np.save(path, np.load(path)[:, :-1])
    else:
        np.save(path, np.concatenate([np.load(path)] * 2))
    with pytest.raises(ArtifactCorrupt, match="weights"):
        open_here("numpy", thin)


def test_a_network_whose_description_does_not_fit_its_files_is_refused(folder: Path) -> None:
    path = folder / "weights" / "network.json"
    whole = json.loads(path.read_text())
    for change in (
        {"structure": "round"},
        {"heads": []},
        {"heads": ["click"] * 4},
        {"hidden": 0},
        {"hidden": 3},
        {"cross_kernels": [1, 2]},
        {"cross_kernels": [0, 1]},
        {"cross_kernels": "many"},
    ):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(ArtifactCorrupt):
            open_here("numpy", folder)
