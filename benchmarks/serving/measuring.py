"""One system under rising load: where it saturates, and what a page costs below that."""

from __future__ import annotations

import contextlib
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.serving.load import LoadGenerator, Plan, Step
from benchmarks.serving.recall import RecallProbe
from benchmarks.serving.systems import Running, cpu_s_of
from benchmarks.serving.wire import Answer, Api
from shortlist.launch import child_environment, module_command

__all__ = ["Effort", "Meter", "load_generator"]

Tell = Callable[[str], None]

_KEPT_UP = 0.95  # of what was offered: below it the system is saturated
_TRACED_EVERY = 5
_STAGES = {"retrieval": ("retrieve",), "ranking": ("rank",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to look."""

    rounds: int = 5  # in which every system has its turn
    warm_s: float = 5.0  # once a system has started
    again_s: float = 1.5  # before each later turn
    rising_s: float = 2.5  # at each rate
    steady_s: float = 6.0  # below saturation
    first_rps: float = 15.0


@contextlib.asynccontextmanager
async def load_generator() -> AsyncIterator[LoadGenerator]:
    command = module_command("benchmarks.serving.load")
    async with LoadGenerator(command, child_environment()) as generator:
        yield generator


class Meter:
    """Puts load on a system and reads its processes' clocks before and after.

    A page that is not complete counts as an error.
    """

    def __init__(self, system: Running, generator: LoadGenerator, api: Api) -> None:
        self._system, self._generator, self._api = system, generator, api

    @property
    def system(self) -> Running:
        return self._system

    async def run(self, rate: float, seconds: float) -> tuple[Step, list[Answer]]:
        step = await self._generator.run(
            Plan(
                target=self._system.target,
                method=self._api.method,
                requests=self._api.plain,
                kept=self._api.looked_at,
                keep_every=_TRACED_EVERY,
                rate=rate,
                seconds=seconds,
            )
        )
        return step, self._api.parse_all(step.answers)

    async def saturate(
        self, first_rps: float, factor: float, seconds: float, tell: Tell
    ) -> tuple[float, list[dict[str, float]]]:
        """Rates that rise by `factor` until the system falls behind at two of them; the most that
        it answered a second, and what came of each rate."""
        rate, best, behind = first_rps, 0.0, 0
        rising = []
        while behind < 2:
            step, answers = await self.run(rate, seconds)
            complete = float(np.mean([one.complete for one in answers])) if answers else 0.0
            good = step.ok_rps * complete
            p99 = step.latency_ms["p99"]
            tell(f"{rate:.0f} req/s offered, {good:.0f} answered, p99 {p99:.0f} ms")
            rising.append({"offered_rps": rate, "ok_rps": good, "p99_ms": p99})
            best = max(best, good)
            behind = behind + 1 if good < _KEPT_UP * rate else 0
            rate *= factor
        return best, rising

    async def steady(self, workdir: Path, rate: float, seconds: float) -> dict[str, Any]:
        """Latencies, CPU by process, memory and recall at a rate that it keeps up with."""
        return await _steady(self, workdir, rate, seconds)

    def cpu_s(self) -> dict[str, float]:
        return {one.name: one.cpu_s for one in self._system.processes}

    def all_cpu_s(self) -> float:
        """With whoever sends, and this process, which looks at the answers."""
        return sum(self.cpu_s().values()) + cpu_s_of(self._generator.pid) + time.process_time()


async def _steady(meter: Meter, workdir: Path, rate: float, seconds: float) -> dict[str, Any]:
    probe = RecallProbe(workdir, meter.system.shards)
    before = meter.cpu_s()
    async with probe.running() if meter.system.shards else contextlib.nullcontext():
        step, answers = await meter.run(rate, seconds)
    after = meter.cpu_s()
    await probe.close()
    done = max(1, step.statuses.get("OK", 0))
    cpu_ms = {name: 1000 * (after[name] - before[name]) / done for name in after}
    return {
        "offered_rps": rate,
        "ok_rps": step.ok_rps,
        "statuses": step.statuses,
        "page_ms": step.latency_ms,
        "p99_ms": {
            **{name: _stage_p99(answers, stages) for name, stages in _STAGES.items()},
            "page": step.latency_ms["p99"],
        },
        "stages_ms": _medians(answers),
        "cpu_ms": cpu_ms,
        "all_cpu_ms": sum(cpu_ms.values()),
        "orchestrator_cpu_ms": cpu_ms[meter.system.orchestrator.name],
        "memory_mb": {one.name: dict(one.memory_mb) for one in meter.system.processes},
        "coverage": float(np.mean([one.covered for one in answers])),
        "degraded": sum(one.degraded for one in answers),
        "traced": len(answers),
        "recall": probe.recall,
        "loop_lag_max_ms": 1000 * _loop_lag_s(meter.system),
        "sender_late_ms": step.late_ms,
        "sender_cpu_ms": 1000 * step.sender_cpu_s / done,
    }


def _stage_p99(answers: Sequence[Answer], stages: Sequence[str]) -> float:
    times = [sum(one.stages_ms[stage] for stage in stages) for one in answers if one.stages_ms]
    return float(np.percentile(times, 99)) if times else float("nan")


def _medians(answers: Sequence[Answer]) -> dict[str, float]:
    names = answers[0].stages_ms if answers else {}
    return {
        name: float(np.median([one.stages_ms.get(name, 0.0) for one in answers])) for name in names
    }


def _loop_lag_s(system: Running) -> float:
    port = system.orchestrator.metrics_port
    if port is None:
        return float("nan")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    for family in text_string_to_metric_families(text):
        if family.name == "shortlist_event_loop_lag_max_seconds":
            return float(family.samples[0].value)
    return float("nan")
