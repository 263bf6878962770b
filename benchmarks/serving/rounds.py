"""Systems side by side, in turns: A B C, A B C, ...

All of them are started, and stand still (SIGSTOP) while another has its turn. So whatever else
happens on the machine meets all alike, no system pays for what another does when it is idle, and
none starts more than once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.serving.machine import OthersWatch
from benchmarks.serving.measuring import Effort, Meter, Tell, load_generator
from benchmarks.serving.sgemm import sgemm_gflops
from benchmarks.serving.systems import Running
from benchmarks.serving.wire import Api

__all__ = ["Contestant", "Turn", "compete", "ratio", "summary"]

_FACTOR = 1.5  # from one rate to the next, as long as nothing is known
# Later rounds begin below what was seen, and go on until the system falls behind.
_AGAIN_FROM, _AGAIN_FACTOR = 0.85, 1.15
_SETTLE_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One system that takes part."""

    name: str
    start: Callable[[], AbstractAsyncContextManager[Running]]
    api: Api
    # Shares of its saturation at which it is looked at: in the first round, and in all others.
    first_shares: tuple[float, ...]
    other_shares: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What was measured of one system in one round."""

    saturation_rps: float
    gflops: float  # of one core just before: what the machine was worth then
    others_busy: float  # share of the cores that other processes took meanwhile
    rising: list[dict[str, float]]
    steady: dict[str, dict[str, Any]]  # "at_50%" -> figures


async def compete(
    contestants: Sequence[Contestant], workdir: Path, effort: Effort, tell: Tell
) -> dict[str, list[Turn]]:
    """The turns of each contestant, one a round."""
    turns: dict[str, list[Turn]] = {one.name: [] for one in contestants}
    async with contextlib.AsyncExitStack() as stack:
        generator = await stack.enter_async_context(load_generator())
        meters: dict[str, Meter] = {}
        for one in contestants:
            tell(f"starting {one.name}")
            system = await stack.enter_async_context(one.start())
            meters[one.name] = Meter(system, generator, one.api)
            stack.callback(system.resume)  # a stopped process does not end
            await meters[one.name].run(effort.first_rps, effort.warm_s)
            await _pause(system)
        for number in range(effort.rounds):
            for one in contestants:
                tell(f"round {number + 1}, {one.name}")
                before = turns[one.name]
                before.append(await _turn(one, meters[one.name], before, workdir, effort, tell))
    return turns


async def _turn(
    contestant: Contestant,
    meter: Meter,
    before: Sequence[Turn],
    workdir: Path,
    effort: Effort,
    tell: Tell,
) -> Turn:
    gflops = await asyncio.to_thread(sgemm_gflops)
    first, factor = effort.first_rps, _FACTOR
    if before:
        first, factor = _AGAIN_FROM * median(t.saturation_rps for t in before), _AGAIN_FACTOR
    first = max(1.0, first)
    meter.system.resume()
    watch = OthersWatch(meter.all_cpu_s)
    try:
        await meter.run(first / 2, effort.again_s)
        saturation, rising = await meter.saturate(first, factor, effort.rising_s, tell)
        steady = {}
        for share in contestant.other_shares if before else contestant.first_shares:
            rate = max(1.0, share * saturation)
            steady[f"at_{share:.0%}"] = await meter.steady(workdir, rate, effort.steady_s)
        others = watch.share()
    finally:
        await _pause(meter.system)
    return Turn(
        saturation_rps=saturation,
        gflops=gflops,
        others_busy=others,
        rising=rising,
        steady=steady,
    )


async def _pause(system: Running) -> None:
    """Not in the middle of a write to the store, whose lock it would keep."""
    await asyncio.sleep(_SETTLE_S)
    system.pause()


def summary(turns: Sequence[Turn]) -> dict[str, Any]:
    """Medians over the rounds, and how far they lie apart."""
    rates = [one.saturation_rps for one in turns]
    result: dict[str, Any] = {
        "saturation_rps": median(rates),
        "saturation_spread": [min(rates), max(rates)],
        "gflops": median(one.gflops for one in turns),
        "others_busy": median(one.others_busy for one in turns),
        "rounds": [
            {
                "saturation_rps": one.saturation_rps,
                "gflops": one.gflops,
                "others_busy": one.others_busy,
                "rising": one.rising,
            }
            for one in turns
        ],
    }
    for name in dict.fromkeys(name for one in turns for name in one.steady):
        result[name] = _medians([one.steady[name] for one in turns if name in one.steady])
    return result


def ratio(ours: Sequence[Turn], theirs: Sequence[Turn]) -> dict[str, Any]:
    """How many times as much we answer: the median of the rounds' ratios, and all of them."""
    ratios = [
        a.saturation_rps / b.saturation_rps if b.saturation_rps else float("nan")
        for a, b in zip(ours, theirs, strict=True)
    ]
    return {"median": median(ratios), "spread": [min(ratios), max(ratios)]}


def _medians(values: Sequence[Any]) -> Any:
    """Of numbers, leaf by leaf; of anything else the last."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if isinstance(known[0], dict):
        names = dict.fromkeys(name for value in known for name in value)
        return {name: _medians([value.get(name) for value in known]) for name in names}
    if isinstance(known[0], int | float):
        return median(known)
    return known[-1]
