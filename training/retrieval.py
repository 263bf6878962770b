"""The retrieval job: train every source, build the shards in parallel, publish, promote.

    python -m training.retrieval --workdir W            # a private Ray on this machine
    ray job submit -- python -m training.retrieval --workdir W

It trains twice (see `training.windows`): the `backtest` artifact, which finds out how many epochs
are good, how fast popularity fades and what each source is worth in the blend, and from whose
candidates the ranker learns; and the `retrieval` artifact that serves.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt
import ray

from retrieval_svc.encoder import UserEncoder
from retrieval_svc.generation import Generation
from retrieval_svc.index import BruteForceIndex
from retrieval_svc.item_encoder import ItemEncoder
from retrieval_svc.rows import Allowed
from retrieval_svc.slice_files import RetrievalMeta
from retrieval_svc.source_data import SharedData, SourceData
from shortlist.artifacts import Artifact, ArtifactStore, StagedArtifact
from shortlist.compatibility import pair_entries
from shortlist.config import Config, RetrievalConfig
from shortlist.errors import ArtifactRefused, ShortlistError
from shortlist.tiers import UserContext
from training.checkpoints import (
    Steps,
    job_digest,
    place,
    read_note,
    steps_of_job,
    write_note,
)
from training.data_parallel import Alone, Share, cores_each, together, workers_of
from training.dataset import Dataset
from training.fusion import LearnedFusion, Proposed, learn_fusion
from training.half_life import choose_half_life, recency_half_life
from training.histories import user_histories
from training.job_log import tell_done, tell_metrics, tell_snapshot
from training.job_options import JOB_CONTEXT, job_options
from training.lessons import Moment, Proposer, moments, relevant_rows, users_at
from training.metrics import ndcg
from training.promotion import DEFAULT_ENDING, Ending, promote, put_forward
from training.ray_session import (
    cores_of_a_node,
    cores_of_the_cluster,
    new_board,
    ray_session,
    wait_for,
)
from training.shards import TOWER_SOURCE, Writer, read_slices, reshard, sources_of
from training.snapshot import take_snapshot
from training.sources import TRAINERS, Absent, SourceLesson, TrainedSource
from training.windows import Window, backtest_window, serving_window

if TYPE_CHECKING:
    from training.two_tower import TwoTower

__all__ = ["main", "promote", "read_slices", "reshard", "run_job", "sources_of", "train"]

Floats = npt.NDArray[np.float32]
Parameters = Mapping[str, npt.NDArray[np.generic]]

_JUDGES = 1000  # users who decide how long to train
_JUDGED_DEPTH = 100
_TUNING_QUERIES = 256  # real user vectors that the two-tower's index is tuned on
_FUSION_USERS = 1600  # who teach the blend, each half of it alone
_TOWER = "tower"  # a step, and what is kept of it for the job alone
_VECTORS, _PARAMETERS = ".vectors.npy", ".parameters.npz"
_THREADED = ("mf",)  # sources whose training has threads of its own


def train(
    workdir: Path,
    *,
    address: str | None = None,
    seed: int = 0,
    log_sequence: int | None = None,
    ending: Ending = DEFAULT_ENDING,
) -> dict[str, str]:
    """Train and publish both artifacts, and let `ending` decide about them; versions by tier.

    Learns from the import and from what was logged up to `log_sequence`, or until now. Raises
    `ArtifactRefused` when the data cannot be learned from, and what `put_forward` raises; nothing
    is promoted then.
    """
    config = Config.load(workdir / "shortlist.yaml")
    snapshot = take_snapshot(workdir, config, upto=log_sequence)
    tell_snapshot(snapshot)
    dataset = snapshot.dataset
    store = ArtifactStore(workdir / "artifacts")
    past, present = backtest_window(dataset, seed=seed), serving_window(dataset)
    for window in (past, present):
        _refuse_unlearnable(dataset, window)
    half_life = choose_half_life(dataset, past, config.retrieval, seed=seed)
    with (
        steps_of_job(workdir, "retrieval", job_digest(dataset, config, seed)) as steps,
        store.stage("backtest") as staged_past,
        store.stage("retrieval") as staged_present,
        ray_session(address),
    ):
        lesson = _Lesson(
            dataset=dataset,
            config=config,
            half_life_ms=half_life,
            data_end=snapshot.meta,
            seed=seed,
        )
        ref = ray.put(lesson)
        backtest = _Build("backtest", staged_past, past, lesson, ref, steps)
        serving = _Build("retrieval", staged_present, present, lesson, ref, steps)
        # The serving version's sources need nothing of the backtest, and keep the cores busy.
        tower = _train(backtest, and_sources_of=serving)
        fusion = _learn_fusion(backtest, lesson, ref)
        # What was learned about how long to train holds for the version that serves.
        _train(serving, epochs=len(tower.losses), begin_with=_unfinished(tower, lesson))
        made = backtest.publish(fusion)
        artifacts = [made, serving.publish(fusion, {made.tier: made.version})]
    for artifact in artifacts:
        tell_metrics(artifact)
    put_forward(workdir, config, artifacts[-1], ending, seed=seed)
    return {artifact.tier: artifact.version for artifact in artifacts}


@dataclass(frozen=True, kw_only=True)
class _Lesson:
    """What every task of a job needs; lies once in Ray's object store."""

    dataset: Dataset
    config: Config
    half_life_ms: float | None
    data_end: Mapping[str, Any]  # of the snapshot, for the manifest
    seed: int

    @property
    def retrieval(self) -> RetrievalConfig:
        return self.config.retrieval


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tower:
    """What the job needs of a trained two-tower model; TensorFlow is not."""

    encoder: UserEncoder
    item_encoder: ItemEncoder
    vectors: Floats
    losses: tuple[float, ...]
    parameters: Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """A source whose files are there."""

    name: str
    index_column: str | None
    index: Sequence[Mapping[str, Any]] = ()  # a report a shard
    notes: Mapping[str, Any] = field(default_factory=dict)


class _Build:
    """One artifact being made: what its tasks have reported so far."""

    def __init__(
        self,
        tier: str,
        staged: StagedArtifact,
        window: Window,
        lesson: _Lesson,
        lesson_ref: ray.ObjectRef,
        steps: Steps,
    ) -> None:
        self.tier, self.window, self.folder = tier, window, staged.path
        self._steps = steps.below(tier)
        tell_done(tier, self._steps)
        self.sources: list[_Written | Absent] = []
        self.tower: _Tower | None = None
        self._staged, self._lesson, self._ref = staged, lesson, lesson_ref
        self.writer = _writer(lesson, self.folder)
        self.writer.make_folders()

    def start_sources(self, board: Any) -> list[ray.ObjectRef]:
        """A task for each source that is asked for, but the two-tower."""
        cores = cores_of_a_node()
        return [
            _train_source.options(num_cpus=cores if name in _THREADED else 1).remote(
                self._ref, self.window, name, self.tier, self._steps, board
            )
            for name in TRAINERS
            if self._lesson.retrieval.quotas[name]
        ]

    def take_sources(self, sources: Sequence[_Written | Absent]) -> None:
        """What the tasks of `start_sources` have come to."""
        self.sources = list(sources)
        for one in sources:
            self._place(one.name)

    def start_tower(
        self, board: Any, epochs: int | None, begin_with: Parameters | None
    ) -> ray.ObjectRef:
        """A task that gets all cores of its node, or has workers that do."""
        workers = workers_of(self._lesson.config.training.workers)
        task = _train_tower.options(num_cpus=cores_of_a_node() if workers == 1 else 0)
        lesson = _TowerLesson(
            ref=self._ref,
            window=self.window,
            epochs=epochs,
            begin_with=begin_with,
            tier=self.tier,
            steps=self._steps,
            board=board,
        )
        return task.remote(lesson, workers)

    def write_tower(self, tower: _Tower) -> None:
        """Both towers, and every slice's items, vectors and two-tower index."""
        self.tower = tower
        self._place(_TOWER)
        if self._lesson.retrieval.quotas[TOWER_SOURCE]:
            self.writer.write_shared(TOWER_SOURCE, SharedData())
        queries = _tuning_queries(self._lesson, self.window, tower.encoder)
        columns, shards = ray.put((tower.vectors, queries)), range(self._lesson.retrieval.shards)
        reports = ray.get(
            [_write_slice.remote(self._ref, columns, shard, self._steps) for shard in shards]
        )
        for shard in shards:
            self._place(_slice(shard))
        if self._lesson.retrieval.quotas[TOWER_SOURCE]:
            self.sources.append(_Written(name=TOWER_SOURCE, index_column="vectors", index=reports))

    @property
    def present(self) -> dict[str, _Written]:
        """The sources that the version has, in the order in which we list them."""
        written = {one.name: one for one in self.sources if isinstance(one, _Written)}
        return {name: written[name] for name in (TOWER_SOURCE, *TRAINERS) if name in written}

    def meta(self, fusion: LearnedFusion | None = None) -> dict[str, Any]:
        """What the manifest says."""
        if self.tower is None:
            raise RuntimeError(f"{self.tier}: the two-tower is not written yet")
        lesson, vectors, present = self._lesson, self.tower.vectors, self.present
        schema, known = lesson.dataset.schema, fusion.fusion if fusion else {}
        return {
            "dim": vectors.shape[1],
            "shards": lesson.retrieval.shards,
            "items_total": lesson.dataset.n_items,
            "items_per_shard": self.writer.items_per_shard,
            "watermark_ms": self.window.as_of_ms,
            # The backtest has learned less, and follows no log.
            **{
                name: end
                for name, end in lesson.data_end.items()
                if name != "log_sequence" or self.tier == "retrieval"
            },
            "sources": list(present),
            "absent": {one.name: one.reason for one in self.sources if isinstance(one, Absent)},
            "fusion": {name: list(known[name]) for name in present if name in known},
            "indexed": {n: one.index_column for n, one in present.items() if one.index_column},
            "embedding_space": hashlib.sha256(vectors.tobytes()).hexdigest()[:16],
            "schema_hash": schema.digest(),
            **pair_entries(schema.roles, lesson.dataset.item_keys),
            "half_life_ms": lesson.half_life_ms,
            "metrics": {
                "loss": list(self.tower.losses),
                "index": {name: list(one.index) for name, one in present.items() if one.index},
                "sources": {name: dict(one.notes) for name, one in present.items()},
                "fusion": dict(fusion.notes) if fusion else {},
            },
        }

    def publish(self, fusion: LearnedFusion, parents: Mapping[str, str] | None = None) -> Artifact:
        return self._staged.publish(meta=self.meta(fusion), parents=parents)

    def _place(self, step: str) -> None:
        done = self._steps.finished(step)
        if done is None:
            raise RuntimeError(f"{self.tier}: {step} is said to be done, but is not there")
        place(done, self.folder)


def _slice(shard: int) -> str:
    """The name of a step."""
    return f"slice-{shard:05d}"


def _refuse_unlearnable(dataset: Dataset, window: Window) -> None:
    """Before any task starts: whichever failed first would say it in its own words."""
    weights = dataset.events.weight[window.known]
    if bad := int(np.count_nonzero(~np.isfinite(weights))):
        raise ArtifactRefused(
            f"interactions.weight: {bad} of {len(weights)} numbers are not finite"
        )
    if not (weights > 0).any():
        raise ArtifactRefused("no positive interaction to train on")


def _unfinished(tower: _Tower, lesson: _Lesson) -> Parameters | None:
    """What the serving version's tower begins with: the backtest's, if that was not done learning.

    Then twice the epochs are not too many. Only without times: events in their order are learned
    in few epochs, the newest last.
    """
    done = lesson.dataset.has_time or len(tower.losses) < lesson.retrieval.two_tower.epochs
    return None if done else tower.parameters


def _train(
    build: _Build,
    *,
    epochs: int | None = None,
    begin_with: Parameters | None = None,
    and_sources_of: _Build | None = None,
) -> _Tower:
    """Train the two-tower of `build`, and the sources of both unless it has them already.

    The tower has as many losses as epochs were good; `epochs` says it beforehand.
    """
    board = new_board()
    tower = build.start_tower(board, epochs, begin_with)
    builds = [one for one in (build, and_sources_of) if one and not one.sources]
    started = [one.start_sources(board) for one in builds]
    every = [tower, *(task for tasks in started for task in tasks)]
    trained, *done = wait_for(every, board, "train")
    for one, tasks in zip(builds, started, strict=True):
        one.take_sources(done[: len(tasks)])
        done = done[len(tasks) :]
    build.write_tower(trained)
    return trained


@ray.remote
def _train_source(
    lesson: _Lesson, window: Window, name: str, tier: str, steps: Steps, board: Any
) -> _Written | Absent:
    """Train one source and write its part of every slice, unless that is done."""

    def report(done: int, total: int) -> None:
        board.report.remote(f"{name} ({tier})", done, total)

    report(0, 1)
    if steps.finished(name) is None:
        assigned = ray.get_runtime_context().get_assigned_resources()
        trained = TRAINERS[name](
            SourceLesson(
                dataset=lesson.dataset,
                rows=window.known,
                as_of_ms=window.as_of_ms,
                config=lesson.retrieval,
                half_life_ms=lesson.half_life_ms,
                seed=lesson.seed,
                threads=int(assigned.get("CPU", 1)),
                progress=report,
            )
        )
        with steps.writing(name) as folder:
            _write_source(trained, lesson, folder)
    report(1, 1)
    return _read_source(steps, name)


def _write_source(trained: TrainedSource | Absent, lesson: _Lesson, folder: Path) -> None:
    if isinstance(trained, Absent):
        write_note(folder, {"absent": trained.reason})
        return
    writer = _writer(lesson, folder)
    writer.make_folders()
    note = {
        "index_column": trained.index_column,
        "index": writer.write_trained(trained, lesson.seed),
        "notes": trained.notes,
    }
    write_note(folder, note)


def _read_source(steps: Steps, name: str) -> _Written | Absent:
    note = read_note(steps.folder / name)
    if "absent" in note:
        return Absent(name=name, reason=note["absent"])
    return _Written(name=name, **note)


@dataclass(frozen=True, kw_only=True)
class _TowerLesson:
    """What a two-tower is trained with."""

    ref: ray.ObjectRef  # of the job's lesson
    window: Window
    epochs: int | None  # of the configuration, unless it is known how many are good
    begin_with: Parameters | None
    tier: str
    steps: Steps
    board: Any

    def report(self, done: int, total: int) -> None:
        self.board.report.remote(f"two-tower ({self.tier})", done, total)


@ray.remote
def _train_tower(lesson: _TowerLesson, workers: int) -> _Tower:
    """Train the two-tower and write both of its sides, unless that is done."""
    if lesson.steps.finished(_TOWER) is None:
        if workers == 1:
            _train_tower_share(Alone(), ray.get(lesson.ref), lesson)
        else:
            cores = cores_each(workers)
            together(workers, _train_tower_share, lesson.ref, lesson, cores=cores)
    lesson.report(1, 1)
    return _read_tower(lesson.steps.folder / _TOWER)


def _train_tower_share(share: Share, job: _Lesson, lesson: _TowerLesson) -> None:
    """What one of several workers does; the first one tells how far it is, and writes."""
    from training.two_tower import train_two_tower  # TensorFlow: in this worker only

    def report(_: str, done: int, total: int) -> None:
        if share.rank == 0:
            lesson.report(done, total)

    dataset, config, epochs = job.dataset, job.retrieval.two_tower, lesson.epochs
    model = train_two_tower(
        dataset,
        lesson.window.known,
        config if epochs is None else config.model_copy(update={"epochs": epochs}),
        recency_half_life_ms=recency_half_life(dataset, lesson.window.known),
        seed=job.seed,
        judge=_judge(dataset, lesson.window, job.seed),
        begin_with=lesson.begin_with,
        progress=report,
        share=share,
    )
    if share.rank == 0:
        with lesson.steps.writing(_TOWER) as folder:
            _write_tower(model, folder)


def _write_tower(model: TwoTower, folder: Path) -> None:
    (folder / "tower").mkdir()
    model.encoder.save(folder / "tower")
    model.item_encoder.save(folder / "tower")
    np.save(folder / _VECTORS, model.item_vectors)
    parameters: dict[str, Any] = dict(model.parameters)
    np.savez(folder / _PARAMETERS, **parameters)
    write_note(folder, {"losses": list(model.losses)})


def _read_tower(step: Path) -> _Tower:
    vectors = np.load(step / _VECTORS)
    item_encoder = ItemEncoder.open(step / "tower", vectors.shape[1])
    if item_encoder is None:
        raise RuntimeError(f"{step} has no item encoder")
    with np.load(step / _PARAMETERS) as parameters:
        return _Tower(
            encoder=UserEncoder.open(step / "tower"),
            item_encoder=item_encoder,
            vectors=vectors,
            losses=tuple(read_note(step)["losses"]),
            parameters=dict(parameters),
        )


def _judge(dataset: Dataset, window: Window, seed: int) -> Callable[[TwoTower], float] | None:
    """How well a model orders what users did next; None where nothing is known of it."""
    todo = moments(dataset, window, limit=_JUDGES, max_staleness_days=0, seed=seed, first_only=True)
    if not todo:
        return None
    users = users_at(dataset, todo)

    def score(model: TwoTower) -> float:
        index = BruteForceIndex(model.item_vectors)
        gains = []
        for moment, user in zip(todo, users, strict=True):
            if relevant := relevant_rows(dataset, moment):
                seen = np.unique(dataset.events.item[moment.known]).astype(np.int64)
                allowed = Allowed(exclude=seen)
                rows, _ = index.search(model.encoder.encode(user), _JUDGED_DEPTH, allowed)
                gains.append(ndcg(rows.tolist(), relevant, _JUDGED_DEPTH))
        return float(np.mean(gains)) if gains else 0.0

    return score


@ray.remote(num_cpus=1)
def _write_slice(
    lesson: _Lesson, columns: tuple[Floats, Floats | None], shard: int, steps: Steps
) -> dict[str, Any] | None:
    """One slice's items, vectors and, where the source is asked for, two-tower index."""
    if steps.finished(_slice(shard)) is None:
        vectors, queries = columns
        dataset, report = lesson.dataset, None
        with steps.writing(_slice(shard)) as folder:
            writer = _writer(lesson, folder)
            writer.make_folders()
            writer.write_items(dataset.item_keys, vectors, dataset.items, shard)
            if lesson.retrieval.quotas[TOWER_SOURCE]:
                writer.write_source(TOWER_SOURCE, SourceData(), shard)
                report = writer.write_index(
                    TOWER_SOURCE, vectors, shard, queries=queries, seed=lesson.seed
                )
            write_note(folder, {"index": report})
    index: dict[str, Any] | None = read_note(steps.folder / _slice(shard))["index"]
    return index


def _writer(lesson: _Lesson, folder: Path) -> Writer:
    return Writer(folder, lesson.dataset.item_keys, lesson.retrieval, lesson.retrieval.shards)


def _tuning_queries(lesson: _Lesson, window: Window, encoder: UserEncoder) -> Floats | None:
    """Vectors of users drawn from the window; None when there are too few to tune on."""
    users = np.unique(lesson.dataset.events.user[window.known])
    chosen = np.random.default_rng(lesson.seed).permutation(users)[:_TUNING_QUERIES]
    if len(chosen) < 32:
        return None
    histories = user_histories(lesson.dataset, window.known, chosen)
    contexts = [
        UserContext(user_key=0, history=history, time_ms=window.as_of_ms) for history in histories
    ]
    return np.stack([encoder.encode(context) for context in contexts])


def _learn_fusion(build: _Build, lesson: _Lesson, lesson_ref: ray.ObjectRef) -> LearnedFusion:
    """What each source of the backtest is worth, from what its users went on to like."""
    todo = [
        moment
        for moment in moments(
            lesson.dataset,
            build.window,
            limit=2 * _FUSION_USERS,
            max_staleness_days=lesson.config.serving.staleness_days,
            seed=lesson.seed,
            first_only=True,
        )
        if relevant_rows(lesson.dataset, moment)
    ][:_FUSION_USERS]
    board, meta = new_board(), build.meta()
    # Each task opens the version anew, so there is one a core.
    size = -(-len(todo) // cores_of_the_cluster()) or 1
    chunks = [todo[at : at + size] for at in range(0, len(todo), size)]
    tasks = [_propose.remote(lesson_ref, meta, str(build.folder), chunk) for chunk in chunks]
    proposed = [one for chunk in wait_for(tasks, board, "blend") for one in chunk]
    learned = _fit_fusion.remote(lesson_ref, tuple(build.present), proposed)
    return wait_for([learned], board, "blend")[0]


@ray.remote(num_cpus=1)
def _propose(
    lesson: _Lesson, meta: Mapping[str, Any], folder: str, todo: Sequence[Moment]
) -> list[Proposed]:
    """What every source of a staged version proposes to some users."""
    read = RetrievalMeta.read(meta, Path(folder))
    generations = [
        Generation.open_folder(Path(folder), read, shard, version="staged")
        for shard in range(read.shards)
    ]
    proposer = Proposer(generations, lesson.config)
    quotas = {name: lesson.retrieval.quotas[name] for name in read.sources}
    keys = lesson.dataset.item_keys
    return [
        Proposed.of(
            read.sources,
            proposer.sources(user, quotas),
            keys[sorted(relevant_rows(lesson.dataset, moment))],
        )
        for moment, user in zip(todo, users_at(lesson.dataset, todo), strict=True)
    ]


@ray.remote(num_cpus=1)
def _fit_fusion(
    lesson: _Lesson, names: Sequence[str], proposed: Sequence[Proposed]
) -> LearnedFusion:
    return learn_fusion(
        names,
        proposed,
        limit=lesson.retrieval.candidates,
        guaranteed=lesson.retrieval.guaranteed,
        seed=lesson.seed,
    )


@click.command(context_settings=JOB_CONTEXT)
@job_options("Where `shortlist import` put the data set; artifacts are published below it.")
def main(
    workdir: Path, address: str | None, seed: int, log_sequence: int | None, ending: Ending
) -> None:
    """Train the retrieval tier; a version that passes the gate becomes current, or serves."""
    run_job(
        lambda: train(workdir, address=address, seed=seed, log_sequence=log_sequence, ending=ending)
    )


def run_job(job: Callable[[], dict[str, str]]) -> None:
    """Print the versions that a job published, or one line about why it did not.

    SIGTERM ends the job as Ctrl-C does, without leaving what it has staged.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        print(json.dumps(job()))
    except ShortlistError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
