"""Workers that take the same steps, on a real private Ray."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shortlist.config import DcnConfig
from shortlist.errors import ArtifactRefused
from tests.trained import short_tmp
from tests.training.lesson_groups import random_groups
from tests.training.test_dcn import SMALL, sizes
from training.groups import Groups

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def two_cores() -> Iterator[None]:
    """As if this machine had two, whatever it has."""
    from training.ray_session import ray_session

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


def test_there_are_as_many_workers_as_nodes_unless_more_are_wanted_and_no_more_than_cores() -> None:
    from training.data_parallel import workers_of

    assert workers_of(None) == 1
    assert workers_of(2) == 2
    assert workers_of(5) == 2
