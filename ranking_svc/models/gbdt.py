"""Gradient-boosted regression trees, run without the library that trained them.

Serving reads a flat table of nodes (numpy, the reference) or an ONNX graph written from it. Trees
take the numeric features as they are. A row goes left where `x <= threshold`; thresholds are the
trained ones rounded down to float32, which decides alike for every float32 row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ranking_svc.features import FeatureRows
from ranking_svc.models.arrays import load_array, load_json
from ranking_svc.models.base import Outputs
from ranking_svc.models.onnx_session import OnnxSession
from shortlist.errors import ArtifactCorrupt, ArtifactRefused

__all__ = ["GbdtModel", "NumpyTrees", "Trees", "open_gbdt"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

ONNX_FILE, TREES_FOLDER = "model.onnx", "trees"
_DESCRIPTION = "trees.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """N nodes of T trees; a child's number is larger than its parent's."""

    feature: Ints  # int32 [N], column of the feature matrix; -1 = a leaf
    threshold: Floats  # float32 [N], 0 of a leaf
    left: Ints  # int32 [N], where x <= threshold; a leaf's own number
    right: Ints  # int32 [N]
    value: Floats  # float32 [N], 0 of a node that is no leaf
    root: Ints  # int32 [T], ascending
    head: Ints  # int32 [T], the head that the tree adds to
    base: Floats  # float32 [H], every row's log odds before the first tree

    def save(self, folder: Path) -> None:
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    @staticmethod
    def load(folder: Path) -> Trees:
        """Raises `ArtifactCorrupt` or `ArtifactRefused`."""
        trees = Trees(
            **{field.name: load_array(folder / f"{field.name}.npy") for field in fields(Trees)}
        )
        trees.check()
        return trees

    def check(self) -> None:
        """Refuse nodes that do not make trees, and numbers that are not finite."""
        if not self._fits():
            raise ArtifactCorrupt("trees: the ranker's nodes do not make trees")
        if not all(np.isfinite(one).all() for one in (self.threshold, self.value, self.base)):
            raise ArtifactRefused("the ranker's trees hold NaN or Inf")

    def _fits(self) -> bool:
        columns = (self.feature, self.threshold, self.left, self.right, self.value)
        if any(column.shape != self.feature.shape or column.ndim != 1 for column in columns):
            return False
        if self.root.shape != self.head.shape or self.root.ndim != 1 or self.base.ndim != 1:
            return False
        if any(one.dtype.kind != "i" for one in (self.feature, self.left, self.right, self.root)):
            return False
        numbers = np.arange(len(self.feature))
        leaf = self.feature < 0
        ends = (self.left == numbers) & (self.right == numbers)
        onward = (self.left > numbers) & (self.right > numbers)
        inside = (self.left < len(numbers)) & (self.right < len(numbers))
        return bool(
            np.where(leaf, ends, onward & inside).all()
            and ((self.root >= 0) & (self.root < len(numbers))).all()
            and ((self.head >= 0) & (self.head < len(self.base))).all()
        )


class TreeEngine(Protocol):
    """Runs the trees."""

    def run(self, numeric: Floats) -> Floats:
        """float32 [n, H]"""
        ...


class NumpyTrees:
    """The reference: all rows go down all trees together."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._heads = np.eye(len(trees.base))[trees.head].reshape(len(trees.root), -1)  # [T, H]

    def run(self, numeric: Floats) -> Floats:
        trees, rows = self._trees, np.arange(len(numeric))[:, None]
        nodes = np.broadcast_to(trees.root, (len(numeric), len(trees.root)))
        while (trees.feature[nodes] >= 0).any():
            goes_left = numeric[rows, trees.feature[nodes]] <= trees.threshold[nodes]
            nodes = np.where(goes_left, trees.left[nodes], trees.right[nodes])
        return (trees.value[nodes] @ self._heads + trees.base).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class GbdtModel:
    """Trees behind `ranking_svc.models.base.Model`."""

    name: str
    heads: tuple[str, ...]
    engine: TreeEngine

    def score(self, rows: FeatureRows) -> Outputs:
        return Outputs(logits=self.engine.run(rows.numeric))

    def refresh(self, items: npt.NDArray[np.int64]) -> None: ...  # trees keep nothing of items


def save_heads(folder: Path, heads: tuple[str, ...]) -> None:
    """Write what the columns of the outputs are."""
    (folder / _DESCRIPTION).write_text(json.dumps({"heads": list(heads)}), "utf-8")


def open_gbdt(name: str, folder: Path, columns: int, engine: str) -> GbdtModel:
    """The trees in `folder` as model `name`; `columns` is the width of the feature matrix.

    Raises `ArtifactCorrupt`, `ArtifactRefused` or `EngineUnavailable`.
    """
    trees = Trees.load(folder / TREES_FOLDER)
    heads = load_json(folder / _DESCRIPTION).get("heads")
    if not isinstance(heads, list) or len(heads) != len(trees.base):
        raise ArtifactCorrupt(f"{_DESCRIPTION}: {len(trees.base)} heads have the names {heads}")
    if len(trees.feature) and trees.feature.max() >= columns:
        raise ArtifactCorrupt(f"trees: column {trees.feature.max()} of {columns} is asked for")
    runs = OnnxSession(folder / ONNX_FILE) if engine == "onnx" else NumpyTrees(trees)
    return GbdtModel(name=name, heads=tuple(map(str, heads)), engine=runs)
