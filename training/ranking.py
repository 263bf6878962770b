"""The ranking job: learn from what retrieval proposed and users liked, export, publish, promote.

    python -m training.ranking --workdir W            # a private Ray on this machine
    ray job submit -- python -m training.ranking --workdir W

Lessons come from the `backtest` artifact, which has not seen what its users did next; the published
item table is that of the serving `retrieval` version. All models learn from the same lessons, side
by side, and leave the same users out, on whom the ensemble of them is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import ray

from ranking_svc.columns import EVENTS, FUSED
from ranking_svc.features import FeatureSpec, ItemTable
from ranking_svc.item_counts import ItemCounts
from ranking_svc.models import TRAINABLE, model_folder
from ranking_svc.models.dcn import ENGINES
from ranking_svc.models.ensemble import MIXTURE_FILE, Ensemble, Mixture
from ranking_svc.ranker import ITEM_COUNTS
from shortlist.artifacts import ArtifactStore
from shortlist.compatibility import pair_entries
from shortlist.config import Config
from shortlist.errors import InvalidField
from training.checkpoints import (
    Steps,
    job_digest,
    place,
    read_note,
    steps_of_job,
    write_note,
)
from training.data_parallel import workers_of
from training.encoding import fit_encoders
from training.ensemble import fit_mixture, mixed
from training.fitting import Crew, Fitted, fit_network, fit_trees
from training.groups import Groups
from training.item_statistics import HalfLives, count_items, located_features
from training.job_log import tell_done, tell_metrics, tell_snapshot
from training.job_options import JOB_CONTEXT, job_options
from training.judging import judge
from training.promotion import DEFAULT_ENDING, Ending, put_forward
from training.ray_session import new_board, ray_session, wait_for
from training.retrieval import run_job
from training.rewards import Rewards
from training.snapshot import take_snapshot
from training.teaching import Lesson, build_table, gather_lessons, shared_sources
from training.windows import Window, backtest_window, serving_window

__all__ = ["main", "train"]

_LESSONS = "lessons"  # a step of the job; the others are the models
_HELD_OUT = ".held_out.npy"  # kept for the job alone


def train(
    workdir: Path,
    *,
    address: str | None = None,
    seed: int = 0,
    log_sequence: int | None = None,
    ending: Ending = DEFAULT_ENDING,
) -> dict[str, str]:
    """Train and publish a ranking version, and let `ending` decide about it.

    Learns from the import and from what was logged up to `log_sequence`, or until now. Raises
    `ArtifactNotFound` before retrieval was trained, `InvalidField` for a configuration that names
    an unknown model or head, and `ArtifactRefused` when there is nothing to learn from or an
    engine differs from the model.
    """
    config = Config.load(workdir / "shortlist.yaml")
    _check_models(config.ranking.models)
    store = ArtifactStore(workdir / "artifacts")
    retrieval, backtest = store.open("retrieval"), store.open("backtest")
    snapshot = take_snapshot(workdir, config, upto=log_sequence)
    tell_snapshot(snapshot)
    dataset = snapshot.dataset
    past, present = backtest_window(dataset, seed=seed), serving_window(dataset)
    rewards = Rewards.of(dataset, past.known, config.ranking)
    half_lives = HalfLives.of(dataset, past.known)
    encoders = fit_encoders(dataset, past.known)
    sources = shared_sources(config, retrieval, backtest)
    digest = job_digest(dataset, config, seed, retrieval.version, backtest.version)
    with steps_of_job(workdir, "ranking", digest) as steps, ray_session(address):
        tell_done("ranking", steps)
        tables = ray.get(
            [
                build_table.remote(dataset, window, artifact, encoders, half_lives)
                for window, artifact in ((past, backtest), (present, retrieval))
            ]
        )
        lesson = Lesson(
            dataset=dataset,
            config=config,
            artifacts=str((workdir / "artifacts").resolve()),
            backtest=backtest.version,
            spec=FeatureSpec(
                sources=sources, statistics=half_lives.statistics, has_time=dataset.has_time
            ),
            encoders=encoders,
            rewards=rewards,
            table=tables[0],
            seed=seed,
        )
        lesson_ref = ray.put(lesson)
        groups = _gathered_once(lesson, lesson_ref, past, steps)
        with store.stage("ranking") as staged:
            _write_features(staged.path, lesson, tables[1])
            _write_counts(
                staged.path,
                count_items(dataset, present.known, present.as_of_ms, half_lives),
            )
            models, metrics = _fit_all(lesson, lesson_ref, groups, tables[1], staged.path, steps)
            artifact = staged.publish(
                meta={
                    "watermark_ms": present.as_of_ms,
                    **snapshot.meta,
                    "located": list(located_features(dataset)),
                    "items_total": dataset.n_items,
                    "schema_hash": dataset.schema.digest(),
                    **pair_entries(dataset.schema.roles, dataset.item_keys),
                    "sources": list(sources),
                    "features": list(lesson.builder().names),
                    "engines": list(ENGINES),
                    "models": models,
                    "default_model": models[-1],
                    "heads": dict(rewards.worth.heads),
                    "metrics": metrics,
                },
                parents={"retrieval": retrieval.version, "backtest": backtest.version},
            )
    tell_metrics(artifact)
    put_forward(workdir, config, artifact, ending, seed=seed)
    return {"ranking": artifact.version}


def _check_models(names: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in TRAINABLE]:
        known = ", ".join(TRAINABLE)
        raise InvalidField("ranking.models", f"no model {unknown[0]!r}; there are: {known}")
    if len(set(names)) < len(names):
        raise InvalidField("ranking.models", f"a model is named twice: {', '.join(names)}")


def _write_features(folder: Path, lesson: Lesson, table: ItemTable) -> None:
    """Everything that the feature builder reads."""
    (folder / "items").mkdir()
    table.save(folder / "items")
    lesson.spec.save(folder / "spec.json")
    lesson.encoders.item.save(folder / "item_features.json")
    lesson.encoders.user.save(folder / "user_features.json")
    lesson.encoders.context.save(folder / "context_features.json")


def _write_counts(folder: Path, counts: ItemCounts) -> None:
    """What a ranker counts on from, when it follows the log."""
    (folder / ITEM_COUNTS).mkdir()
    counts.save(folder / ITEM_COUNTS)


def _gathered_once(
    lesson: Lesson, lesson_ref: ray.ObjectRef, window: Window, steps: Steps
) -> Groups:
    """The lessons, read again where an earlier run of the job has gathered them."""
    if (done := steps.finished(_LESSONS)) is None:
        groups = gather_lessons(lesson, lesson_ref, window)
        with steps.writing(_LESSONS) as folder:
            groups.save(folder)
        return groups
    return Groups.load(done)


def _fit_all(
    lesson: Lesson,
    lesson_ref: ray.ObjectRef,
    groups: Groups,
    table: ItemTable,
    folder: Path,
    steps: Steps,
) -> tuple[list[Any], dict[str, Any]]:
    """Train every model and their ensemble; the models' names, the default last, and metrics."""
    board = new_board()
    groups_ref, table_ref = ray.put(groups), ray.put(table)
    crew = Crew(workers=workers_of(lesson.config.training.workers), groups_ref=groups_ref)
    names = lesson.config.ranking.models
    # The longest first: there may be fewer cores than models. A crew takes cores of its own.
    tasks = {
        name: _fit_model.options(num_cpus=int(crew.workers == 1 or name == "gbdt")).remote(
            lesson_ref, name, groups_ref, table_ref, steps, board, crew
        )
        for name in sorted(names, key=TRAINABLE.index)
    }
    trained = wait_for(list(tasks.values()), board, "train")
    for name in tasks:
        place(steps.folder / name, folder)
    fitted: dict[str, Fitted] = dict(zip(tasks, trained, strict=True))
    metrics: dict[str, Any] = {name: one.metrics for name, one in fitted.items()}
    if len(fitted) > 1:
        outputs = {name: one.held_out for name, one in fitted.items()}
        metrics[Ensemble.name] = _fit_ensemble(lesson, groups, outputs, folder)
    held_out = int(groups.held_out(lesson.seed).sum())
    summary = {"requests": len(groups), "held_out_requests": held_out, "models": metrics}
    return list(metrics), summary


@ray.remote(num_cpus=1)
def _fit_model(
    lesson: Lesson,
    name: str,
    groups: Groups,
    table: ItemTable,
    steps: Steps,
    board: Any,
    crew: Crew,
) -> Fitted:
    """Train one model and write its files, unless that is done."""

    def report(done: int, total: int) -> None:
        board.report.remote(f"ranker {name}", done, total)

    if steps.finished(name) is None:
        fit = fit_trees if name == "gbdt" else partial(fit_network, crew=crew)
        with steps.writing(name) as folder:
            home = model_folder(folder, name)
            home.mkdir(parents=True)
            fitted = fit(
                name,
                groups,
                lesson.builder(table),
                lesson.rewards,
                lesson.config.ranking,
                home,
                seed=lesson.seed,
                progress=report,
            )
            np.save(folder / _HELD_OUT, fitted.held_out)
            write_note(folder, fitted.metrics)
    report(1, 1)
    step = steps.folder / name
    return Fitted(held_out=np.load(step / _HELD_OUT), metrics=read_note(step))


def _fit_ensemble(
    lesson: Lesson,
    groups: Groups,
    outputs: dict[str, npt.NDArray[np.float32]],
    folder: Path,
) -> dict[str, Any]:
    check = groups.checked(lesson.seed)
    names = lesson.builder().names
    fused = check.numeric[..., names.index(FUSED)]
    strangers = (check.numeric[..., names.index(EVENTS)] == 0).all(axis=1)
    mixture: Mixture = fit_mixture(
        outputs,
        check,
        lesson.rewards,
        fused,
        has_time=lesson.dataset.has_time,
        strangers=strangers,
    )
    home = model_folder(folder, Ensemble.name)
    home.mkdir(parents=True)
    mixture.save(home / MIXTURE_FILE)
    together = mixed(mixture, outputs, lesson.rewards, fused, strangers)
    judged = judge(together, check, lesson.rewards)
    return {
        **judged,
        "weights": dict(mixture.weights),
        "weights_of_strangers": dict(mixture.of(stranger=True).weights),
    }


@click.command(context_settings=JOB_CONTEXT)
@job_options("A workdir in which retrieval was trained.")
def main(
    workdir: Path, address: str | None, seed: int, log_sequence: int | None, ending: Ending
) -> None:
    """Train the ranking tier; a version that passes the gate becomes current, or serves."""
    run_job(
        lambda: train(workdir, address=address, seed=seed, log_sequence=log_sequence, ending=ending)
    )


if __name__ == "__main__":
    main()
