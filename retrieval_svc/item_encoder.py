"""The item tower in numpy: the vector of an item as the catalogue describes it now.

`training.two_tower` trains the same function in TensorFlow and exports the arrays read here; a test
holds both within 1e-5.

    v = normalise(any + own + sum of the tokens' vectors, by feature in the mean + numbers N)

`any` is what every item has, `own` what clicks have taught of this one: a new item has none, and a
changed one keeps its own. Training drops `own` now and then, so the rest can stand alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval_svc.rows import rows_of
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from shortlist.features import FeatureEncoder

__all__ = ["ItemEncoder"]

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint64]

_FEATURES = "item_features.json"
_BLOCK = 1024  # rows encoded at a time: with 40 token slots of 64 numbers some 10 MB


class ItemEncoder:
    """Encodes items into the space of one version's item vectors."""

    def __init__(
        self,
        *,
        features: FeatureEncoder,
        keys: Keys,
        own: Floats,
        tokens: Floats,
        numeric: Floats,
        any_item: Floats,
    ) -> None:
        self._features = features
        self._keys = keys  # uint64 [items], ascending
        self._own = own  # float32 [items, d], zeros where nobody clicked
        self._tokens = tokens  # float32 [vocabulary, d]
        self._numeric = numeric  # float32 [numerics, d]
        self._any_item = any_item  # float32 [d]

    @staticmethod
    def open(folder: Path, dim: int) -> ItemEncoder | None:
        """Read what `save` wrote; None of a version from before items could be encoded.

        Raises `ArtifactCorrupt` or `ArtifactRefused`, also unless vectors have `dim` numbers.
        """
        if not (folder / _FEATURES).exists():
            return None
        encoder = ItemEncoder(
            features=FeatureEncoder.load(folder / _FEATURES),
            keys=_load(folder / "keys.npy"),
            own=_load(folder / "item_own.npy"),
            tokens=_load(folder / "item_tokens.npy"),
            numeric=_load(folder / "item_numeric.npy"),
            any_item=_load(folder / "item_any.npy"),
        )
        encoder._check()
        if encoder.dim != dim:
            raise ArtifactCorrupt(f"tower/item_any.npy has {encoder.dim} numbers, not {dim}")
        return encoder

    def save(self, folder: Path) -> None:
        """Write into an existing folder, beside the user tower, which has the keys."""
        self._check()
        self._features.save(folder / _FEATURES)
        for name, array in self._arrays().items():
            np.save(folder / f"item_{name}.npy", array)

    @property
    def dim(self) -> int:
        return len(self._any_item)

    def encode(self, keys: Keys, columns: Mapping[str, Sequence[Any]]) -> Floats:
        """float32 [n, d], unit length; `columns` holds one value a row by feature (None = missing).

        An item that nothing is known of lies where any item lies. Not finite where the numbers of
        a row are beyond float32: the caller has to leave such rows out.
        """
        blocks = [
            self._encode(
                keys[start : start + _BLOCK],
                {name: values[start : start + _BLOCK] for name, values in columns.items()},
            )
            for start in range(0, len(keys), _BLOCK)
        ]
        return np.concatenate(blocks) if blocks else np.empty((0, self.dim), np.float32)

    def _encode(self, keys: Keys, columns: Mapping[str, Sequence[Any]]) -> Floats:
        about = self._features.encode(columns, len(keys))
        content = np.einsum("ns,nsd->nd", about.weights, self._tokens[about.tokens])
        vectors = self._any_item + self._own_of(keys) + content + about.numeric @ self._numeric
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        return (vectors / np.maximum(lengths, 1e-6)[:, None]).astype(np.float32)

    def _own_of(self, keys: Keys) -> Floats:
        rows, known = rows_of(self._keys, keys)
        own = np.zeros((len(keys), self.dim), np.float32)
        own[known] = self._own[rows[known]]
        return own

    def _arrays(self) -> Mapping[str, Floats]:
        """By the name of the file, without its `item_`."""
        return {
            "own": self._own,
            "tokens": self._tokens,
            "numeric": self._numeric,
            "any": self._any_item,
        }

    def _check(self) -> None:
        """Refuse shapes that do not fit and numbers that are not finite."""
        dim = self._any_item.shape[-1] if self._any_item.ndim else 0
        expected = {
            "own": (len(self._keys), dim),
            "tokens": (self._features.vocabulary_size, dim),
            "numeric": (len(self._features.numeric_features), dim),
            "any": (dim,),
        }
        for name, array in self._arrays().items():
            file = f"tower/item_{name}.npy"
            if array.dtype != np.float32 or array.shape != expected[name]:
                raise ArtifactCorrupt(
                    f"{file} is {array.dtype} of shape {array.shape}, expected {expected[name]}"
                )
            if not np.isfinite(array).all():
                raise ArtifactRefused(f"{file} holds NaN or Inf")


def _load(path: Path) -> npt.NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactCorrupt(f"{path.name} in {path.parent} is unreadable: {error}") from error
