"""One model trained by several Ray workers that take the same steps: synchronous data parallelism.

Every worker holds the whole model, begun alike, and does its part of each step's batch; what the
parts come to is added up, and every worker takes the same step with the sum. So the model is that
of one worker with the whole batch, but for the order in which numbers are added.

The sums go through Ray: they find their way between nodes, and under the cluster's token, without
ports or addresses of their own, and a worker that is lost ends the training with an error instead
of a wait for it. TensorFlow's MultiWorkerMirroredStrategy has both to be arranged, and its Keras
side is not made for the legacy optimizers that TF-Recommenders needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

__all__ = ["Alone", "Share", "cores_each", "together", "workers_of"]

Numbers = npt.NDArray[np.floating[Any]]
Result = TypeVar("Result")

_PATIENCE_S = 60.0  # between two looks at whether there is room


class Share(Protocol):
    """What one worker has to know of the others."""

    @property
    def rank(self) -> int:
        """0 .. workers - 1."""
        ...

    @property
    def workers(self) -> int: ...

    def sum(self, part: Numbers) -> Numbers:
        """The sum of the parts of all workers, the same for each. Everybody has to call it as often
        as everybody else, with arrays of one shape and type.
        """
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """A worker without others."""

    rank: int = 0
    workers: int = 1

    def sum(self, part: Numbers) -> Numbers:
        return part


def workers_of(wanted: int | None) -> int:
    """How many workers train a model: as many as are wanted, or one a node. Needs a Ray session."""
    cores = _cores_by_node()
    return max(1, min(wanted or len(cores), sum(cores)))


def cores_each(workers: int) -> int:
    """The most cores that each of so many workers can have at once. Needs a Ray session."""
    return most_cores_each(_cores_by_node(), workers)


def most_cores_each(nodes: Sequence[int], workers: int) -> int:
    """`cores_each` where the nodes have so many cores."""
    fitting = (
        cores
        for cores in range(max(nodes, default=1), 1, -1)
        if sum(one // cores for one in nodes) >= workers
    )
    return next(fitting, 1)


def _cores_by_node() -> list[int]:
    """Of the nodes that have any."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = (int(resources.get("CPU", 0)) for resources in nodes)
    return [one for one in cores if one > 0]


def together(workers: int, work: Callable[..., Result], *arguments: Any, cores: int = 1) -> Result:
    """Call `work(share, *arguments)` in so many tasks of `cores` each at once, on different nodes
    where there are; returns what the first one returns.

    References among the arguments arrive as what they refer to. The first task that fails, or is
    lost, ends the others; its error is raised, as it is. A task that calls this should hold no
    core: it only waits.
    """
    # All places or none: two models that wait for each other's last place would wait for ever.
    places = placement_group([{"CPU": cores}] * workers, strategy="SPREAD")
    adder = ray.remote(num_cpus=0)(_Adder).remote(workers)
    pending: list[ray.ObjectRef] = []
    try:
        while not places.wait(_PATIENCE_S):
            pass
        for rank in range(workers):
            place = PlacementGroupSchedulingStrategy(
                placement_group=places, placement_group_bundle_index=rank
            )
            # A worker that begins anew would be at another step than the others.
            task = _call.options(num_cpus=cores, max_retries=0, scheduling_strategy=place)
            pending.append(task.remote(work, _Member(rank, workers, adder), *arguments))
        first = pending[0]
        while pending:
            finished, pending = ray.wait(pending)
            ray.get(finished)
        result: Result = ray.get(first)
        return result
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        for one in pending:
            ray.cancel(one, force=True)
        ray.kill(adder)
        remove_placement_group(places)


@ray.remote
def _call(work: Callable[..., Any], share: Share, *arguments: Any) -> Any:
    return work(share, *arguments)


class _Member:
    """One of several."""

    def __init__(self, rank: int, workers: int, adder: Any) -> None:
        self.rank, self.workers = rank, workers
        self._adder, self._turn = adder, 0

    def sum(self, part: Numbers) -> Numbers:
        self._turn += 1
        total: Numbers = ray.get(self._adder.add.remote(self._turn, self.rank, part))
        return total


@dataclass(slots=True)
class _Turn:
    """What has come in of one sum."""

    parts: dict[int, Numbers] = field(default_factory=dict)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    total: Numbers | None = None
    taken: int = 0


class _Adder:
    """An actor that adds up the parts of every turn, in the order of ranks: the sum is the same
    whoever is first.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._turns: dict[int, _Turn] = {}

    async def add(self, number: int, rank: int, part: Numbers) -> Numbers:
        turn = self._turns.setdefault(number, _Turn())
        turn.parts[rank] = part
        if len(turn.parts) == self._workers:
            turn.total = np.sum([turn.parts[one] for one in range(self._workers)], axis=0)
            turn.parts.clear()
            turn.complete.set()
        await turn.complete.wait()
        turn.taken += 1
        if turn.taken == self._workers:
            del self._turns[number]
        assert turn.total is not None
        return turn.total
