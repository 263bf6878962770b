"""DCN-V2 and the engines that run it: numpy (the reference), ONNX Runtime, TensorFlow SavedModel.

    x0     = [standardised numbers | item embedding | user embedding | context embedding]
    x_l+1  = x0 * (x_l W_l + b_l) + x_l                                       (cross layers)
    h_l+1  = relu(h_l H_l + c_l)                                              (deep layers)

    parallel: h_0 = x0,     outputs = [x_last | h_last] w + c
    stacked:  h_0 = x_last, outputs = h_last w + c

Wang et al., "DCN V2", WWW 2021. W is a full matrix, or low rank: a product of two thin ones, which
stay apart since that is less work. Without crosses and deep layers this is logistic regression,
which serves as the model `linear`. Outputs are log odds by head, and the event's value where the
data has one.

The SavedModel is canonical and starts from token ids; the other engines start from the item
embeddings that were precomputed with it. Publishing refuses engines that differ from it by more
than `PARITY`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from ranking_svc.features import FeatureBuilder, FeatureRows, ItemTable
from ranking_svc.models.arrays import load_array, load_json
from ranking_svc.models.base import Outputs
from ranking_svc.models.onnx_session import EngineUnavailable, OnnxSession
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from shortlist.features import Encoded

__all__ = [
    "ENGINES",
    "ONNX_FILE",
    "PARITY",
    "SAVED_MODEL_FOLDER",
    "WEIGHTS_FOLDER",
    "CrossLayer",
    "DcnModel",
    "DcnWeights",
    "Engine",
    "InputAssembler",
    "NumpyEngine",
    "open_dcn",
    "saved_model_inputs",
]

Floats = npt.NDArray[np.float32]
Structure = Literal["parallel", "stacked"]

PARITY = 1e-4  # largest difference of an output between engines
ENGINES = ("onnx", "numpy", "savedmodel")
NUMBER_CLIP = 4.0  # standard deviations
ONNX_FILE, SAVED_MODEL_FOLDER, WEIGHTS_FOLDER = "model.onnx", "saved_model", "weights"
_DESCRIPTION = "network.json"
_POOLED_AT_ONCE = 100_000  # items: what that takes for a moment is not to matter


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossLayer:
    """x -> x0 * (x W + b) + x"""

    kernels: tuple[Floats, ...]  # (W [D, D]), or (U [D, r], V [r, D]) with W = U V
    bias: Floats  # [D]

    def __call__(self, x0: Floats, x: Floats) -> Floats:
        product = x
        for kernel in self.kernels:
            product = product @ kernel
        return x0 * (product + self.bias) + x

    def fits(self, width: int) -> bool:
        first, last = self.kernels[0], self.kernels[-1]
        return (
            all(kernel.ndim == 2 for kernel in self.kernels)
            and (first.shape[0], last.shape[1]) == (width, width)
            and (len(self.kernels) == 1 or first.shape[1] == last.shape[0])
            and self.bias.shape == (width,)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DcnWeights:
    """Arrays of the network; D = width of x0, F = numeric columns, t = token dimension."""

    structure: Structure
    heads: tuple[str, ...]
    mean: Floats  # [F]
    std: Floats  # [F], positive
    item_tokens: Floats  # [item vocabulary, t]
    user_tokens: Floats  # [user vocabulary, t]
    context_tokens: Floats  # [context vocabulary, t]
    crosses: tuple[CrossLayer, ...]
    hidden: tuple[tuple[Floats, Floats], ...]  # (H [in, out], c [out]) by layer
    output_kernel: Floats  # w [last width, heads, and one more for the value]
    output_bias: Floats  # c, as many

    @property
    def width(self) -> int:
        """D, the width of x0."""
        if self.crosses:
            return len(self.crosses[0].bias)
        if self.hidden:
            return len(self.hidden[0][0])
        return len(self.output_kernel)

    def save(self, folder: Path) -> None:
        """Write `network.json` and an array a file."""
        description = {
            "structure": self.structure,
            "heads": list(self.heads),
            "cross_kernels": [len(cross.kernels) for cross in self.crosses],
            "hidden": len(self.hidden),
        }
        (folder / _DESCRIPTION).write_text(json.dumps(description), "utf-8")
        for name, array in self._arrays():
            np.save(folder / f"{name}.npy", array)

    @staticmethod
    def load(folder: Path) -> DcnWeights:
        """Raises `ArtifactCorrupt` or `ArtifactRefused`."""
        description = load_json(folder / _DESCRIPTION)

        def load(name: str) -> Floats:
            return load_array(folder / f"{name}.npy")

        try:
            weights = DcnWeights(
                structure=description["structure"],
                heads=tuple(map(str, description["heads"])),
                **{name: load(name) for name in _PLAIN},
                crosses=tuple(
                    CrossLayer(
                        kernels=tuple(load(f"cross_{at}_kernel_{part}") for part in range(parts)),
                        bias=load(f"cross_{at}_bias"),
                    )
                    for at, parts in enumerate(description["cross_kernels"])
                ),
                hidden=tuple(
                    (load(f"hidden_{at}_kernel"), load(f"hidden_{at}_bias"))
                    for at in range(description["hidden"])
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactCorrupt(f"weights/{_DESCRIPTION} describes no network: {error}") from None
        weights.check()
        return weights

    def check(self) -> None:
        """Refuse layers that do not fit together and numbers that are not finite."""
        if not self._fits():
            raise ArtifactCorrupt("weights: the ranker's layers do not fit together")
        if not all(np.isfinite(array).all() for _, array in self._arrays()):
            raise ArtifactRefused("the ranker's weights hold NaN or Inf")

    def _arrays(self) -> Iterator[tuple[str, Floats]]:
        """Every array under the name of its file."""
        for name in _PLAIN:
            yield name, getattr(self, name)
        for at, cross in enumerate(self.crosses):
            for part, kernel in enumerate(cross.kernels):
                yield f"cross_{at}_kernel_{part}", kernel
            yield f"cross_{at}_bias", cross.bias
        for at, (kernel, bias) in enumerate(self.hidden):
            yield f"hidden_{at}_kernel", kernel
            yield f"hidden_{at}_bias", bias

    def _fits(self) -> bool:
        outputs = len(self.heads), len(self.heads) + 1  # without and with the value
        return (
            self.structure in get_args(Structure)
            and len(self.heads) > 0
            and self.mean.shape == self.std.shape
            and all(cross.kernels and cross.fits(self.width) for cross in self.crosses)
            and self._hidden_fit()
            and self.output_kernel.ndim == 2
            and self.output_kernel.shape[0] == self._last_width()
            and self.output_kernel.shape[1] in outputs
            and self.output_bias.shape == (self.output_kernel.shape[1],)
        )

    def _hidden_fit(self) -> bool:
        width = self.width
        for kernel, bias in self.hidden:
            if bias.ndim != 1 or kernel.shape != (width, len(bias)):
                return False
            width = len(bias)
        return True

    def _last_width(self) -> int:
        """How wide the outputs' input is."""
        if not self.hidden:
            return self.width
        deep = len(self.hidden[-1][1])
        return deep if self.structure == "stacked" else self.width + deep


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
        self._weights, self._table, self._slots = weights, table, tuple(slots)
        width = len(slots) * weights.item_tokens.shape[1]
        # float32 [rows of the table, features * t]; rows of no item yet take no memory
        self._items = np.zeros((len(table.tokens), width), np.float32)
        rows = len(table.keys) + 1
        for start in range(0, rows, _POOLED_AT_ONCE):
            self.refresh(np.arange(start, min(start + _POOLED_AT_ONCE, rows)))
        sides = (weights.user_tokens, weights.context_tokens)
        width = len(weights.mean) + self._items.shape[1]
        width += sum(table.shape[1] for table in sides if len(table) > 1)
        if width != weights.width:
            raise ArtifactCorrupt(f"weights: inputs are {width} wide, not {weights.width}")

    def refresh(self, items: npt.NDArray[np.int64]) -> None:
        """Compute these rows of items anew."""
        tokens, weights = self._table.tokens[items], self._table.token_weights[items]
        dim = self._weights.item_tokens.shape[1]
        for place, (first, stop) in enumerate(self._slots):
            pooled = pool_tokens(
                self._weights.item_tokens, tokens[:, first:stop], weights[:, first:stop]
            )
            self._items[items, place * dim : (place + 1) * dim] = pooled

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


class Engine(Protocol):
    """Runs one network."""

    def run(self, rows: FeatureRows) -> Floats:
        """float32 [n, outputs]"""
        ...

    def refresh(self, items: npt.NDArray[np.int64]) -> None:
        """As of a model."""
        ...


class NumpyEngine:
    """The reference: a few matrix products."""

    def __init__(self, weights: DcnWeights, assembler: InputAssembler) -> None:
        self._weights, self._assembler = weights, assembler

    def run(self, rows: FeatureRows) -> Floats:
        weights = self._weights
        x0 = self._assembler.assemble(rows)
        x = x0
        for cross in weights.crosses:
            x = cross(x0, x)
        deep = x if weights.structure == "stacked" else x0
        for kernel, bias in weights.hidden:
            deep = np.maximum(deep @ kernel + bias, 0)
        if weights.hidden:
            stacked = weights.structure == "stacked"
            x = deep if stacked else np.concatenate([x, deep], axis=1)
        return x @ weights.output_kernel + weights.output_bias

    def refresh(self, items: npt.NDArray[np.int64]) -> None:
        self._assembler.refresh(items)


class OnnxEngine:
    """ONNX Runtime."""

    def __init__(self, path: Path, assembler: InputAssembler) -> None:
        self._session, self._assembler = OnnxSession(path), assembler

    def run(self, rows: FeatureRows) -> Floats:
        return self._session.run(self._assembler.assemble(rows))

    def refresh(self, items: npt.NDArray[np.int64]) -> None:
        self._assembler.refresh(items)


class SavedModelEngine:
    """The canonical model in TensorFlow; slow to start, for comparison and for odd platforms."""

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

    def run(self, rows: FeatureRows) -> Floats:
        inputs = saved_model_inputs(rows, self._table)
        signature = self._model.signatures["serving_default"]
        answer = signature(**{name: self._tensor(value) for name, value in inputs.items()})
        return answer["outputs"].numpy()

    def refresh(self, items: npt.NDArray[np.int64]) -> None: ...  # keeps nothing of items


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


@dataclass(frozen=True, kw_only=True)
class DcnModel:
    """A network behind `ranking_svc.models.base.Model`."""

    name: str
    heads: tuple[str, ...]
    engine: Engine

    def score(self, rows: FeatureRows) -> Outputs:
        return Outputs.of_columns(self.engine.run(rows), len(self.heads))

    def refresh(self, items: npt.NDArray[np.int64]) -> None:
        self.engine.refresh(items)


def open_dcn(name: str, folder: Path, builder: FeatureBuilder, engine: str) -> DcnModel:
    """The network in `folder` as model `name`.

    Raises `ArtifactCorrupt`, `ArtifactRefused` or `EngineUnavailable`.
    """
    weights = DcnWeights.load(folder / WEIGHTS_FOLDER)
    return DcnModel(
        name=name, heads=weights.heads, engine=_open_engine(engine, folder, weights, builder)
    )


def _open_engine(name: str, folder: Path, weights: DcnWeights, builder: FeatureBuilder) -> Engine:
    if name == "savedmodel":
        return SavedModelEngine(folder / SAVED_MODEL_FOLDER, builder.table)
    assembler = InputAssembler(weights, builder.table, builder.item_slots)
    if name == "onnx":
        return OnnxEngine(folder / ONNX_FILE, assembler)
    if name == "numpy":
        return NumpyEngine(weights, assembler)
    raise EngineUnavailable(f"no engine {name!r}; there are {', '.join(ENGINES)}")
