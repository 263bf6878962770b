from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shortlist.launch import child_environment, module_command, private_ray, tethered


def test_a_module_is_found_from_any_folder_and_not_replaced_by_a_local_one(tmp_path: Path) -> None:
    (tmp_path / "shortlist.py").write_text("print('an impostor')")
    done = subprocess.run(
        module_command("shortlist", "--version"),
        cwd=tmp_path,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("shortlist, version")


def test_a_child_does_not_report_to_anybody() -> None:
    environment = child_environment()
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"


def test_what_the_caller_wants_wins_over_the_environment_and_that_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    assert child_environment()["TF_USE_LEGACY_KERAS"] == "0"
    assert child_environment({"TF_USE_LEGACY_KERAS": "1"})["TF_USE_LEGACY_KERAS"] == "1"


def test_a_private_ray_keeps_its_files_in_the_given_folder_and_its_token_in_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    first, second = private_ray(tmp_path), private_ray(tmp_path)
    assert first["RAY_TMPDIR"] == first["TMPDIR"] == str(tmp_path)
    assert first["RAY_AUTH_MODE"] == "token"
    assert first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]
    assert list(tmp_path.iterdir()) == []


def test_a_ray_that_is_configured_already_keeps_its_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/somewhere")
    assert "RAY_AUTH_TOKEN" not in private_ray(tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the tether is Linux's")
def test_a_tethered_command_dies_with_its_parent(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    child = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(99)"
    parent = (
        "import subprocess, sys; from shortlist.launch import tethered; "
        f"subprocess.Popen(tethered([sys.executable, '-c', {child!r}])).wait()"
    )
    running = subprocess.Popen([sys.executable, "-c", parent], env=child_environment())
    try:
        _until(lambda: pid_file.exists() and pid_file.read_text())
        pid = int(pid_file.read_text())
        assert _alive(pid)
    finally:
        running.kill()
        running.wait()
    _until(lambda: not _alive(pid))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the tether is Linux's")
def test_a_tethered_command_keeps_its_arguments_and_exit_code() -> None:
    code = "import sys; print(sys.argv[1:]); sys.exit(7)"
    done = subprocess.run(
        tethered([sys.executable, "-c", code, "--a b", ""]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, "['--a b', '']\n")


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _until(condition: object, timeout_s: float = 20.0) -> None:
    ends = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < ends
        time.sleep(0.02)
