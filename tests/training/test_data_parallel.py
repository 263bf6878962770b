"""Workers that take the same steps, on a real private Ray."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.config import Config, DcnConfig, RetrievalConfig, TwoTowerConfig
from shortlist.errors import ArtifactRefused
from shortlist.tiers import UserContext
from tests.trained import short_tmp
from tests.training.lesson_groups import random_groups
from tests.training.test_dcn import SMALL, sizes
from tests.training.test_two_tower import rich_dataset
from tests.training.tiny import DAY_MS
from training.checkpoints import Steps
from training.dataset import Dataset
from training.groups import Groups
from training.histories import history_of
from training.windows import Window

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# One worker has more of each batch than the other.
TOWER = TwoTowerConfig(dim=16, history_length=6, epochs=3, batch_size=101, id_dropout=0.3)


@pytest.fixture(scope="module", autouse=True)
def two_cores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As if this machine had two, whatever it has."""
    from training.ray_session import ray_session

    tmp_path_factory.getbasetemp()  # of the whole session, so not within what is removed here
    with short_tmp() as tmp, pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp))
        patch.setattr(os, "cpu_count", lambda: 2)
        patch.delenv("RAY_ADDRESS", raising=False)
        with ray_session():
            yield


def trained(groups: Groups, workers: int, **changes: Any) -> tuple[Any, int]:
    import ray

    from training.dcn import train_dcn, train_dcn_together

    config = DcnConfig(**SMALL | changes)
    if workers == 1:
        return train_dcn(groups, groups.held_out(0), config, sizes())
    return train_dcn_together(workers, groups, ray.put(groups), config, sizes())


def loss_of(model: Any, groups: Groups) -> float:
    from training.data_parallel import Alone
    from training.dcn import _mean_loss

    return _mean_loss(model, groups.checked(0), sizes(), 32, Alone())


def test_two_workers_end_with_the_network_of_one_that_has_the_whole_batch() -> None:
    """Without a hidden layer nothing is drawn, so only the order of additions differs."""
    groups = random_groups()
    odd = {"hidden": (), "batch_size": 7}  # one worker has more of each batch
    alone, epochs = trained(groups, 1, **odd)
    together, same = trained(groups, 2, **odd)
    assert same == epochs
    for mine, theirs in zip(alone.trainable_variables, together.trainable_variables, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=2e-4)
    assert loss_of(together, groups) == pytest.approx(loss_of(alone, groups), rel=1e-4)
    np.testing.assert_allclose(together.predict(groups), alone.predict(groups), atol=2e-3)


def test_with_dropout_two_workers_lose_as_little_as_one() -> None:
    groups = random_groups()
    (alone, _), (together, _) = trained(groups, 1), trained(groups, 2)
    one, two = loss_of(alone, groups), loss_of(together, groups)
    for variable in alone.output.trainable_variables:  # training begins with zeros there
        variable.assign(0 * variable)
    begun = loss_of(alone, groups)
    assert abs(one - two) < 0.2 * (begun - one)


@pytest.mark.parametrize("timed", [True, False], ids=["sequences", "sets"])
def test_two_workers_end_with_the_two_tower_of_one(timed: bool, tmp_path: Path) -> None:
    from training import retrieval
    from training.data_parallel import Alone

    dataset = rich_dataset(timed=timed)
    job, lesson = tower_lesson(dataset, tmp_path / "one")
    retrieval._train_tower_share(Alone(), job, lesson)
    one, told = retrieval._read_tower(lesson.steps.folder / "tower"), reports_of(lesson)
    _, lesson = tower_lesson(dataset, tmp_path / "two")
    two = trained_by_two(lesson)
    assert len(two.losses) > 1
    np.testing.assert_allclose(two.losses, one.losses, rtol=1e-4)
    np.testing.assert_allclose(two.vectors, one.vectors, atol=1e-3)
    user = UserContext(user_key=0, history=history_of(dataset, np.arange(3)), time_ms=DAY_MS)
    np.testing.assert_allclose(two.encoder.encode(user), one.encoder.encode(user), atol=1e-3)
    # What they have finished is not done again, and one of them tells how far they are.
    np.testing.assert_array_equal(trained_by_two(lesson).vectors, two.vectors)
    assert reports_of(lesson) == told


class Recorder:
    """A board that keeps what was told of the training, and not that it is there."""

    def __init__(self) -> None:
        self._reports: list[tuple[int, int]] = []

    def report(self, _: str, done: int, total: int) -> None:
        if total > 1:
            self._reports.append((done, total))

    def reports(self) -> list[tuple[int, int]]:
        return self._reports


def reports_of(lesson: Any) -> list[tuple[int, int]]:
    """What was told on the way, when the end was told: it comes from another process."""
    import ray

    told: list[tuple[int, int]] = []
    while not told or told[-1][0] < told[-1][1]:
        told = ray.get(lesson.board.reports.remote())
    return [(done, total) for done, total in told if done < total]


def tower_lesson(dataset: Dataset, folder: Path) -> tuple[Any, Any]:
    """What the job's task is given; only where there are times, what comes next judges."""
    import ray

    from training import retrieval

    config = Config(retrieval=RetrievalConfig(two_tower=TOWER))
    job = retrieval._Lesson(dataset=dataset, config=config, half_life_ms=None, data_end={}, seed=0)
    every = np.arange(len(dataset.events))
    known, after = np.split(every, [400 if dataset.has_time else len(every)])
    lesson = retrieval._TowerLesson(
        ref=ray.put(job),
        window=Window(known=known, next=after, as_of_ms=int(dataset.events.time_ms[known[-1]])),
        epochs=None,
        begin_with=None,
        tier="retrieval",
        steps=Steps(folder),
        board=ray.remote(num_cpus=0)(Recorder).remote(),
    )
    return job, lesson


def trained_by_two(lesson: Any) -> Any:
    import ray

    from training import retrieval

    return ray.get(retrieval._train_tower.options(num_cpus=0).remote(lesson, 2))


def test_an_error_of_the_workers_is_that_of_one() -> None:
    groups = random_groups()
    with pytest.raises(ArtifactRefused, match="none of the items"):
        trained(replace(groups, head_labels=np.zeros_like(groups.head_labels)), 2)


def test_sums_are_the_same_for_all_and_in_step() -> None:
    from training.data_parallel import Share, together

    def work(share: Share) -> list[float]:
        time.sleep(0.1 * share.rank)
        turns = range(20)
        sums = [float(share.sum(np.array([10.0**share.rank * n]))[0]) for n in turns]
        seen = share.sum(np.array(sums))  # both have seen the same
        assert seen.tolist() == [share.workers * one for one in sums]
        return sums

    assert together(2, work) == [11.0 * n for n in range(20)]


def test_a_worker_that_is_lost_ends_the_training_of_the_others() -> None:
    import ray

    from training.data_parallel import Share, together

    def work(share: Share) -> None:
        if share.rank == 1:
            os._exit(1)
        share.sum(np.zeros(1))  # would wait for ever

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        together(2, work)
    # Nothing is held any more.
    assert together(2, lambda share: share.workers) == 2


def test_two_models_at_once_do_not_wait_for_each_others_places() -> None:
    import ray

    from training.data_parallel import Share, together

    def work(share: Share) -> float:
        return float(share.sum(np.ones(1))[0])

    model = ray.remote(num_cpus=0)(lambda: together(2, work))
    assert ray.get([model.remote() for _ in range(2)]) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("nodes", "workers", "cores"),
    [
        ([8], 1, 8),
        ([8, 8, 8], 3, 8),
        ([8, 8, 8], 2, 8),
        ([8], 3, 2),
        ([2, 64, 64, 64], 4, 32),
        ([4, 6], 2, 4),
        ([1, 1], 2, 1),
        ([], 1, 1),
    ],
)
def test_workers_have_as_many_cores_as_find_room_at_once(
    nodes: list[int], workers: int, cores: int
) -> None:
    from training.data_parallel import most_cores_each

    assert most_cores_each(nodes, workers) == cores


def test_workers_that_get_several_cores_hold_them() -> None:
    import ray

    from training.data_parallel import Share, cores_each, together

    def work(share: Share) -> dict[str, float]:
        return dict(ray.get_runtime_context().get_assigned_resources())

    assert (cores_each(1), cores_each(2)) == (2, 1)
    assert together(1, work, cores=2)["CPU"] == 2


def test_there_are_as_many_workers_as_nodes_unless_more_are_wanted_and_no_more_than_cores() -> None:
    from training.data_parallel import workers_of

    assert workers_of(None) == 1
    assert workers_of(2) == 2
    assert workers_of(5) == 2
