"""Engines that run the same boosted trees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from ranking_svc.models.gbdt import NumpyTrees
from ranking_svc.models.onnx_session import OnnxSession
from training.gbdt import BoostedTrees
from training.onnx_export import write_trees

__all__ = ["TREES", "forest"]

Floats = npt.NDArray[np.float32]
Scorer = Callable[[Floats], Floats]

_TREES, _LEAVES = 300, 63
_COLUMNS = 83  # features of a candidate, as in benchmarks.serving's world
_LESSONS = 20_000  # rows


def forest(rows: int) -> tuple[BoostedTrees, Floats]:
    """Trees, and float32 [rows, columns] to score."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((_LESSONS + rows, _COLUMNS), np.float32)
    lessons = features[:_LESSONS]
    answers = lessons @ rng.standard_normal(_COLUMNS) + rng.standard_normal(_LESSONS)
    options = {
        "objective": "regression",
        "num_leaves": _LEAVES,
        "num_threads": 1,
        "verbose": -1,
        "deterministic": True,
        "force_row_wise": True,
        "seed": 0,
    }
    booster = lgb.train(options, lgb.Dataset(lessons, answers), num_boost_round=_TREES)
    return BoostedTrees(boosters=(booster,), base=np.zeros(1, np.float32)), features[_LESSONS:]


def lightgbm(grown: BoostedTrees, _: Path) -> Scorer:
    """The library that grew them."""
    return grown.predict


def ours_numpy(grown: BoostedTrees, _: Path) -> Scorer:
    return NumpyTrees(grown.trees()).run


def ours_onnx(grown: BoostedTrees, folder: Path) -> Scorer:
    write_trees(grown.trees(), _COLUMNS, folder / "trees.onnx")
    return OnnxSession(folder / "trees.onnx").run


TREES: dict[str, Callable[[BoostedTrees, Path], Scorer]] = {
    "trees: ours, ONNX Runtime": ours_onnx,
    "trees: ours, numpy": ours_numpy,
    "trees: LightGBM": lightgbm,
}
