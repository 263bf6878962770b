"""Rankers of the shape that is served in earnest, with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ranking_svc.features import FeatureBuilder, FeatureSpec, ItemTable
from ranking_svc.item_counts import ItemCounts, statistics_names
from ranking_svc.models import model_folder
from ranking_svc.models.dcn import ONNX_FILE, WEIGHTS_FOLDER, CrossLayer, DcnWeights, Structure
from ranking_svc.ranker import ITEM_COUNTS
from shortlist.artifacts import ArtifactStore
from training.onnx_export import write_dcn

if TYPE_CHECKING:
    from benchmarks.serving.world import World

__all__ = ["FORMS", "RankerForm", "flops", "load_weights", "write_ranking"]

Floats = npt.NDArray[np.float32]

_MODEL = "dcn"
_HEAD = "click"
_WIDTH = 320  # of the network's input
_NEIGHBOURS = 10
_ENCODED_AT_ONCE = 1_000_000  # items, whose features are Python objects meanwhile
_FACTORS = 16
_DAY_MS = 86_400_000
_HALF_LIVES_MS = (2.0 * _DAY_MS, 30.0 * _DAY_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankerForm:
    """One way to put crosses and layers together."""

    name: str
    structure: Structure
    rank: int  # of a cross
    crosses: int = 3
    hidden: tuple[int, ...] = (256, 128)


FORMS = {
    one.name: one
    for one in (
        RankerForm(name="stacked", structure="stacked", rank=64),
        RankerForm(name="fast", structure="parallel", rank=32),
    )
}


def write_ranking(store: ArtifactStore, form: RankerForm, world: World) -> None:
    """Publish a version called as the form, of one model."""
    counts = _counts(world)
    builder = _builder(world, counts)
    with store.stage("ranking") as staged:
        folder = staged.path
        (folder / "items").mkdir()
        builder.table.save(folder / "items")
        (folder / ITEM_COUNTS).mkdir()
        counts.save(folder / ITEM_COUNTS)
        builder.spec.save(folder / "spec.json")
        builder.item.save(folder / "item_features.json")
        builder.user.save(folder / "user_features.json")
        builder.context.save(folder / "context_features.json")
        weights = _weights(form, builder)
        home = model_folder(folder, _MODEL)
        (home / WEIGHTS_FOLDER).mkdir(parents=True)
        weights.save(home / WEIGHTS_FOLDER)
        write_dcn(weights, home / ONNX_FILE)
        staged.publish(
            version=form.name,
            meta={
                "watermark_ms": world.now_ms,
                "located": [],
                "sources": list(builder.spec.sources),
                "features": list(builder.names),
                "models": [_MODEL],
                "default_model": _MODEL,
                "heads": {_HEAD: 1.0},
            },
        )


def load_weights(artifact: Path) -> DcnWeights:
    """Of a published version."""
    return DcnWeights.load(model_folder(artifact, _MODEL) / WEIGHTS_FOLDER)


def flops(weights: DcnWeights, rows: int) -> int:
    """Of the matrix products that score so many rows, each number as one multiply and one add."""
    kernels = [kernel for cross in weights.crosses for kernel in cross.kernels]
    kernels += [kernel for kernel, _ in weights.hidden]
    return 2 * rows * sum(kernel.size for kernel in (*kernels, weights.output_kernel))


def _builder(world: World, counts: ItemCounts) -> FeatureBuilder:
    spec = FeatureSpec(
        sources=("two_tower",),
        statistics=statistics_names(len(_HALF_LIVES_MS)),
        has_time=True,
    )
    encoders = world.encoders
    table = _table(world, counts)
    return FeatureBuilder(spec, table, encoders.item, encoders.user, encoders.context)


def _table(world: World, counts: ItemCounts) -> ItemTable:
    rng, n = np.random.default_rng(world.shape.seed + 3), world.shape.items
    encoder = world.encoders.item
    names = [one.name for one in encoder.token_features]
    names += [one.name for one in encoder.numeric_features]
    parts = []
    for start in range(0, n, _ENCODED_AT_ONCE):
        some = world.items.slice(start, _ENCODED_AT_ONCE)
        columns = {name: some[f"f_{name}"].to_pylist() for name in names}
        parts.append(encoder.encode(columns, len(some)))
    tokens = np.concatenate([part.tokens for part in parts])
    weights = np.concatenate([part.weights for part in parts])
    shares = np.bincount(tokens.ravel(), weights=weights.ravel(), minlength=encoder.vocabulary_size)
    factors = rng.standard_normal((n, _FACTORS), np.float32)
    return ItemTable(
        keys=world.keys,
        vectors=_padded(world.vectors),
        factors=_padded(factors / np.linalg.norm(factors, axis=1, keepdims=True)),
        statistics=_padded(counts.statistics()),
        published_ms=_padded(world.published_ms),
        first_event_ms=_padded(world.published_ms),
        last_event_ms=_padded(world.now_ms - rng.integers(1, 10 * _DAY_MS, n)),
        tokens=_padded(tokens),
        token_weights=_padded(weights),
        numeric=_padded(np.concatenate([part.numeric for part in parts])),
        places=np.zeros((n + 1, 0, 3), np.float32),
        neighbours=_padded(rng.integers(0, n, (n, _NEIGHBOURS)).astype(np.int32), fill=n),
        affinities=_padded(rng.random((n, _NEIGHBOURS), np.float32)),
        token_shares=(shares / n).astype(np.float32),
    )


def _counts(world: World) -> ItemCounts:
    n = world.shape.items
    speeds = np.stack([world.popularity * part for part in (0.1, 0.5, 1.0)], axis=1)
    return ItemCounts(
        speeds=speeds.astype(np.float64),
        events=world.popularity.astype(np.int64),
        values=np.zeros(n),
        valued=np.zeros(n, np.int64),
        half_lives_ms=_HALF_LIVES_MS,
        as_of_ms=world.now_ms,
        value_mean=0.0,
        value_std=0.0,
    )


def _weights(form: RankerForm, builder: FeatureBuilder) -> DcnWeights:
    rng = np.random.default_rng(7)
    numbers, embedded = len(builder.names), len(builder.item_slots) + 2
    token_dim = max(1, round((_WIDTH - numbers) / embedded))
    width = numbers + token_dim * embedded

    def array(*shape: int) -> Floats:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    sizes = [width, *form.hidden]
    last = form.hidden[-1] if form.structure == "stacked" else width + form.hidden[-1]
    return DcnWeights(
        structure=form.structure,
        heads=(_HEAD,),
        mean=np.zeros(numbers, np.float32),
        std=np.ones(numbers, np.float32),
        item_tokens=array(builder.item.vocabulary_size, token_dim),
        user_tokens=array(builder.user.vocabulary_size, token_dim),
        context_tokens=array(builder.context.vocabulary_size, token_dim),
        crosses=tuple(
            CrossLayer(
                kernels=(array(width, form.rank), array(form.rank, width)), bias=array(width)
            )
            for _ in range(form.crosses)
        ),
        hidden=tuple((array(a, b), array(b)) for a, b in pairwise(sizes)),
        output_kernel=array(last, 1),
        output_bias=array(1),
    )


def _padded(rows: npt.NDArray[Any], fill: int = 0) -> npt.NDArray[Any]:
    """With the row of unknown items at the end."""
    return np.concatenate([rows, np.full((1, *rows.shape[1:]), fill, rows.dtype)])
