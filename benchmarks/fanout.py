"""`python -m benchmarks.fanout`: what asking many shards takes, measured at 8 and foretold at 1000.

Calls to single shards are measured while nothing else goes on, and what CPU time they take when all
shards of this machine are asked at once. `simulator.fanout` is fed with that; what it says
of 8 shards at rising load is printed beside what they took. Then the same simulator says what a
billion items on hundreds of hosts would take.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # numpy reads it when it is loaded

import click
import numpy as np
import numpy.typing as npt
from rich.table import Table

from benchmarks.folders import kept_or_temporary
from benchmarks.retrieval import Plan, measure
from benchmarks.serving.bound import search_cost
from benchmarks.serving.machine import OthersWatch
from benchmarks.serving.recall import probe_queries
from benchmarks.serving.systems import Process, Running, running
from benchmarks.serving.world import WorldShape, prepare
from shortlist.commands.terminal import Terminal
from shortlist.errors import ShortlistError
from shortlist.ids import shard_quota
from shortlist.remote import RemoteRetriever
from shortlist.tiers import RetrieveQuery
from simulator.fanout import Hedging, Observed, Outcome, Plant, simulate

__all__ = ["main"]

Floats = npt.NDArray[np.float64]

_PLANNED_ITEMS = 1_000_000_000
_PLANNED_SHARDS = (100, 200, 500, 1000)
_LOADS = (0.2, 0.4, 0.6)  # shares of what the cores can do
_PLANNED_LOAD = 0.5
_PAUSE_S = 0.02  # between calls: what sleeps is slow to wake up, and its caches are cold
_SELDOM_RPS = 1e-3  # one question at a time
_CORES = os.cpu_count() or 1


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
@click.option("--items", type=click.IntRange(2000), default=200_000, show_default=True)
@click.option("--users", type=click.IntRange(200), default=500, show_default=True)
@click.option("--candidates", type=click.IntRange(20), default=1000, show_default=True)
@click.option("--shards", type=click.IntRange(2), default=8, show_default=True)
@click.option(
    "--grown",
    type=click.IntRange(2000),
    nargs=2,
    default=(1_000_000, 4_000_000),
    show_default=True,
    help="Items of two indexes: how a search's time grows.",
)
@click.option("--calls", type=click.IntRange(20), default=250, show_default=True, help="A shard.")
@click.option("--seconds", type=float, default=20.0, show_default=True, help="At each load.")
@click.option("--simulated", type=click.IntRange(50), default=4000, show_default=True)
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the world here, and use it again; default: a temporary folder.",
)
def main(
    as_json: bool,
    items: int,
    users: int,
    candidates: int,
    shards: int,
    grown: tuple[int, int],
    calls: int,
    seconds: float,
    simulated: int,
    workdir: Path | None,
) -> None:
    """Ask --shards shards on this machine, and foretell what many hosts would take."""
    terminal = Terminal(as_json=as_json)
    shape = WorldShape(items=items, users=users, candidates=candidates, shards=(1, shards))
    asked = shard_quota(candidates, shards)
    try:
        with terminal.only_json(), kept_or_temporary(workdir, "fanout") as folder:
            prepare(folder, shape, terminal.err.print)
            terminal.err.print("searching in this process")
            slice_ms = search_cost(folder, shards)[0]
            few, many = (_search_ms(size, asked) for size in grown)
            measured = asyncio.run(_measure(folder, shards, asked, calls, seconds, terminal))
    except ShortlistError as error:
        raise click.ClickException(str(error)) from None
    growth = _Growth(
        fixed_ms=max(0.0, float(measured.side_by_side.shard_ms.mean()) - slice_ms),
        search_ms=few,
        items=grown[0],
        exponent=max(0.0, math.log(many / few) / math.log(grown[1] / grown[0])),
    )
    checks = [_check(measured, run, shards, simulated) for run in measured.runs]
    plans = [
        _plan(measured.side_by_side, growth, count, tree, simulated)
        for count in _PLANNED_SHARDS
        for tree in (False, True)
    ]
    terminal.out.print(_checks_table(checks, items, shards))
    terminal.out.print(_plans_table(plans))
    terminal.emit(
        {
            "items": items,
            "shards": shards,
            "asked_of_a_shard": asked,
            "call_ms": _percentiles(measured.call_ms),
            "client_cpu_ms": measured.alone.client_ms,
            "shard_cpu_ms": measured.shard_cpu_ms,
            "wire_ms": measured.alone.wire_ms,
            "side_by_side": {
                "client_cpu_ms": measured.side_by_side.client_ms,
                "shard_cpu_ms": float(measured.side_by_side.shard_ms.mean()),
            },
            "growth": asdict(growth),
            "checks": checks,
            "planned_items": _PLANNED_ITEMS,
            "plans": plans,
        }
    )


def _search_ms(items: int, k: int) -> float:
    """Median of a search for `k` items in one index of so many, in this process."""
    plan = Plan(dim=64, k=k, recall_target=0.97, queries=200, seed=0)
    return measure(items, plan).p50_ms


# -- measured -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Questions to all shards at one rate."""

    rps: float  # 0 = one after the other
    latency_ms: Floats  # float64 [n], from when each was due
    others_busy: float  # share of the cores that other processes took meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    call_ms: Floats  # float64 [n], single calls to single shards
    shard_cpu_ms: float  # of such a call
    alone: Observed  # of single calls
    side_by_side: Observed  # with the CPU time that calls take when all shards compute
    runs: tuple[_Run, ...]


async def _measure(
    folder: Path, shards: int, asked: int, calls: int, seconds: float, terminal: Terminal
) -> _Measured:
    queries = await probe_queries(folder, asked)
    async with running(folder, "distributed", "fast", shards=shards, rankers=1) as system:
        retrievers = [RemoteRetriever(address) for address in system.shards]

        def all_cpu_s() -> float:
            return _cpu_s(system.processes) + time.process_time()

        try:
            await _ask_all(retrievers, queries, 20, 3.0)  # warm
            terminal.err.print("asking one shard at a time")
            singly = [[retriever] for retriever in retrievers]
            call_ms, client_ms, shard_ms = await _ask_in_turn(system, singly, queries, calls)
            alone = _observed(call_ms, client_ms, shard_ms)
            terminal.err.print("asking all shards, one question at a time")
            watch = OthersWatch(all_cpu_s)
            latency, both_client_ms, both_shard_ms = await _ask_in_turn(
                system, [retrievers], queries, calls
            )
            side_by_side = replace(
                alone.scaled(both_shard_ms / float(alone.shard_ms.mean())),
                client_ms=both_client_ms,
            )
            runs = [_Run(rps=0.0, latency_ms=latency, others_busy=watch.share())]
            capacity = 1000 * _CORES / (shards * (both_client_ms + both_shard_ms))
            for load in _LOADS:
                rps = load * capacity
                terminal.err.print(f"asking all shards {rps:.0f} times a second")
                watch = OthersWatch(all_cpu_s)
                latency = await _ask_all(retrievers, queries, rps, seconds)
                runs.append(_Run(rps=rps, latency_ms=latency, others_busy=watch.share()))
        finally:
            await asyncio.gather(*(one.close() for one in retrievers))
    return _Measured(
        call_ms=call_ms,
        shard_cpu_ms=shard_ms,
        alone=alone,
        side_by_side=side_by_side,
        runs=tuple(runs),
    )


def _observed(call_ms: Floats, client_ms: float, shard_ms: float) -> Observed:
    """What a call takes beyond both ends' CPU time is the wire's; what varies, the shard's."""
    wire_ms = max(0.0, float(np.median(call_ms)) - client_ms - shard_ms)
    busy = np.maximum(call_ms - client_ms - wire_ms, 0.0)
    return Observed(shard_ms=busy, client_ms=client_ms, wire_ms=wire_ms)


async def _ask_in_turn(
    system: Running,
    asked: Sequence[Sequence[RemoteRetriever]],
    queries: Sequence[RetrieveQuery],
    questions: int,
) -> tuple[Floats, float, float]:
    """So many questions to each of the groups `asked`, whose members are asked at once.

    Milliseconds of each; CPU milliseconds a call of this process, and of a shard's.
    """
    shards = [one for one in system.processes if one.address in system.shards]
    before, cpu = _cpu_s(shards), time.process_time()
    took = []
    for number in range(questions):
        query = queries[number % len(queries)]
        for group in asked:
            started = time.perf_counter()
            await asyncio.gather(*(retriever.retrieve(query) for retriever in group))
            took.append(1000 * (time.perf_counter() - started))
            await asyncio.sleep(_PAUSE_S)
    calls = questions * sum(map(len, asked))
    client_ms = 1000 * (time.process_time() - cpu) / calls
    return np.array(took), client_ms, 1000 * (_cpu_s(shards) - before) / calls


async def _ask_all(
    retrievers: Sequence[RemoteRetriever],
    queries: Sequence[RetrieveQuery],
    rps: float,
    seconds: float,
) -> Floats:
    """Milliseconds until the last shard has answered, of questions at random times."""
    times = np.cumsum(np.random.default_rng(0).exponential(1 / rps, max(2, round(rps * seconds))))
    begun = time.perf_counter()

    async def one(number: int, due: float) -> float:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        query = queries[number % len(queries)]
        await asyncio.gather(*(retriever.retrieve(query) for retriever in retrievers))
        return 1000 * (time.perf_counter() - due)

    return np.array(
        await asyncio.gather(*(one(at, begun + due) for at, due in enumerate(times.tolist())))
    )


def _cpu_s(processes: Sequence[Process]) -> float:
    return sum(one.cpu_s for one in processes)


# -- foretold -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Growth:
    """CPU of a call to a shard of n items: a part that stays, and a search that grows."""

    fixed_ms: float
    search_ms: float  # of `items`
    items: int
    exponent: float

    def shard_ms(self, items: float) -> float:
        return self.fixed_ms + self.search_ms * (items / self.items) ** self.exponent


def _check(measured: _Measured, run: _Run, shards: int, requests: int) -> dict[str, Any]:
    plant = Plant(shards=shards, shards_per_host=shards, cores_per_host=_CORES, asker_on_host=True)
    rps = run.rps or _SELDOM_RPS
    outcome = simulate(plant, measured.side_by_side, rps=rps, requests=requests)
    return {
        "rps": run.rps,
        "measured_ms": _percentiles(run.latency_ms),
        "predicted_ms": _percentiles(outcome.latency_ms),
        "predicted_busy": outcome.busy,
        "others_busy": run.others_busy,
    }


def _plan(
    observed: Observed, growth: _Growth, shards: int, tree: bool, requests: int
) -> dict[str, Any]:
    """A billion items, a core a replica, two replicas a shard, at half of what they can do."""
    wanted_ms = growth.shard_ms(_PLANNED_ITEMS / shards)
    scaled = observed.longer_by(wanted_ms - float(observed.shard_ms.mean()))
    fan_out = math.isqrt(shards) if tree else 0
    while fan_out and shards % fan_out:
        fan_out -= 1
    busy_ms = float(scaled.shard_ms.mean())
    rps = 1000 * _PLANNED_LOAD * 2 / busy_ms
    asked = shards // fan_out if fan_out else shards
    askers = max(1, math.ceil(rps * asked * scaled.client_ms / 1000 / _PLANNED_LOAD))
    plant = Plant(shards=shards, replicas=2, askers=askers, fan_out=fan_out)
    plain = simulate(plant, scaled, rps=rps, requests=requests)
    delay_ms = float(np.percentile(plain.call_ms, 95))
    hedged = simulate(plant, scaled, rps=rps, requests=requests, hedging=Hedging(delay_ms=delay_ms))
    cpu_ms = shards * (busy_ms + scaled.client_ms) + (asked * scaled.client_ms if fan_out else 0)
    return {
        "shards": shards,
        "fan_out": fan_out,
        "items_a_shard": _PLANNED_ITEMS // shards,
        "shard_ms": busy_ms,
        "rps": rps,
        "plain": _of_outcome(plain),
        "hedged": {**_of_outcome(hedged), "share": hedged.hedged, "delay_ms": delay_ms},
        "cpu_ms_a_page": cpu_ms,
        "cores_for_1000_rps": cpu_ms / _PLANNED_LOAD,
    }


def _of_outcome(outcome: Outcome) -> dict[str, float]:
    return {**_percentiles(outcome.latency_ms), "busy": outcome.busy}


def _percentiles(milliseconds: Floats) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(milliseconds, q)) for q in (50, 95, 99)}


# -- shown ----------------------------------------------------------------------------------------


def _checks_table(checks: list[dict[str, Any]], items: int, shards: int) -> Table:
    table = Table("questions/s", title=f"{items:,} items on {shards} shards of this machine")
    columns = ("measured p50 ms", "predicted", "measured p99 ms", "predicted", "taken by others")
    for name in columns:
        table.add_column(name, justify="right")
    for one in checks:
        table.add_row(
            f"{one['rps']:.0f}" if one["rps"] else "one at a time",
            *(
                f"{one[kind][q]:.1f}"
                for q in ("p50", "p99")
                for kind in ("measured_ms", "predicted_ms")
            ),
            f"{one['others_busy']:.0%}",
        )
    return table


def _plans_table(plans: list[dict[str, Any]]) -> Table:
    title = f"{_PLANNED_ITEMS:,} items, 2 replicas, shards half busy (predicted)"
    table = Table("shards", title=title)
    columns = ("asked through", "items a shard", "pages/s", "p50 ms", "p99 ms", "p99 hedged")
    for name in (*columns, "hedged %", "CPU ms a page", "cores for 1000/s"):
        table.add_column(name, justify="right")
    for one in plans:
        fan_out = one["fan_out"]
        table.add_row(
            str(one["shards"]),
            f"{one['shards'] // fan_out} hosts" if fan_out else "directly",
            f"{one['items_a_shard']:,}",
            f"{one['rps']:.0f}",
            f"{one['plain']['p50']:.1f}",
            f"{one['plain']['p99']:.1f}",
            f"{one['hedged']['p99']:.1f}",
            f"{100 * one['hedged']['share']:.1f}",
            f"{one['cpu_ms_a_page']:.0f}",
            f"{one['cores_for_1000_rps']:.0f}",
        )
    return table


if __name__ == "__main__":
    main()
