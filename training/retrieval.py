"""The retrieval job: train the two-tower model, build the shards in parallel, publish, promote.

    python -m training.retrieval --workdir W            # a private Ray on this machine
    ray job submit -- python -m training.retrieval --workdir W

It trains twice (see `training.windows`): the `backtest` artifact, which finds out how many epochs
are good and from whose candidates the ranker learns, and the `retrieval` artifact that serves.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from retrieval_svc.encoder import UserEncoder
from retrieval_svc.index import BruteForceIndex, build_index
from retrieval_svc.slice_files import RetrievalMeta, slice_folder
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.config import Config, RetrievalConfig
from shortlist.errors import ArtifactNotFound, ShortlistError
from shortlist.ids import shard_of
from shortlist.tiers import UserContext
from training.dataset import Dataset
from training.histories import user_attributes, user_histories
from training.item_statistics import decayed_counts
from training.lessons import moments, relevant_rows, user_at
from training.metrics import ndcg
from training.ray_session import cores_of_a_node, new_board, ray_session, wait_for
from training.windows import Window, backtest_window, serving_window

if TYPE_CHECKING:
    from training.two_tower import TwoTower

__all__ = ["half_life_ms", "main", "promote", "read_slices", "reshard", "run_job", "train"]

Floats = npt.NDArray[np.float32]

SOURCES = ("two_tower", "popular")
_DAY_MS = 86_400_000
_SPAN_PART = 20  # the default half-life, as a part of the time that the training data spans
_JUDGES = 1000  # users who decide how long to train
_JUDGED_DEPTH = 100
_TUNING_QUERIES = 256  # real user vectors that the index is tuned on
# All-time counts break ties between items that nobody touched lately.
_ALL_TIME_SHARE = 1e-3


def train(workdir: Path, *, address: str | None = None, seed: int = 0) -> dict[str, str]:
    """Train, publish and promote both artifacts; versions by tier.

    Raises `ArtifactRefused` when the data cannot be learned from; nothing is promoted then.
    """
    dataset = Dataset.load(workdir / "dataset")
    config = Config.load(workdir / "shortlist.yaml").retrieval
    store = ArtifactStore(workdir / "artifacts")
    windows = {
        "backtest": backtest_window(dataset, seed=seed),
        "retrieval": serving_window(dataset),
    }
    with ray_session(address):
        dataset_ref = ray.put(dataset)
        past = _train_here(dataset_ref, windows["backtest"], config, seed, "backtest")
        # What was learned about how long to train holds for the version that serves.
        epochs = len(past.losses)
        tuned = config.model_copy(
            update={"two_tower": config.two_tower.model_copy(update={"epochs": epochs})}
        )
        present = _train_here(dataset_ref, windows["retrieval"], tuned, seed, "retrieval")
        artifacts = [
            _publish(store, tier, dataset, dataset_ref, windows[tier], tower, config, seed)
            for tier, tower in (("backtest", past), ("retrieval", present))
        ]
    # The ranker needs the two of one run, so neither serves before both are there.
    for artifact in artifacts:
        promote(store, artifact)
    return {artifact.tier: artifact.version for artifact in artifacts}


def half_life_ms(
    dataset: Dataset, rows: npt.NDArray[np.int64], config: RetrievalConfig
) -> float | None:
    """Age at which an interaction counts half; None when the data has no time."""
    if not dataset.has_time:
        return None
    if config.half_life_days is not None:
        return config.half_life_days * _DAY_MS
    times = dataset.events.time_ms[rows]
    return max(float(times.max() - times.min()) / _SPAN_PART, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tower:
    """What the job needs of a trained two-tower model; TensorFlow is not."""

    encoder: UserEncoder
    vectors: Floats
    losses: tuple[float, ...]


def _train_here(
    dataset: ray.ObjectRef, window: Window, config: RetrievalConfig, seed: int, tier: str
) -> _Tower:
    """Train in a worker that gets all cores of its node."""
    board = new_board()
    task = _train_tower.options(num_cpus=cores_of_a_node())
    trained = task.remote(dataset, window, config, seed, tier, board)
    tower: _Tower = wait_for([trained], board, "train")[0]
    return tower


@ray.remote
def _train_tower(
    dataset: Dataset, window: Window, config: RetrievalConfig, seed: int, tier: str, board: Any
) -> _Tower:
    from training.two_tower import train_two_tower  # TensorFlow: in this worker only

    def report(_: str, done: int, total: int) -> None:
        board.report.remote(f"two-tower ({tier})", done, total)

    model = train_two_tower(
        dataset,
        window.known,
        config.two_tower,
        recency_half_life_ms=half_life_ms(dataset, window.known, config),
        seed=seed,
        judge=_judge(dataset, window, seed),
        progress=report,
    )
    return _Tower(encoder=model.encoder, vectors=model.item_vectors, losses=model.losses)


def _judge(dataset: Dataset, window: Window, seed: int) -> Callable[[TwoTower], float] | None:
    """How well a model orders what users did next; None where nothing is known of it."""
    todo = moments(dataset, window, limit=_JUDGES, max_staleness_days=0, seed=seed, first_only=True)
    if not todo:
        return None
    attributes = user_attributes(dataset, [moment.user for moment in todo])
    users = [
        user_at(dataset, moment, about) for moment, about in zip(todo, attributes, strict=True)
    ]

    def score(model: TwoTower) -> float:
        index = BruteForceIndex(model.item_vectors)
        gains = []
        for moment, user in zip(todo, users, strict=True):
            if relevant := relevant_rows(dataset, moment):
                seen = np.unique(dataset.events.item[moment.known]).astype(np.int64)
                rows, _ = index.search(model.encoder.encode(user), _JUDGED_DEPTH, seen)
                gains.append(ndcg(rows.tolist(), relevant, _JUDGED_DEPTH))
        return float(np.mean(gains)) if gains else 0.0

    return score


def _publish(
    store: ArtifactStore,
    tier: str,
    dataset: Dataset,
    dataset_ref: ray.ObjectRef,
    window: Window,
    tower: _Tower,
    config: RetrievalConfig,
    seed: int,
) -> Artifact:
    encoder, vectors, losses = tower.encoder, tower.vectors, tower.losses
    half_life = half_life_ms(dataset, window.known, config)
    recent = decayed_counts(dataset, window.known, window.as_of_ms, half_life)
    always = decayed_counts(dataset, window.known, window.as_of_ms, None)
    popularity = (recent + _ALL_TIME_SHARE * always).astype(np.float32)
    queries = _tuning_queries(dataset, window, encoder, seed)
    with store.stage(tier) as staged:
        (staged.path / "tower").mkdir()
        encoder.save(staged.path / "tower")
        columns = ray.put((vectors, popularity, queries))
        reports = ray.get(
            [
                _build_shard.remote(dataset_ref, columns, config, seed, shard, str(staged.path))
                for shard in range(config.shards)
            ]
        )
        return staged.publish(
            meta={
                "dim": vectors.shape[1],
                "shards": config.shards,
                "items_total": dataset.n_items,
                "items_per_shard": [report["items"] for report in reports],
                "watermark_ms": window.as_of_ms,
                "item_features": {
                    name: feature.role for name, feature in dataset.schema.item_features.items()
                },
                "sources": list(SOURCES),
                "embedding_space": hashlib.sha256(vectors.tobytes()).hexdigest()[:16],
                "schema_hash": dataset.schema.digest(),
                "half_life_ms": half_life,
                "metrics": {"loss": list(losses), "index": reports},
            }
        )


@ray.remote(num_cpus=1)
def _build_shard(
    dataset: Dataset,
    columns: tuple[Floats, Floats, Floats],
    config: RetrievalConfig,
    seed: int,
    shard: int,
    folder: str,
) -> dict[str, Any]:
    vectors, popularity, queries = columns
    mine = np.flatnonzero(shard_of(dataset.item_keys, config.shards) == shard)
    items = dataset.items.take(mine)
    slice_ = _Slice(dataset.item_keys[mine], vectors[mine], popularity[mine], items)
    return slice_.write(slice_folder(Path(folder), shard), config, queries, seed)


class _Slice:
    """The items of one shard."""

    def __init__(self, keys: Any, vectors: Floats, popularity: Floats, items: Any) -> None:
        self.keys, self.vectors, self.popularity, self.items = keys, vectors, popularity, items

    def write(
        self, folder: Path, config: RetrievalConfig, queries: Floats | None, seed: int
    ) -> dict[str, Any]:
        """Write all files of the slice and build its index; the index's report."""
        folder.mkdir()
        np.save(folder / "keys.npy", self.keys)
        np.save(folder / "vectors.npy", self.vectors)
        np.save(folder / "popularity.npy", self.popularity)
        pq.write_table(self.items, folder / "items.parquet", compression="zstd")
        report = build_index(
            np.ascontiguousarray(self.vectors),
            folder / "index",
            exact_below=config.exact_below,
            recall_target=config.recall_target,
            k=config.candidates,
            seed=seed,
            queries=queries,
        )
        return asdict(report)


def _tuning_queries(
    dataset: Dataset, window: Window, encoder: UserEncoder, seed: int
) -> Floats | None:
    """Vectors of users drawn from the window; None when there are too few to tune on."""
    users = np.unique(dataset.events.user[window.known])
    chosen = np.random.default_rng(seed).permutation(users)[:_TUNING_QUERIES]
    if len(chosen) < 32:
        return None
    histories = user_histories(dataset, window.known, chosen)
    contexts = [
        UserContext(user_key=0, history=history, time_ms=window.as_of_ms) for history in histories
    ]
    return np.stack([encoder.encode(context) for context in contexts])


def promote(store: ArtifactStore, artifact: Artifact) -> None:
    store.promote(artifact.tier, artifact.version, expected=current_or_none(store, artifact.tier))


def current_or_none(store: ArtifactStore, tier: str) -> str | None:
    """The version that serves, or None before the first."""
    try:
        return store.current(tier)
    except ArtifactNotFound:
        return None


def reshard(workdir: Path, shards: int, *, version: str | None = None) -> str:
    """The version with its items divided over another number of shards; published, not promoted.

    It has the same vectors, so it ranks items as its parent does. Made once; later calls find it.
    Raises `InvalidField` or what opening the parent raises.
    """
    store = ArtifactStore(workdir / "artifacts")
    parent = store.open("retrieval", version)
    if _shards_of(parent) == shards:
        return parent.version
    name = f"{parent.version}-s{shards}"
    if name in store.versions("retrieval"):
        return name
    config = Config.load(workdir / "shortlist.yaml").retrieval
    whole = read_slices(parent)
    with store.stage("retrieval") as staged:
        shutil.copytree(parent.path / "tower", staged.path / "tower")
        owner = shard_of(whole.keys, shards)
        reports = []
        for shard in range(shards):
            mine = np.flatnonzero(owner == shard)
            part = _Slice(
                whole.keys[mine],
                whole.vectors[mine],
                whole.popularity[mine],
                whole.items.take(mine),
            )
            reports.append(part.write(slice_folder(staged.path, shard), config, None, 0))
        meta = dict(parent.manifest.meta) | {
            "shards": shards,
            "items_per_shard": [report["items"] for report in reports],
        }
        staged.publish(version=name, meta=meta, parents={"retrieval": parent.version})
    return name


def read_slices(artifact: Artifact) -> _Slice:
    """All slices of an artifact as one, by ascending key."""
    folders = [slice_folder(artifact.path, shard) for shard in range(_shards_of(artifact))]

    def column(name: str) -> npt.NDArray[Any]:
        return np.concatenate([np.load(one / name, allow_pickle=False) for one in folders])

    keys = column("keys.npy")
    order = np.argsort(keys)
    items = pa.concat_tables([pq.read_table(one / "items.parquet") for one in folders])
    return _Slice(
        keys[order],
        column("vectors.npy")[order],
        column("popularity.npy")[order],
        items.take(order),
    )


def _shards_of(artifact: Artifact) -> int:
    return RetrievalMeta.of(artifact).shards


@click.command(context_settings={"auto_envvar_prefix": "SHORTLIST", "show_default": True})
@click.option(
    "--workdir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Where `shortlist import` put the data set; artifacts are published below it.",
)
@click.option("--address", help="A Ray cluster; default: the enclosing job's, or a private one.")
@click.option("--seed", default=0, help="Makes training repeatable.")
def main(workdir: Path, address: str | None, seed: int) -> None:
    """Train the retrieval tier and promote the new version."""
    run_job(lambda: train(workdir, address=address, seed=seed))


def run_job(job: Callable[[], dict[str, str]]) -> None:
    """Print the versions that a job published, or one line about why it did not."""
    try:
        print(json.dumps(job()))
    except ShortlistError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
