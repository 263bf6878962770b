"""What the peers' stages compute, whatever carries it from one to the next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.serving.bound import open_index
from benchmarks.serving.rankers import load_weights
from shortlist.artifacts import ArtifactStore

__all__ = ["PAGE", "Scorer", "Searcher", "open_scorer"]

Floats = npt.NDArray[np.float32]
Scorer = Callable[[npt.NDArray[Any]], Floats]

PAGE = 20
_WARM_ROWS = 1000
_CHECKED_ROWS = 200


class Searcher:
    """The same index with the same settings as ours, hence equal recall; users are looked up."""

    def __init__(self, workdir: Path) -> None:
        _, self._index = open_index(workdir)
        self._vectors = np.load(workdir / "peers" / "users.npy", mmap_mode="r")
        self._k = json.loads((workdir / "world.json").read_text("utf-8"))["candidates"]

    def __call__(self, user: str) -> tuple[npt.NDArray[np.int64], Floats]:
        """Rows of the best items, and their scores."""
        number = int(user.removeprefix("user-"))
        return self._index.search(np.asarray(self._vectors[number]), self._k)


def open_scorer(workdir: Path, form: str, engine: str) -> Scorer:
    """Scores rows of items with our weights in TensorFlow, on one thread.

    Raises `ModelDiffers` unless its scores are ours.
    """
    import tensorflow as tf

    from benchmarks.serving.peers.model import Inputs, check_parity, eager_model, saved_model
    from benchmarks.serving.peers.preparing import item_slots

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    artifact = ArtifactStore(workdir / "artifacts").open("ranking", form).path
    inputs = Inputs.open(workdir / "peers", artifact)
    weights, slots = load_weights(artifact), item_slots(artifact)
    if engine == "savedmodel":
        score = saved_model(workdir / "peers" / form)
    else:
        score = eager_model(weights, slots, inputs.of(np.arange(2)))
    checked = inputs.of(np.arange(_CHECKED_ROWS))
    check_parity(score(checked), weights, slots, checked)
    score(inputs.of(np.arange(_WARM_ROWS)))
    return lambda rows: score(inputs.of(rows))
