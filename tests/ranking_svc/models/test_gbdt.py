from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ranking_svc.models.gbdt import NumpyTrees, Trees, open_gbdt
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from tests.ranking_svc.factory import HEADS, random_trees, write_forest

COLUMNS = 9

Floats = npt.NDArray[np.float32]


def some_numbers(rows: int = 50, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(rows, COLUMNS)).astype(np.float32)


def walked(trees: Trees, row: Floats) -> Floats:
    """One row down every tree, step by step."""
    total = trees.base.astype(np.float64)
    for root, head in zip(trees.root, trees.head, strict=True):
        node = int(root)
        while trees.feature[node] >= 0:
            left = row[trees.feature[node]] <= trees.threshold[node]
            node = int(trees.left[node] if left else trees.right[node])
        total[head] += trees.value[node]
    return total.astype(np.float32)


def test_every_row_goes_down_every_tree() -> None:
    trees, numbers = random_trees(COLUMNS), some_numbers()
    expected = [walked(trees, row) for row in numbers]
    np.testing.assert_allclose(NumpyTrees(trees).run(numbers), expected, rtol=1e-5)


@pytest.mark.parametrize("depth", [0, 1, 4])
@pytest.mark.parametrize("seed", range(2))
def test_onnx_and_numpy_agree(tmp_path: Path, depth: int, seed: int) -> None:
    write_forest(tmp_path, random_trees(COLUMNS, depth=depth, seed=seed), COLUMNS)
    numbers = some_numbers(seed=seed)
    onnx, plain = (
        open_gbdt("gbdt", tmp_path, COLUMNS, engine).engine.run(numbers)
        for engine in ("onnx", "numpy")
    )
    assert onnx.dtype == plain.dtype == np.float32
    np.testing.assert_allclose(onnx, plain, atol=1e-5)


def test_a_number_on_the_threshold_goes_left_in_every_engine(tmp_path: Path) -> None:
    trees = random_trees(COLUMNS)
    write_forest(tmp_path, trees, COLUMNS)
    numbers = np.zeros((3, COLUMNS), np.float32)
    numbers[1:] = trees.threshold[0]
    numbers[2] = np.nextafter(trees.threshold[0], np.float32(np.inf))
    for engine in ("onnx", "numpy"):
        scores = open_gbdt("gbdt", tmp_path, COLUMNS, engine).engine.run(numbers)
        np.testing.assert_allclose(scores, [walked(trees, row) for row in numbers], atol=1e-5)


def test_no_rows_have_no_scores() -> None:
    assert NumpyTrees(random_trees(COLUMNS)).run(some_numbers(0)).shape == (0, len(HEADS))


def test_saved_trees_are_read_back(tmp_path: Path) -> None:
    trees = random_trees(COLUMNS)
    trees.save(tmp_path)
    loaded = Trees.load(tmp_path)
    for name in Trees.__slots__:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(trees, name))


# --- what is refused ---


@pytest.mark.parametrize("name", ["threshold", "value", "base"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_trees_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    write_forest(tmp_path, random_trees(COLUMNS), COLUMNS)
    path = tmp_path / "trees" / f"{name}.npy"
    array = np.load(path)
    array[0] = value
    np.save(path, array)
    with pytest.raises(ArtifactRefused, match="NaN or Inf"):
        open_gbdt("gbdt", tmp_path, COLUMNS, "numpy")


def shortened(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array[:-1]


def pointing_up(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A circle: following it would never end."""
    return np.where(np.arange(len(array)) == 1, 0, array)


def pointing_out(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.where(np.arange(len(array)) == 1, 10**6, array)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("feature", shortened),
        ("left", pointing_up),
        ("right", pointing_up),
        ("left", pointing_out),
        ("root", pointing_out),
        ("head", pointing_out),
        ("head", shortened),
    ],
)
def test_nodes_that_make_no_trees_are_refused(name: str, change: Any) -> None:
    trees = random_trees(COLUMNS)
    with pytest.raises(ArtifactCorrupt, match="do not make trees"):
        replace(trees, **{name: change(getattr(trees, name))}).check()


def test_trees_that_ask_for_columns_beyond_the_features_are_refused(tmp_path: Path) -> None:
    write_forest(tmp_path, random_trees(COLUMNS), COLUMNS)
    with pytest.raises(ArtifactCorrupt, match="of 2 is asked for"):
        open_gbdt("gbdt", tmp_path, 2, "numpy")


def test_trees_without_a_name_for_each_head_are_refused(tmp_path: Path) -> None:
    write_forest(tmp_path, random_trees(COLUMNS), COLUMNS)
    (tmp_path / "trees.json").write_text('{"heads": ["click"]}')
    with pytest.raises(ArtifactCorrupt, match="2 heads have the names"):
        open_gbdt("gbdt", tmp_path, COLUMNS, "numpy")
