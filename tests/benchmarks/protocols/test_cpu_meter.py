from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.protocols.cpu_meter import CpuMeter

BURN = """
import sys, time
while time.process_time() < 0.6:
    pass
open(sys.argv[1], "w").close()
time.sleep(60)
"""
# Starts the burner, says its number and ends: the burner has no parent any more.
LEAVE = """
import subprocess, sys
command = [sys.executable, "-S", "-c", *sys.argv[1:]]
print(subprocess.Popen(command, stdout=subprocess.DEVNULL).pid)
"""


@pytest.mark.skipif(not CpuMeter.available, reason="the meter reads /proc")
def test_a_process_whose_parent_has_ended_is_counted(tmp_path: Path) -> None:
    done = tmp_path / "done"
    with CpuMeter() as meter:
        left = subprocess.run(
            [sys.executable, "-S", "-c", LEAVE, BURN, str(done)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        try:
            while not done.exists():
                pass
            counted = meter.seconds
        finally:
            subprocess.run(["kill", "-9", left.stdout.strip()], check=True)
    assert counted is not None
    assert counted >= 0.6


@pytest.mark.skipif(not CpuMeter.available, reason="the meter reads /proc")
def test_what_a_process_used_stays_counted_when_it_has_ended() -> None:
    with CpuMeter() as meter:
        burner = subprocess.Popen(
            [
                sys.executable,
                "-S",
                "-c",
                "import time\nwhile time.process_time() < 0.3: pass\ninput()",
            ],
            stdin=subprocess.PIPE,
        )
        while (meter.seconds or 0) < 0.25:
            pass
        seen = meter.seconds
        burner.communicate(b"\n")
        assert seen is not None
        assert (meter.seconds or 0) >= seen
