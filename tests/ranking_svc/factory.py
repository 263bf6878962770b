"""Small, valid ranking artifacts with random weights, without training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ranking_svc.engine import ONNX_FILE, WEIGHTS_FOLDER, DcnWeights
from ranking_svc.features import FeatureBuilder, FeatureSpec, ItemTable
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.features import FeatureEncoder
from shortlist.ids import keys_of
from shortlist.places import points_on_earth
from tests.ranking_svc.tables import CONTEXT, ITEM, NOW_MS, STATISTICS, USER
from training.onnx_export import write_onnx

KEYS = np.sort(keys_of(f"item-{number}" for number in range(40)))
TOKEN_DIM = 3

Floats = npt.NDArray[np.float32]


def random_builder(seed: int = 0) -> FeatureBuilder:
    spec = FeatureSpec(sources=("two_tower", "popular"), statistics=STATISTICS, has_time=True)
    return FeatureBuilder(spec, random_table(seed), ITEM, USER, CONTEXT)


def random_table(seed: int = 0, item: FeatureEncoder = ITEM) -> ItemTable:
    """Forty items with genres, prices, vectors and neighbours at random."""
    rng, n = np.random.default_rng(seed), len(KEYS)
    genres = [["rock", "jazz"][: int(rng.integers(3))] for _ in range(n)]
    encoded = item.encode({"genre": genres, "price": rng.normal(3, 1, n).tolist()}, n)
    vectors = rng.normal(size=(n, 4))

    def padded(array: npt.NDArray[Any], fill: int = 0) -> npt.NDArray[Any]:
        return np.concatenate([array, np.full((1, *array.shape[1:]), fill, array.dtype)])

    return ItemTable(
        keys=KEYS,
        vectors=padded(
            (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        ),
        statistics=padded(rng.gamma(1.0, size=(n, 2)).astype(np.float32)),
        published_ms=padded(NOW_MS - rng.integers(0, 10**10, n)),
        first_event_ms=padded(NOW_MS - rng.integers(0, 10**10, n)),
        last_event_ms=padded(NOW_MS - rng.integers(0, 10**10, n)),
        tokens=padded(encoded.tokens),
        token_weights=padded(encoded.weights),
        numeric=padded(encoded.numeric),
        places=padded(points_on_earth(rng.uniform(-90, 90, n), rng.uniform(-180, 180, n))[:, None]),
        neighbours=padded(rng.integers(0, n + 1, (n, 5)).astype(np.int32), fill=n),
        affinities=padded(rng.random((n, 5)).astype(np.float32)),
        token_shares=np.full(item.vocabulary_size, 0.5, np.float32),
    )


def random_weights(
    builder: FeatureBuilder, *, hidden: Sequence[int] = (8, 4), crosses: int = 2, seed: int = 0
) -> DcnWeights:
    """A network that fits the builder's features."""
    rng = np.random.default_rng(seed)
    numbers = len(builder.names)
    width = numbers + TOKEN_DIM * (len(builder.item_slots) + 2)

    def array(*shape: int) -> Floats:
        return (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    sizes = [width, *hidden]
    return DcnWeights(
        mean=array(numbers),
        std=np.full(numbers, 2, np.float32),
        item_tokens=array(builder.item.vocabulary_size, TOKEN_DIM),
        user_tokens=array(builder.user.vocabulary_size, TOKEN_DIM),
        context_tokens=array(builder.context.vocabulary_size, TOKEN_DIM),
        crosses=tuple((array(width, width), array(width)) for _ in range(crosses)),
        hidden=tuple((array(a, b), array(b)) for a, b in pairwise(sizes)),
        output_kernel=array(width + sizes[-1], 1),
        output_bias=array(1),
    )


def write_files(folder: Path, builder: FeatureBuilder, weights: DcnWeights) -> None:
    """Everything of a ranking artifact but its SavedModel."""
    for name in ("items", WEIGHTS_FOLDER):
        (folder / name).mkdir()
    builder.table.save(folder / "items")
    builder.spec.save(folder / "spec.json")
    builder.item.save(folder / "item_features.json")
    builder.user.save(folder / "user_features.json")
    builder.context.save(folder / "context_features.json")
    weights.save(folder / WEIGHTS_FOLDER)
    write_onnx(weights, folder / ONNX_FILE)


def publish_ranker(
    store: ArtifactStore,
    *,
    version: str | None = None,
    seed: int = 0,
    damage: Callable[[Path], Any] = lambda folder: None,
    **meta: Any,
) -> Artifact:
    """Publish and promote a version; `damage` may change the files before they are sealed."""
    builder = random_builder()
    with store.stage("ranking") as staged:
        write_files(staged.path, builder, random_weights(builder, seed=seed))
        damage(staged.path)
        artifact = staged.publish(version=version, meta={"watermark_ms": NOW_MS} | meta)
    current = store.versions("ranking")[-2:-1]
    store.promote("ranking", artifact.version, expected=current[0] if current else None)
    return artifact
