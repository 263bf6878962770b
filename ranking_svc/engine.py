"""Engines that run one trained DCN-V2: numpy (the reference), ONNX Runtime, TensorFlow SavedModel.

    x0     = [standardised numbers | item embedding | user embedding | context embedding]
    x_l+1  = x0 * (x_l W_l + b_l) + x_l                                       (cross layers)
    h_l+1  = relu(h_l H_l + c_l),  h_0 = x0                                   (deep layers)
    score  = [x_last | h_last] w + c

DCN-V2 with cross and deep parts side by side: Wang et al., "DCN V2", WWW 2021. The linear way
through the crosses learns from little data what the stacked form does not. The SavedModel is
canonical and starts from token ids; the other engines start from the item embeddings that were
precomputed with it. Publishing refuses engines that differ from it by more than `PARITY`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ranking_svc.features import FeatureRows, ItemTable
from shortlist.errors import ArtifactCorrupt, ArtifactRefused, ShortlistError
from shortlist.features import Encoded

__all__ = [
    "ENGINES",
    "PARITY",
    "DcnWeights",
    "Engine",
    "EngineUnavailable",
    "InputAssembler",
    "NumpyEngine",
    "OnnxEngine",
    "SavedModelEngine",
    "open_engine",
]

Floats = npt.NDArray[np.float32]

PARITY = 1e-4  # largest difference of a score between engines
ENGINES = ("onnx", "numpy", "savedmodel")
NUMBER_CLIP = 4.0  # standard deviations
ONNX_FILE, SAVED_MODEL_FOLDER, WEIGHTS_FOLDER = "model.onnx", "saved_model", "weights"


class EngineUnavailable(ShortlistError):
    """The engine's library is not installed."""

    status_name = "FAILED_PRECONDITION"


class Engine(Protocol):
    """Scores feature rows."""

    name: str

    def score(self, rows: FeatureRows) -> Floats:
        """float32 [n], higher is better."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DcnWeights:
    """Arrays of the network; D = width of x0, F = numeric columns, t = token dimension."""

    mean: Floats  # [F]
    std: Floats  # [F], positive
    item_tokens: Floats  # [item vocabulary, t]
    user_tokens: Floats  # [user vocabulary, t]
    context_tokens: Floats  # [context vocabulary, t]
    crosses: tuple[tuple[Floats, Floats], ...]  # (W [D, D], b [D]) by layer
    hidden: tuple[tuple[Floats, Floats], ...]  # (H [in, out], c [out]) by layer
    output_kernel: Floats  # w [D + last out, 1]
    output_bias: Floats  # c [1]

    def save(self, folder: Path) -> None:
        for name in _PLAIN:
            np.save(folder / f"{name}.npy", getattr(self, name))
        for part in ("crosses", "hidden"):
            for place, (kernel, bias) in enumerate(getattr(self, part)):
                np.save(folder / f"{part}_{place}_kernel.npy", kernel)
                np.save(folder / f"{part}_{place}_bias.npy", bias)

    @staticmethod
    def load(folder: Path) -> DcnWeights:
        """Raises `ArtifactCorrupt` or `ArtifactRefused`."""
        weights = DcnWeights(
            **{name: _load(folder / f"{name}.npy") for name in _PLAIN},
            crosses=_load_layers(folder, "crosses"),
            hidden=_load_layers(folder, "hidden"),
        )
        weights.check()
        return weights

    @property
    def width(self) -> int:
        """D, the width of x0."""
        deep = len(self.hidden[-1][1]) if self.hidden else 0
        return len(self.output_kernel) - deep

    def check(self) -> None:
        """Refuse layers that do not fit together and numbers that are not finite."""
        if not self._fits():
            raise ArtifactCorrupt("weights: the ranker's layers do not fit together")
        arrays = [getattr(self, name) for name in _PLAIN]
        arrays += [array for layer in (*self.crosses, *self.hidden) for array in layer]
        if not all(np.isfinite(array).all() for array in arrays):
            raise ArtifactRefused("the ranker's weights hold NaN or Inf")

    def _fits(self) -> bool:
        ins = [self.width, *(len(bias) for _, bias in self.hidden)]
        return (
            len(self.hidden) > 0
            and self.mean.shape == self.std.shape
            and self.output_kernel.shape == (self.width + ins[-1], 1)
            and self.output_bias.shape == (1,)
            and all(kernel.shape == (self.width, self.width) for kernel, _ in self.crosses)
            and all(bias.shape == (self.width,) for _, bias in self.crosses)
            and all(
                kernel.shape == (before, len(bias))
                for before, (kernel, bias) in zip(ins, self.hidden, strict=False)
            )
        )


_PLAIN = (
    "mean",
    "std",
    "item_tokens",
    "user_tokens",
    "context_tokens",
    "output_kernel",
    "output_bias",
)


class InputAssembler:
    """Makes x0 of feature rows; the item part is precomputed once an item."""

    def __init__(
        self, weights: DcnWeights, table: ItemTable, slots: Sequence[tuple[int, int]]
    ) -> None:
        self._weights = weights
        self._items = np.concatenate(
            [
                pool_tokens(weights.item_tokens, table.tokens[:, a:b], table.token_weights[:, a:b])
                for a, b in slots
            ]
            or [np.zeros((len(table.tokens), 0), np.float32)],
            axis=1,
        )  # float32 [items + 1, features * t]
        sides = (weights.user_tokens, weights.context_tokens)
        width = len(weights.mean) + self._items.shape[1]
        width += sum(table.shape[1] for table in sides if len(table) > 1)
        if width != weights.width:
            raise ArtifactCorrupt(f"weights: inputs are {width} wide, not {weights.width}")

    def assemble(self, rows: FeatureRows) -> Floats:
        """x0, float32 [n, D]."""
        weights = self._weights
        standard = (rows.numeric - weights.mean) / weights.std
        about_user = pool_row(weights.user_tokens, rows.user)
        about_context = pool_row(weights.context_tokens, rows.context)
        shared = np.concatenate([about_user, about_context])
        return np.concatenate(
            [
                np.clip(standard, -NUMBER_CLIP, NUMBER_CLIP),
                self._items[rows.items],
                np.broadcast_to(shared, (len(rows.items), len(shared))),
            ],
            axis=1,
            dtype=np.float32,
        )


def pool_tokens(table: Floats, tokens: npt.NDArray[np.int32], weights: Floats) -> Floats:
    """Weighted sum of token embeddings over slots, [n, t]."""
    return np.einsum("nst,ns->nt", table[tokens], weights)


def pool_row(table: Floats, encoded: Encoded) -> Floats:
    """The pooled embedding of a side of one row, [t]; empty when the side has no tokens."""
    if len(table) <= 1:
        return np.zeros(0, np.float32)
    return encoded.weights[0] @ table[encoded.tokens[0]]


class NumpyEngine:
    """The reference: a few matrix products."""

    name = "numpy"

    def __init__(self, weights: DcnWeights, assembler: InputAssembler) -> None:
        self._weights, self._assembler = weights, assembler

    def score(self, rows: FeatureRows) -> Floats:
        weights = self._weights
        x0 = self._assembler.assemble(rows)
        x = deep = x0
        for kernel, bias in weights.crosses:
            x = x0 * (x @ kernel + bias) + x
        for kernel, bias in weights.hidden:
            deep = np.maximum(deep @ kernel + bias, 0)
        scores = np.concatenate([x, deep], axis=1) @ weights.output_kernel + weights.output_bias
        return scores[:, 0]


class OnnxEngine:
    """ONNX Runtime on one thread."""

    name = "onnx"

    def __init__(self, path: Path, assembler: InputAssembler) -> None:
        # Read at import. Without it ONNX Runtime keeps an id of the machine in the home folder and
        # reports to its maker.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineUnavailable(
                "the onnx engine needs onnxruntime: pip install 'shortlist[ranking]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._assembler = assembler
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own errors have no other root
            raise ArtifactCorrupt(f"{path.name} is no network: {error}") from error

    def score(self, rows: FeatureRows) -> Floats:
        (scores,) = self._session.run(None, {"x0": self._assembler.assemble(rows)})
        return scores[:, 0]


class SavedModelEngine:
    """The canonical model in TensorFlow; slow to start, for comparison and for odd platforms."""

    name = "savedmodel"

    def __init__(self, folder: Path, table: ItemTable) -> None:
        try:
            import tensorflow as tf
        except ImportError as error:
            raise EngineUnavailable(
                "the savedmodel engine needs TensorFlow: pip install 'shortlist[train]'"
            ) from error
        self._tensor = tf.constant
        self._model = tf.saved_model.load(str(folder))
        self._table = table

    def score(self, rows: FeatureRows) -> Floats:
        inputs = saved_model_inputs(rows, self._table)
        signature = self._model.signatures["serving_default"]
        answer = signature(**{name: self._tensor(value) for name, value in inputs.items()})
        return answer["score"].numpy()


def saved_model_inputs(rows: FeatureRows, table: ItemTable) -> dict[str, npt.NDArray[Any]]:
    """Inputs of the SavedModel's signature for one user's candidates."""
    n = len(rows.items)
    return {
        "numeric": rows.numeric,
        "item_tokens": table.tokens[rows.items],
        "item_weights": table.token_weights[rows.items],
        "user_tokens": np.repeat(rows.user.tokens, n, axis=0),
        "user_weights": np.repeat(rows.user.weights, n, axis=0),
        "context_tokens": np.repeat(rows.context.tokens, n, axis=0),
        "context_weights": np.repeat(rows.context.weights, n, axis=0),
    }


def open_engine(
    name: str, folder: Path, table: ItemTable, slots: Sequence[tuple[int, int]]
) -> Engine:
    """The engine `name` of the artifact in `folder`."""
    if name == "savedmodel":
        return SavedModelEngine(folder / SAVED_MODEL_FOLDER, table)
    weights = DcnWeights.load(folder / WEIGHTS_FOLDER)
    assembler = InputAssembler(weights, table, slots)
    if name == "onnx":
        return OnnxEngine(folder / ONNX_FILE, assembler)
    if name == "numpy":
        return NumpyEngine(weights, assembler)
    raise EngineUnavailable(f"no engine {name!r}; there are {', '.join(ENGINES)}")


def _load(path: Path) -> npt.NDArray[Any]:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"weights/{path.name} is unreadable: {error}") from error


def _load_layers(folder: Path, part: str) -> tuple[tuple[Floats, Floats], ...]:
    count = len(list(folder.glob(f"{part}_*_kernel.npy")))
    return tuple(
        (
            _load(folder / f"{part}_{place}_kernel.npy"),
            _load(folder / f"{part}_{place}_bias.npy"),
        )
        for place in range(count)
    )
