"""Small, valid ranking artifacts with random weights, without training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ranking_svc.features import FeatureBuilder, FeatureSpec, ItemTable
from ranking_svc.item_counts import ItemCounts, statistics_names
from ranking_svc.models import model_folder
from ranking_svc.models.dcn import (
    ONNX_FILE,
    WEIGHTS_FOLDER,
    CrossLayer,
    DcnWeights,
    Structure,
)
from ranking_svc.models.ensemble import MIXTURE_FILE, Mixture
from ranking_svc.models.gbdt import TREES_FOLDER, Trees, save_heads
from ranking_svc.ranker import ITEM_COUNTS
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.features import FeatureEncoder
from shortlist.ids import keys_of
from shortlist.places import points_on_earth
from tests.ranking_svc.tables import CONTEXT, DAY_MS, ITEM, NOW_MS, USER
from training.onnx_export import write_dcn, write_trees

KEYS = np.sort(keys_of(f"item-{number}" for number in range(40)))
TOKEN_DIM = 3
HEADS = ("click", "purchase")
WORTH = {"click": 1.0, "purchase": 4.0}
MODELS = ["dcn", "gbdt", "linear", "ensemble"]

Floats = npt.NDArray[np.float32]


def random_builder(seed: int = 0) -> FeatureBuilder:
    spec = FeatureSpec(
        sources=("two_tower", "popular"), statistics=statistics_names(2), has_time=True
    )
    return FeatureBuilder(spec, random_table(seed), ITEM, USER, CONTEXT)


def random_counts(seed: int = 0) -> ItemCounts:
    """What the statistics of `random_table` are made of."""
    rng, n = np.random.default_rng(seed), len(KEYS)
    valued = rng.integers(0, 5, n)
    return ItemCounts(
        speeds=rng.gamma(1.0, size=(n, 3)),
        events=rng.integers(5, 50, n),
        values=rng.normal(size=n) * valued,
        valued=valued,
        half_lives_ms=(2.0 * DAY_MS, 10.0 * DAY_MS),
        as_of_ms=NOW_MS,
        value_mean=3.0,
        value_std=1.5,
    )


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
        factors=padded(np.eye(n, 3, dtype=np.float32)),
        statistics=padded(random_counts(seed).statistics()),
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
    builder: FeatureBuilder,
    *,
    structure: Structure = "parallel",
    hidden: Sequence[int] = (8, 4),
    crosses: int = 2,
    rank: int = 0,
    heads: Sequence[str] = HEADS,
    has_value: bool = True,
    seed: int = 0,
) -> DcnWeights:
    """A network that fits the builder's features; `rank` 0 = full."""
    rng = np.random.default_rng(seed)
    numbers = len(builder.names)
    width = numbers + TOKEN_DIM * (len(builder.item_slots) + 2)

    def array(*shape: int) -> Floats:
        return (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

    sizes = [width, *hidden]
    last = (sizes[-1] if structure == "stacked" else width + sizes[-1]) if hidden else width
    return DcnWeights(
        structure=structure,
        heads=tuple(heads),
        mean=array(numbers),
        std=np.full(numbers, 2, np.float32),
        item_tokens=array(builder.item.vocabulary_size, TOKEN_DIM),
        user_tokens=array(builder.user.vocabulary_size, TOKEN_DIM),
        context_tokens=array(builder.context.vocabulary_size, TOKEN_DIM),
        crosses=tuple(
            CrossLayer(
                kernels=(array(width, rank), array(rank, width))
                if rank
                else (array(width, width),),
                bias=array(width),
            )
            for _ in range(crosses)
        ),
        hidden=tuple((array(a, b), array(b)) for a, b in pairwise(sizes)),
        output_kernel=array(last, len(heads) + has_value),
        output_bias=array(len(heads) + has_value),
    )


def random_trees(columns: int, *, count: int = 6, depth: int = 3, seed: int = 0) -> Trees:
    """Full trees of a depth, every other one for the other head."""
    rng = np.random.default_rng(seed)
    inner, nodes = 2**depth - 1, 2 ** (depth + 1) - 1
    number = np.arange(nodes)
    leaf = number >= inner
    starts = np.arange(count)[:, None] * nodes

    def all_trees(children: Any) -> npt.NDArray[np.int32]:
        return (starts + np.where(leaf, number, children)).astype(np.int32).ravel()

    leaves = np.tile(leaf, count)
    return Trees(
        feature=np.where(leaves, -1, rng.integers(columns, size=count * nodes)).astype(np.int32),
        threshold=np.where(leaves, 0, rng.normal(size=count * nodes)).astype(np.float32),
        left=all_trees(2 * number + 1),
        right=all_trees(2 * number + 2),
        value=np.where(leaves, rng.normal(size=count * nodes), 0).astype(np.float32),
        root=starts.ravel().astype(np.int32),
        head=(np.arange(count) % len(HEADS)).astype(np.int32),
        base=np.array([-1.0, -3.0], np.float32),
    )


def write_network(folder: Path, weights: DcnWeights) -> None:
    """The files of a network but its SavedModel."""
    (folder / WEIGHTS_FOLDER).mkdir(parents=True)
    weights.save(folder / WEIGHTS_FOLDER)
    write_dcn(weights, folder / ONNX_FILE)


def write_forest(folder: Path, trees: Trees, columns: int) -> None:
    """The files of trees."""
    (folder / TREES_FOLDER).mkdir(parents=True)
    trees.save(folder / TREES_FOLDER)
    save_heads(folder, HEADS)
    write_trees(trees, columns, folder / ONNX_FILE)


def write_files(folder: Path, builder: FeatureBuilder, seed: int = 0) -> None:
    """Everything of a ranking artifact but the SavedModels."""
    (folder / "items").mkdir()
    builder.table.save(folder / "items")
    (folder / ITEM_COUNTS).mkdir()
    random_counts().save(folder / ITEM_COUNTS)
    builder.spec.save(folder / "spec.json")
    builder.item.save(folder / "item_features.json")
    builder.user.save(folder / "user_features.json")
    builder.context.save(folder / "context_features.json")
    columns = len(builder.names)
    write_network(model_folder(folder, "dcn"), random_weights(builder, seed=seed))
    linear = random_weights(builder, hidden=(), crosses=0, seed=seed + 1)
    write_network(model_folder(folder, "linear"), linear)
    write_forest(
        model_folder(folder, "gbdt"), random_trees(columns, count=20, depth=4, seed=seed), columns
    )
    mixture = Mixture(
        weights={"dcn": 0.6, "gbdt": 0.5, "linear": 0.0}, biases={"click": 0.1, "purchase": -0.2}
    )
    model_folder(folder, "ensemble").mkdir()
    mixture.save(model_folder(folder, "ensemble") / MIXTURE_FILE)


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
        write_files(staged.path, builder, seed)
        damage(staged.path)
        says = {
            "watermark_ms": NOW_MS,
            "models": MODELS,
            "default_model": "ensemble",
            "heads": WORTH,
            "located": ["at"],
        }
        artifact = staged.publish(version=version, meta=says | meta)
    current = store.versions("ranking")[-2:-1]
    store.promote("ranking", artifact.version, expected=current[0] if current else None)
    return artifact
