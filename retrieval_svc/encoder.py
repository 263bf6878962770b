"""The user tower in numpy: from a person and a moment to one unit vector, without TensorFlow.

`training.two_tower` trains the same function in TensorFlow and exports the arrays read here; a test
holds both within 1e-5.

    z_j   = vector of history item j,  w_j = event weight * exp(position_j)    (newest last)
            without times: w_j = event weight, and zeros instead of the newest z;
            evened: w_j = event weight / length of z_j without its last number
    h     = sum_j w_j z_j / sum_j w_j,   x = features of user and context
    u     = normalise(h A + x B + b + relu([h, newest z, x] W1 + b1) W2 + b2)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval_svc.item_vectors import ItemVectors
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from shortlist.features import FeatureEncoder, moment_points
from shortlist.tiers import History, UserContext

__all__ = ["LEAST_REACH", "TowerWeights", "UserEncoder", "moment_features", "user_columns"]

Floats = npt.NDArray[np.float32]

_MOMENT_WIDTH = 5
LEAST_REACH = 0.05  # a shorter vector is no longer evened out
_FLAT = ("keys", "position", "bias", "hidden_bias", "output_bias")  # arrays of one dimension


def moment_features(
    time_ms: npt.NDArray[np.int64], has_time: bool, history_size: npt.NDArray[np.float32]
) -> Floats:
    """Time of day, day of week (as points on circles) and log1p of the history's size, [n, 5]."""
    size = np.log1p(history_size)[:, None] / 4
    return np.concatenate([moment_points(time_ms, has_time), size], axis=1, dtype=np.float32)


def user_columns(user: FeatureEncoder, context: FeatureEncoder) -> int:
    """Width of x beside the token embeddings: numerics of both sides and the moment."""
    return len(user.numeric_features) + len(context.numeric_features) + _MOMENT_WIDTH


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerWeights:
    """Arrays of the user tower; d = dimension, t = token dimension, x = width of x."""

    position: Floats  # [history_length], newest last
    user_tokens: Floats  # [user vocabulary, t]
    context_tokens: Floats  # [context vocabulary, t]
    history_map: Floats  # A [d, d]
    feature_map: Floats  # B [x, d]
    bias: Floats  # b [d]
    hidden_map: Floats  # W1 [2d + x, hidden]
    hidden_bias: Floats  # b1 [hidden]
    output_map: Floats  # W2 [hidden, d]
    output_bias: Floats  # b2 [d]

    def save(self, folder: Path) -> None:
        for name in self.__slots__:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @staticmethod
    def load(folder: Path) -> TowerWeights:
        return TowerWeights(
            **{name: _load(folder / f"{name}.npy") for name in TowerWeights.__slots__}
        )


class UserEncoder:
    """Encodes users against one version's item vectors."""

    def __init__(
        self,
        *,
        keys: npt.NDArray[np.uint64],
        vectors: Floats,
        user: FeatureEncoder,
        context: FeatureEncoder,
        weights: TowerWeights,
        has_time: bool,
        evened: bool = False,
    ) -> None:
        """`evened`, only without times: what the last numbers of unit vectors leave of their length
        says how popular an item is, and in a history that does not count.
        """
        # Every item that a history may hold; keys uint64 [items], ascending, float32 [items, d].
        self.items = ItemVectors(keys, vectors)
        self._user = user
        self._context = context
        self._weights = weights
        self._has_time = has_time
        self._evened = evened

    @property
    def dim(self) -> int:
        return self.items.dim

    @staticmethod
    def open(folder: Path) -> UserEncoder:
        """Read what `save` wrote. Raises `ArtifactCorrupt` or `ArtifactRefused`."""
        settings = _read_settings(folder / "tower.json")
        encoder = UserEncoder(
            keys=_load(folder / "keys.npy", mmap=True),
            vectors=_load(folder / "item_vectors.npy", mmap=True),
            user=FeatureEncoder.load(folder / "user_features.json"),
            context=FeatureEncoder.load(folder / "context_features.json"),
            weights=TowerWeights.load(folder),
            has_time=bool(settings["has_time"]),
            evened=bool(settings["evened"]),
        )
        encoder._check()
        return encoder

    def save(self, folder: Path) -> None:
        """Write the tower into an existing empty folder."""
        self._check()
        settings = {"has_time": self._has_time, "evened": self._evened}
        (folder / "tower.json").write_text(json.dumps(settings), "utf-8")
        np.save(folder / "keys.npy", self.items.keys)
        np.save(folder / "item_vectors.npy", self.items.vectors)
        self._user.save(folder / "user_features.json")
        self._context.save(folder / "context_features.json")
        self._weights.save(folder)

    def encode(self, user: UserContext) -> Floats:
        """The user's vector, float32 [d], unit length."""
        weights = self._weights
        pooled, newest, size = self._pool(user.history)
        x = self._features(user, size)
        z = np.concatenate([pooled, newest, x])
        hidden = np.maximum(z @ weights.hidden_map + weights.hidden_bias, 0)
        vector = (
            pooled @ weights.history_map
            + x @ weights.feature_map
            + weights.bias
            + hidden @ weights.output_map
            + weights.output_bias
        )
        return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)

    def tells_apart(self, user: UserContext) -> bool:
        """Whether the user's vector says more than that nothing is known of the user.

        With times there is the moment at least, and people without a history were learned from.
        """
        if self._has_time or any(
            features
            for side in (self._user, self._context)
            for features in (side.token_features, side.numeric_features)
        ):
            return True
        history = user.history
        return bool(self.items.of(history.keys[history.weights > 0])[1].any())

    def _pool(self, history: History) -> tuple[Floats, Floats, int]:
        """Weighted mean of the liked items' vectors, the newest one, and how many there are."""
        vectors, known = self.items.of(history.keys[history.weights > 0])
        nothing = np.zeros(self.dim, np.float32)
        if not known.any():
            return nothing, nothing, 0
        # In float64: the sum of large weights must stay finite.
        strength = history.weights[history.weights > 0][known].astype(np.float64)
        length = len(self._weights.position)
        if self._has_time:
            vectors, strength = vectors[-length:], strength[-length:]
            strength *= np.exp(self._weights.position[length - len(strength) :])
        elif self._evened:
            strength /= np.maximum(np.linalg.norm(vectors[:, :-1], axis=1), LEAST_REACH)
        pooled = ((strength / strength.sum()) @ vectors).astype(np.float32)
        # Without times there is no newest item, and all of the history counts.
        return pooled, vectors[-1] if self._has_time else nothing, len(strength)

    def _features(self, user: UserContext, history_size: int) -> Floats:
        about_user = self._user.encode_one(user.attributes)
        about_context = self._context.encode_one(user.context)
        moment = moment_features(
            np.array([user.time_ms]), self._has_time, np.array([history_size], np.float32)
        )
        return np.concatenate(
            [
                about_user.weights[0] @ self._weights.user_tokens[about_user.tokens[0]],
                about_context.weights[0] @ self._weights.context_tokens[about_context.tokens[0]],
                about_user.numeric[0],
                about_context.numeric[0],
                moment[0],
            ]
        )

    def _check(self) -> None:
        """Refuse shapes that do not fit, keys out of order and numbers that are not finite."""
        weights = self._weights
        self._check_kinds()
        token_dim = weights.user_tokens.shape[1]
        width = 2 * token_dim + user_columns(self._user, self._context)
        hidden = len(weights.hidden_bias)
        expected = {
            "user_tokens": (self._user.vocabulary_size, token_dim),
            "context_tokens": (self._context.vocabulary_size, token_dim),
            "history_map": (self.dim, self.dim),
            "feature_map": (width, self.dim),
            "bias": (self.dim,),
            "hidden_map": (2 * self.dim + width, hidden),
            "output_map": (hidden, self.dim),
            "output_bias": (self.dim,),
        }
        for name, shape in expected.items():
            found = getattr(weights, name).shape
            if found != shape:
                raise ArtifactCorrupt(f"tower/{name}.npy has shape {found}, expected {shape}")
        keys, vectors = self.items.keys, self.items.vectors
        if len(keys) != len(vectors):
            raise ArtifactCorrupt(f"tower/keys.npy has {len(keys)} keys for {len(vectors)} vectors")
        if not (keys[1:] > keys[:-1]).all():
            raise ArtifactCorrupt("tower/keys.npy does not ascend")
        for name, array in self._floats().items():
            if not np.isfinite(array).all():
                raise ArtifactRefused(f"tower/{name}.npy holds NaN or Inf")

    def _check_kinds(self) -> None:
        """Refuse arrays of another type or number of dimensions, and empty ones."""
        arrays: Mapping[str, npt.NDArray[Any]] = {"keys": self.items.keys, **self._floats()}
        for name, array in arrays.items():
            dtype = np.uint64 if name == "keys" else np.float32
            dimensions = 1 if name in _FLAT else 2
            if array.dtype != dtype or array.ndim != dimensions or not len(array):
                raise ArtifactCorrupt(f"tower/{name}.npy is {array.dtype} of shape {array.shape}")

    def _floats(self) -> Mapping[str, Floats]:
        """Every array of numbers, by the name of its file."""
        weights = {name: getattr(self._weights, name) for name in self._weights.__slots__}
        return {"item_vectors": self.items.vectors, **weights}


def _load(path: Path, *, mmap: bool = False) -> npt.NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactCorrupt(f"{path.name} in {path.parent} is unreadable: {error}") from error


def _read_settings(path: Path) -> Mapping[str, Any]:
    try:
        settings = json.loads(path.read_text("utf-8"))
        # Versions from before histories could be evened do not say that theirs are not.
        return {"has_time": settings["has_time"], "evened": settings.get("evened", False)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactCorrupt(f"{path} is unreadable: {error}") from error
