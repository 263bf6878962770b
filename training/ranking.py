"""The ranking job: learn from what retrieval proposed and users liked, export, publish, promote.

    python -m training.ranking --workdir W            # a private Ray on this machine
    ray job submit -- python -m training.ranking --workdir W

Lessons come from the `backtest` artifact, which has not seen what its users did next; the published
item table is that of the serving `retrieval` version.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import ray

from ranking_svc.engine import (
    ENGINES,
    ONNX_FILE,
    PARITY,
    SAVED_MODEL_FOLDER,
    WEIGHTS_FOLDER,
    open_engine,
    saved_model_inputs,
)
from ranking_svc.features import FeatureBuilder, FeatureRows, FeatureSpec, ItemTable
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.config import Config
from shortlist.errors import ArtifactRefused
from shortlist.features import Encoded
from training.dataset import Dataset
from training.encoding import Encoders, fit_encoders
from training.groups import Groups
from training.item_statistics import HalfLives, build_item_table
from training.lessons import Moment, Proposer, lessons, moments
from training.ray_session import new_board, ray_session, wait_for
from training.retrieval import SOURCES, promote, read_slices, run_job
from training.windows import Window, backtest_window, serving_window

__all__ = ["main", "train"]

_MOST_MOMENTS = 30_000
_MOMENTS_A_TASK = 250
_PARITY_MOMENTS = 8


@dataclass(frozen=True, kw_only=True)
class _Lesson:
    """What every task of a job needs; lies once in Ray's object store."""

    dataset: Dataset
    config: Config
    artifacts: str
    backtest: str  # version
    spec: FeatureSpec
    encoders: Encoders
    table: ItemTable  # as of the backtest

    def builder(self, table: ItemTable | None = None) -> FeatureBuilder:
        encoders = self.encoders
        return FeatureBuilder(
            self.spec, table or self.table, encoders.item, encoders.user, encoders.context
        )


def train(workdir: Path, *, address: str | None = None, seed: int = 0) -> dict[str, str]:
    """Train, publish and promote a ranking version.

    Raises `ArtifactNotFound` before retrieval was trained, and `ArtifactRefused` when there is
    nothing to learn from or an engine differs from the model.
    """
    dataset = Dataset.load(workdir / "dataset")
    config = Config.load(workdir / "shortlist.yaml")
    store = ArtifactStore(workdir / "artifacts")
    retrieval, backtest = store.open("retrieval"), store.open("backtest")
    past, present = backtest_window(dataset, seed=seed), serving_window(dataset)
    half_lives = HalfLives.of(dataset, past.known)
    encoders = fit_encoders(dataset, past.known)
    with ray_session(address):
        tables = ray.get(
            [
                _build_table.remote(dataset, window, artifact, encoders, half_lives)
                for window, artifact in ((past, backtest), (present, retrieval))
            ]
        )
        lesson = _Lesson(
            dataset=dataset,
            config=config,
            artifacts=str((workdir / "artifacts").resolve()),
            backtest=backtest.version,
            spec=FeatureSpec(
                sources=SOURCES, statistics=half_lives.statistics, has_time=dataset.has_time
            ),
            encoders=encoders,
            table=tables[0],
        )
        lesson_ref = ray.put(lesson)
        groups = _gather_lessons(lesson, lesson_ref, past, seed)
        with store.stage("ranking") as staged:
            _write_features(staged.path, lesson, tables[1])
            metrics = _fit(lesson_ref, groups, tables[1], seed, staged.path)
            artifact = staged.publish(
                meta={
                    "watermark_ms": present.as_of_ms,
                    "items_total": dataset.n_items,
                    "schema_hash": dataset.schema.digest(),
                    "sources": list(SOURCES),
                    "features": list(lesson.builder().names),
                    "engines": list(ENGINES),
                    "metrics": metrics,
                },
                parents={"retrieval": retrieval.version, "backtest": backtest.version},
            )
    promote(store, artifact)
    return {"ranking": artifact.version}


@ray.remote(num_cpus=1)
def _build_table(
    dataset: Dataset, window: Window, artifact: Artifact, encoders: Encoders, half_lives: HalfLives
) -> ItemTable:
    whole = read_slices(artifact)
    if not np.array_equal(whole.keys, dataset.item_keys):
        raise ArtifactRefused(
            f"{artifact.tier} {artifact.version} was trained on another catalogue than the "
            "data set's; train retrieval again"
        )
    return build_item_table(
        dataset,
        window.known,
        window.as_of_ms,
        vectors=whole.vectors,
        encoder=encoders.item,
        half_lives=half_lives,
    )


def _gather_lessons(
    lesson: _Lesson, lesson_ref: ray.ObjectRef, window: Window, seed: int
) -> list[Groups]:
    """Groups of all moments, made in parallel tasks."""
    todo = moments(
        lesson.dataset,
        window,
        limit=_MOST_MOMENTS,
        max_staleness_days=lesson.config.serving.max_staleness_days,
        seed=seed,
    )
    board = new_board()
    chunks = [todo[at : at + _MOMENTS_A_TASK] for at in range(0, len(todo), _MOMENTS_A_TASK)]
    done = [
        _teach.remote(lesson_ref, chunk, seed + place, place, len(chunks), board)
        for place, chunk in enumerate(chunks)
    ]
    parts = [part for part in wait_for(done, board, "train") if part is not None]
    if not parts:
        raise ArtifactRefused("retrieval proposed none of the items that users went on to like")
    return parts


@ray.remote(num_cpus=1)
def _teach(
    lesson: _Lesson, chunk: list[Moment], seed: int, place: int, chunks: int, board: Any
) -> Groups | None:
    store = ArtifactStore(lesson.artifacts)
    proposer = Proposer.open(store, "backtest", lesson.backtest, lesson.config)
    groups = lessons(lesson.dataset, chunk, proposer, lesson.builder(), lesson.config, seed=seed)
    ray.get(board.report.remote("ranker lessons", place + 1, chunks))
    return groups


def _write_features(folder: Path, lesson: _Lesson, table: ItemTable) -> None:
    """Everything that the feature builder reads."""
    (folder / "items").mkdir()
    table.save(folder / "items")
    lesson.spec.save(folder / "spec.json")
    lesson.encoders.item.save(folder / "item_features.json")
    lesson.encoders.user.save(folder / "user_features.json")
    lesson.encoders.context.save(folder / "context_features.json")


def _fit(
    lesson_ref: ray.ObjectRef, groups: list[Groups], table: ItemTable, seed: int, folder: Path
) -> dict[str, Any]:
    board = new_board()
    result = _fit_model.remote(lesson_ref, groups, table, seed, str(folder), board)
    return wait_for([result], board, "train")[0]


@ray.remote(num_cpus=1)
def _fit_model(
    lesson: _Lesson, parts: list[Groups], table: ItemTable, seed: int, folder: str, board: Any
) -> dict[str, Any]:
    """Train, export every engine, and hold them to the model."""
    from training.dcn import train_dcn  # TensorFlow: in this worker only
    from training.onnx_export import write_onnx

    groups, encoders, home = Groups.concatenate(parts), lesson.encoders, Path(folder)
    builder = lesson.builder(table)

    def report(_: str, done: int, total: int) -> None:
        board.report.remote("deep cross network", done, total)

    model, metrics = train_dcn(
        groups,
        lesson.config.ranking,
        vocabularies=(
            encoders.item.vocabulary_size,
            encoders.user.vocabulary_size,
            encoders.context.vocabulary_size,
        ),
        item_slots=builder.item_slots,
        seed=seed,
        progress=report,
    )
    weights = model.weights()
    weights.check()
    (home / WEIGHTS_FOLDER).mkdir()
    weights.save(home / WEIGHTS_FOLDER)
    write_onnx(weights, home / ONNX_FILE)
    samples = _parity_samples(groups, table, seed)
    model.save(home / SAVED_MODEL_FOLDER, saved_model_inputs(samples[0], table))
    return metrics | {"moments": len(groups), "parity": check_parity(home, builder, samples)}


def _parity_samples(groups: Groups, table: ItemTable, seed: int) -> list[FeatureRows]:
    """Real feature rows on random items of the published table."""
    rng = np.random.default_rng(seed)
    samples = []
    for at in rng.integers(len(groups), size=_PARITY_MOMENTS):
        numeric = groups.numeric[at][groups.mass[at] > 0]
        nothing = np.zeros((1, 0), np.float32)
        samples.append(
            FeatureRows(
                numeric=numeric,
                items=rng.integers(len(table.keys) + 1, size=len(numeric)),
                user=Encoded(
                    tokens=groups.user_tokens[at][None],
                    weights=groups.user_weights[at][None],
                    numeric=nothing,
                ),
                context=Encoded(
                    tokens=groups.context_tokens[at][None],
                    weights=groups.context_weights[at][None],
                    numeric=nothing,
                ),
                unknown=0,
            )
        )
    return samples


def check_parity(
    folder: Path, builder: FeatureBuilder, samples: list[FeatureRows]
) -> dict[str, float]:
    """Largest difference of each engine from the SavedModel.

    Raises `ArtifactRefused` above `PARITY`, or for another top 20.
    """
    engines = {
        name: open_engine(name, folder, builder.table, builder.item_slots) for name in ENGINES
    }
    worst = dict.fromkeys(ENGINES, 0.0)
    for rows in samples:
        truth = engines["savedmodel"].score(rows)
        for name, engine in engines.items():
            scores = engine.score(rows)
            difference = float(np.abs(scores - truth).max())
            worst[name] = max(worst[name], difference)
            if not difference <= PARITY or not _same_head(scores, truth):  # NaN is no parity
                raise ArtifactRefused(
                    f"engine {name} differs from the model by {difference:.2e}; "
                    f"allowed is {PARITY:.0e} and no change of the best 20"
                )
    return worst


def _same_head(scores: np.ndarray, truth: np.ndarray) -> bool:
    """Whether the best 20 are the same, but for items whose true scores are equal within parity."""
    mine, best = np.argsort(-scores, kind="stable")[:20], np.argsort(-truth, kind="stable")[:20]
    return bool(np.all(np.abs(truth[mine] - truth[best]) <= 2 * PARITY))


@click.command(context_settings={"auto_envvar_prefix": "SHORTLIST", "show_default": True})
@click.option(
    "--workdir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="A workdir in which retrieval was trained.",
)
@click.option("--address", help="A Ray cluster; default: the enclosing job's, or a private one.")
@click.option("--seed", default=0, help="Makes training repeatable.")
def main(workdir: Path, address: str | None, seed: int) -> None:
    """Train the ranking tier and promote the new version."""
    run_job(lambda: train(workdir, address=address, seed=seed))


if __name__ == "__main__":
    main()
