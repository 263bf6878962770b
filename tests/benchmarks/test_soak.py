from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.serving.world import WorldShape, prepare
from benchmarks.soak import MOST_GROWTH, Growth, main
from shortlist.config import Config
from tests.patience import PATIENT


def test_what_stays_has_not_grown() -> None:
    assert Growth.of([5.0] * 30).share == 0


def test_the_warm_up_does_not_count() -> None:
    assert Growth.of([1.0] * 30 + [10.0] * 70).share == 0


def test_a_leak_is_seen() -> None:
    growth = Growth.of([100 + 0.1 * at for at in range(100)])
    assert growth.after > growth.before
    assert growth.share > MOST_GROWTH


def test_one_spike_is_no_growth() -> None:
    samples = [100.0] * 100
    samples[95] = 500.0
    assert Growth.of(samples).share == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "minutes"), [("embedded", 0.15), ("distributed", 5)])
def test_in_five_minutes_nothing_grows_and_nothing_fails(
    kind: str, minutes: float, tmp_path: Path
) -> None:
    be_patient(tmp_path)
    options = f"--minutes {minutes} --rate 5 --items 2000 --users 100 --system {kind} --json"
    done = CliRunner().invoke(main, [*options.split(), "--workdir", str(tmp_path)])
    result = json.loads(done.stdout)
    assert result["pages"] > 200 * minutes
    assert result["failed_pages"] == 0
    assert result["incomplete_pages"] == 0
    assert result["failed_changes"] == {}
    assert len(result["growth"]) == (1 if kind == "embedded" else 4)
    for of_process in result["growth"].values():
        assert of_process["anonymous_mb"]["before"] > 10
        assert of_process["descriptors"]["before"] > 5
        assert len(of_process["anonymous_mb"]["samples"]) > 5
    assert done.exit_code == (0 if result["passed"] else 1)
    if minutes >= 5:  # in a shorter time caches still fill
        assert result["passed"], result["growth"]


def be_patient(workdir: Path) -> None:
    """A page that waits for the tests beside it is not what this is about."""
    prepare(workdir, WorldShape(items=2000, users=100), lambda text: None)
    config = Config.load(workdir / "shortlist.yaml")
    config.model_copy(update={"serving": PATIENT}).save(workdir / "shortlist.yaml")
