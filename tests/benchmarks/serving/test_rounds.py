"""Turns, what is made of them, and the targets that they are held against."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.serving.__main__ import main
from benchmarks.serving.machine import OthersWatch
from benchmarks.serving.rounds import Turn, ratio, summary
from benchmarks.serving.systems import Process, Running, cpu_s_of
from benchmarks.serving.targets import targets_of
from tests.benchmarks.serving.conftest import SHAPE


def turn(rps: float, **steady: Any) -> Turn:
    return Turn(saturation_rps=rps, gflops=rps, others_busy=0.0, rising=[], steady=steady)


def test_a_summary_is_made_of_medians_leaf_by_leaf() -> None:
    turns = [
        turn(10, half={"p99_ms": {"page": 5.0}, "recall": None, "sent": {"OK": 3}}),
        turn(90, half={"p99_ms": {"page": 9.0}, "recall": None, "sent": {"OK": 5}}),
        turn(20, half={"p99_ms": {"page": 7.0}, "recall": None, "sent": {"OK": 4}}),
    ]
    figures = summary(turns)
    assert figures["saturation_rps"] == 20
    assert figures["saturation_spread"] == [10, 90]
    assert figures["half"] == {"p99_ms": {"page": 7.0}, "recall": None, "sent": {"OK": 4}}


def test_ratios_are_of_the_same_round() -> None:
    ours, theirs = [turn(10), turn(40), turn(90)], [turn(5), turn(10), turn(30)]
    assert ratio(ours, theirs) == {"median": 3.0, "spread": [2.0, 4.0]}


def test_a_paused_system_takes_no_cpu_and_goes_on_afterwards() -> None:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    process = Process(name="busy", pid=child.pid, address="here", metrics_port=None)
    system = Running(target="here", processes=(process,), roots=(child.pid,))
    try:
        system.pause()
        time.sleep(0.1)
        before = process.cpu_s
        time.sleep(0.3)
        assert process.cpu_s == before
        system.resume()
        while process.cpu_s == before:
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()


def test_what_other_processes_take_is_told_from_what_is_measured() -> None:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        apart = OthersWatch(time.process_time)
        included = OthersWatch(lambda: time.process_time() + cpu_s_of(child.pid))
        while cpu_s_of(child.pid) < 0.5:
            time.sleep(0.05)
        assert apart.share() > included.share()
    finally:
        child.kill()
        child.wait()


def test_a_target_without_a_figure_is_missed() -> None:
    figures = {
        "of_bound": 0.6,
        "recall@1000": 0.98,
        "p99_ms": {"retrieval": 20.0, "ranking": 20.0, "page": float("nan")},
        "orchestrator_cpu_ms": 0.9,
    }
    ratios = {"distributed": {"bound": 0.6, "savedmodel": {"median": 2.3}}}
    found = targets_of({"fast": {"distributed": figures, "ratios": ratios}})
    assert {one["name"]: one["met"] for one in found} == {
        "fast: distributed / bound": True,
        "distributed / peer savedmodel": True,
        "fast: Recall@1000": True,
        "fast: p99 ms of retrieval": False,
        "fast: p99 ms of ranking": True,
        "fast: p99 ms of page": False,
        "fast: orchestrator's CPU ms a page": True,
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_benchmark_prints_one_object_of_ours_and_of_peers(world: Path) -> None:
    options: dict[str, Any] = {
        "--workdir": world,
        "--items": SHAPE.items,
        "--users": SHAPE.users,
        "--candidates": SHAPE.candidates,
        "--form": "fast",
        "--rankers": 1,
        "--rounds": 1,
        "--system": "distributed",
        "--seconds": 1,
        "--rising-seconds": 0.5,
        "--peer": "savedmodel",
    }
    words = [str(word) for pair in options.items() for word in pair]
    done = CliRunner().invoke(main, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    fast = result["fast"]
    figures = fast["distributed"]
    assert figures["saturation_rps"] > 0
    assert len(figures["rounds"]) == 1
    assert figures["recall@1000"] == 1.0  # so few items are searched exactly
    assert figures["p99_ms"].keys() == {"retrieval", "ranking", "page"}
    assert figures["orchestrator_cpu_ms"] > 0
    assert figures["at_50%"]["coverage"] == 1.0
    ratios = fast["ratios"]["distributed"]
    assert ratios["bound"] == pytest.approx(figures["saturation_rps"] / fast["bound_rps"])
    assert ratios["savedmodel"]["median"] > 0
    assert fast["peers"].keys() == {"savedmodel"}
    assert fast["peers"]["savedmodel"]["saturation_rps"] > 0
    assert fast["peers"]["savedmodel"]["recall@1000"] == 1.0
    assert {one["name"] for one in result["targets"]} >= {"distributed / peer savedmodel"}
