"""What a question to many shards takes: queues in front of cores, and the slowest answer counts.

A page waits for every shard, so its latency is the largest of many draws from what one shard takes
(Dean and Barroso, "The Tail at Scale", CACM 2013). Fed with what calls to real shards took, this
says how that grows with shards, load and replicas, and what hedged calls are worth. Replicas of a
shard stand on hosts of their own; a host's cores take its calls in the order of their arrival, and
a search that has begun runs to its end.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

__all__ = ["Hedging", "Observed", "Outcome", "Plant", "simulate"]

Floats = npt.NDArray[np.float64]

_WARM = 0.1  # of the requests, which do not count


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What was seen of single calls, with nothing else under way."""

    shard_ms: Floats  # float64 [n], samples of what one call keeps a shard's core busy
    client_ms: float  # CPU of whoever asks, a call: half for sending, half for the answer
    wire_ms: float = 0.0  # of a call in which nobody computes for it

    def scaled(self, factor: float) -> Observed:
        """As if shards took `factor` times as long."""
        return replace(self, shard_ms=self.shard_ms * factor)

    def longer_by(self, ms: float) -> Observed:
        """As if each search took `ms` more; what makes some calls slow stays what it is."""
        return replace(self, shard_ms=np.maximum(self.shard_ms + ms, 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """The machines."""

    shards: int
    replicas: int = 1
    shards_per_host: int = 1
    cores_per_host: int = 1
    askers: int = 1  # processes that take requests in turn; each is one thread
    fan_out: int = 0  # 0: shards are asked directly; else through hosts that ask so many each
    # Whether whoever asks shares the hosts' cores, as when all run on one machine.
    asker_on_host: bool = False

    def __post_init__(self) -> None:
        if self.shards % self.shards_per_host:
            raise ValueError(f"{self.shards} shards do not fill hosts of {self.shards_per_host}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedging:
    """A call that has not been answered after `delay_ms` is sent to another replica as well."""

    delay_ms: float
    budget: float = 0.05  # hedged calls, at most, as a share of all


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of the requests after the first ones, which find everything idle."""

    latency_ms: Floats = field(repr=False)  # float64 [requests]
    call_ms: Floats = field(repr=False)  # float64 [calls], queueing and searching, unhedged
    hedged: float  # share of the calls
    busy: float  # share of the shards' cores

    def percentile(self, q: float) -> float:
        return float(np.percentile(self.latency_ms, q))


def simulate(
    plant: Plant,
    observed: Observed,
    *,
    rps: float,
    requests: int,
    hedging: Hedging | None = None,
    seed: int = 0,
) -> Outcome:
    """Requests at random times, `rps` a second on average. The same seed gives the same answer."""
    if hedging and (plant.replicas < 2 or plant.shards_per_host > 1):
        raise ValueError("hedging needs replicas on hosts of their own")
    run = _Run(plant, observed, hedging, np.random.default_rng(seed))
    times = np.cumsum(run.rng.exponential(1000 / rps, requests))
    for number, time_ms in enumerate(times.tolist()):
        run.ask(number, time_ms)
    run.send_hedges(math.inf)
    return run.outcome(times)


@dataclass(slots=True)
class _Waiting:
    """Calls that will be hedged unless they are answered before."""

    due_ms: float
    request: int
    shards: npt.NDArray[np.intp]
    replicas: npt.NDArray[np.intp]


class _Run:
    def __init__(
        self,
        plant: Plant,
        observed: Observed,
        hedging: Hedging | None,
        rng: np.random.Generator,
    ) -> None:
        self.rng = rng
        self._plant, self._observed, self._hedging = plant, observed, hedging
        hosts = plant.shards // plant.shards_per_host
        # When each core is free again, ms. [replicas, hosts, cores]
        self._free = np.zeros((plant.replicas, hosts, plant.cores_per_host))
        self._asker_free = np.zeros(plant.askers)
        self._hosts = np.arange(hosts)
        self._sent_after = _sending_ms(plant, observed.client_ms)
        self._answered: list[Floats] = []  # ms by shard, of each request
        self._least: list[float] = []  # ms before which whoever asks is not done
        self._calls: list[Floats] = []
        self._waiting: deque[_Waiting] = deque()
        self._tokens = 0.0
        self._hedges = 0
        self._work = 0.0

    def ask(self, number: int, time_ms: float) -> None:
        """One request, later than all before it."""
        self.send_hedges(time_ms)
        plant = self._plant
        asker = number % plant.askers
        begun = time_ms if plant.asker_on_host else max(time_ms, self._asker_free[asker])
        ready = begun + self._sent_after
        calls = plant.shards // plant.fan_out if plant.fan_out else plant.shards
        self._asker_free[asker] = begun + calls * self._observed.client_ms
        replicas = self.rng.integers(plant.replicas, size=plant.shards)
        answered = self._serve(ready, replicas)
        self._answered.append(answered)
        self._least.append(time_ms if plant.asker_on_host else self._asker_free[asker])
        self._calls.append(answered - ready)
        if self._hedging:
            self._expect(number, begun, answered, ready, replicas)

    def send_hedges(self, until_ms: float) -> None:
        """Those that are due before `until_ms`, as far as the budget goes."""
        while self._waiting and self._waiting[0].due_ms <= until_ms:
            self._hedge(self._waiting.popleft())

    def outcome(self, times: Floats) -> Outcome:
        plant = self._plant
        home_ms = self._observed.wire_ms
        if not plant.asker_on_host:
            home_ms += self._observed.client_ms / 2
        slowest = np.array([one.max() for one in self._answered]) + home_ms
        latency = np.maximum(slowest, self._least) - times
        warm = int(_WARM * len(times))
        return Outcome(
            latency_ms=latency[warm:],
            call_ms=np.concatenate(self._calls[warm:]),
            hedged=self._hedges / (plant.shards * len(times)),
            busy=self._work / (float(times[-1]) * self._free.size),
        )

    def _serve(self, ready: Floats, replicas: npt.NDArray[np.intp]) -> Floats:
        """When the shards are done; ready and replicas are by shard, shards of a host together."""
        plant = self._plant
        work = self.rng.choice(self._observed.shard_ms, plant.shards)
        if plant.asker_on_host:
            work = work + self._observed.client_ms
        self._work += float(work.sum())
        answered = np.empty(plant.shards)
        for place in range(plant.shards_per_host):
            shards = self._hosts * plant.shards_per_host + place
            answered[shards] = self._take_core(
                replicas[shards], self._hosts, ready[shards], work[shards]
            )
        return answered

    def _take_core(
        self,
        replicas: npt.NDArray[np.intp],
        hosts: npt.NDArray[np.intp],
        ready: Floats,
        work: Floats,
    ) -> Floats:
        """One call on each of `hosts`, which are different ones: the core that is free first."""
        core = self._free[replicas, hosts].argmin(axis=1)
        done = np.maximum(self._free[replicas, hosts, core], ready) + work
        self._free[replicas, hosts, core] = done
        return done

    def _expect(
        self,
        number: int,
        begun: float,
        answered: Floats,
        ready: Floats,
        replicas: npt.NDArray[np.intp],
    ) -> None:
        assert self._hedging is not None
        self._tokens = min(
            self._tokens + self._hedging.budget * len(answered), float(len(answered))
        )
        late = np.flatnonzero(answered - ready > self._hedging.delay_ms)
        if len(late):
            due = begun + float(self._sent_after[late[0]]) + self._hedging.delay_ms
            self._waiting.append(_Waiting(due, number, late, replicas[late]))

    def _hedge(self, waiting: _Waiting) -> None:
        allowed = min(len(waiting.shards), int(self._tokens))
        self._tokens -= allowed
        self._hedges += allowed
        shards = waiting.shards[:allowed]
        others = (waiting.replicas[:allowed] + 1) % self._plant.replicas
        before = self._answered[waiting.request]
        begins = np.maximum(self._free[others, shards].min(axis=1), waiting.due_ms)
        # One that still waits in its queue when the first is answered is taken out of it.
        starts = begins < before[shards]
        shards, others = shards[starts], others[starts]
        work = self.rng.choice(self._observed.shard_ms, len(shards))
        self._work += float(work.sum())
        ready = np.full(len(shards), waiting.due_ms)
        done = self._take_core(others, shards, ready, work)
        before[shards] = np.minimum(before[shards], done)


def _sending_ms(plant: Plant, client_ms: float) -> Floats:
    """How long after a request begins each shard's call is on its way, one after the other."""
    if plant.asker_on_host:
        return np.zeros(plant.shards)
    shard, half = np.arange(plant.shards, dtype=np.float64), client_ms / 2
    if not plant.fan_out:
        return (shard + 1) * half
    # Both levels send one after the other.
    return (shard // plant.fan_out + 1) * half + (shard % plant.fan_out + 1) * half
