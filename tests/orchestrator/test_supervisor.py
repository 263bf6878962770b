"""The supervisor with small real processes: starting, dying, restarting, and leaving nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.supervisor import (
    AlreadyUp,
    Child,
    ChildSpec,
    Role,
    StartFailed,
    Supervisor,
    SupervisorOptions,
    is_serving,
)
from shortlist.launch import child_environment

ANNOUNCE = """
    import json, signal, sys, time
    port = int(sys.argv[sys.argv.index("--port") + 1]) or 40000
    print(json.dumps({"event": "serving", "port": port}), flush=True)
"""
SERVE = ANNOUNCE + "    signal.pause()\n"
IGNORE_SIGTERM = "    import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVE
HEALTH = """
    import sys, grpc, json
    from concurrent.futures import ThreadPoolExecutor
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"event": "serving", "port": port}), flush=True)
    server.wait_for_termination()
"""


def spec(name: str, script: str, role: Role = "retrieval", port: int = 0) -> ChildSpec:
    command = (sys.executable, "-c", textwrap.dedent(script))
    return ChildSpec(name=name, role=role, command=command, port=port)


async def says_yes(address: str) -> bool:
    return True


def supervise(
    folder: Path, *specs: ChildSpec, told: list[str] | None = None, **options: object
) -> Supervisor:
    return Supervisor(
        folder,
        [lambda _: specs],
        options=SupervisorOptions(**options),  # type: ignore[arg-type]
        probe=says_yes,
        tell=(told if told is not None else []).append,
    )


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def until(condition: object, timeout_s: float = 20.0) -> None:
    ends = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < ends, "the condition did not come true"
        await asyncio.sleep(0.02)


async def test_children_run_inside_the_block_and_none_is_left_after_it(tmp_path: Path) -> None:
    async with supervise(tmp_path, spec("a", SERVE), spec("b", SERVE)).running() as system:
        pids = [child.pid for child in system.children]
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)


async def test_the_status_file_lists_names_ports_and_process_ids(tmp_path: Path) -> None:
    async with supervise(tmp_path, spec("a", SERVE, port=40123)).running() as system:
        status = json.loads(system.status_file.read_text())
        (child,) = system.children
        assert status["pid"] == os.getpid()
        assert [(p["name"], p["port"], p["pid"]) for p in status["processes"]] == [
            ("a", 40123, child.pid)
        ]
    assert not system.status_file.exists()


async def test_a_child_counts_as_started_when_its_health_service_says_serving(
    tmp_path: Path,
) -> None:
    system = Supervisor(tmp_path, [lambda _: [spec("a", HEALTH)]], tell=lambda _: None)
    async with system.running():
        (child,) = system.children
        assert await is_serving(child.address)
        assert child.port > 0
    assert not await is_serving(child.address)


async def test_later_waves_are_made_from_the_children_that_serve(tmp_path: Path) -> None:
    seen: list[int] = []

    def second(serving: Sequence[Child]) -> list[ChildSpec]:
        seen.extend(child.port for child in serving)
        return [spec("late", SERVE, role="orchestrator")]

    waves = [lambda _: [spec("early", SERVE, port=40001)], second]
    async with Supervisor(tmp_path, waves, probe=says_yes).running() as system:
        assert [child.spec.name for child in system.children] == ["early", "late"]
    assert seen == [40001]


async def test_a_child_that_dies_while_starting_ends_everything_and_shows_its_log(
    tmp_path: Path,
) -> None:
    broken = spec("broken", "import sys; sys.exit('no such artifact')")
    system = supervise(tmp_path, spec("good", SERVE), broken)
    with pytest.raises(StartFailed, match=r"broken ended with exit code 1[\s\S]*no such artifact"):
        async with system.running():
            pass
    assert not any(child.running for child in system.children)


async def test_a_child_that_never_serves_ends_everything(tmp_path: Path) -> None:
    mute = spec("mute", "import signal; signal.pause()")
    with pytest.raises(StartFailed, match=r"mute did not serve within 0\.5 s"):
        async with supervise(tmp_path, mute, start_timeout_s=0.5).running():
            pass


async def test_a_killed_child_is_reported_and_stays_dead(tmp_path: Path) -> None:
    told: list[str] = []
    system = supervise(tmp_path, spec("victim", SERVE), spec("other", SERVE), told=told)
    async with system.running():
        victim, other = system.children
        os.kill(victim.pid, signal.SIGKILL)
        await until(lambda: told)
        assert "victim" in told[0]
        assert "SIGKILL" in told[0]
        assert not victim.running
        assert other.running
        status = json.loads(system.status_file.read_text())
        assert [p["running"] for p in status["processes"]] == [False, True]


async def test_with_restart_a_killed_child_comes_back_on_its_port(tmp_path: Path) -> None:
    told: list[str] = []
    system = supervise(tmp_path, spec("victim", SERVE, port=40007), told=told, restart=True)
    async with system.running():
        (victim,) = system.children
        first = victim.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(told) == 2)
        assert f"victim serves again as pid {victim.pid}" in told[1]
        assert victim.pid != first
        assert victim.port == 40007


async def test_it_notices_when_every_child_has_died(tmp_path: Path) -> None:
    async with supervise(tmp_path, spec("only", SERVE)).running() as system:
        os.kill(system.children[0].pid, signal.SIGKILL)
        await asyncio.wait_for(system.until_all_died(), 20)


async def test_a_child_that_ignores_sigterm_is_killed_when_its_grace_is_over(
    tmp_path: Path,
) -> None:
    async with supervise(tmp_path, spec("deaf", IGNORE_SIGTERM), grace_s=0.3).running() as system:
        (deaf,) = system.children
    assert await deaf.wait() == -signal.SIGKILL


async def test_a_stopped_child_does_not_survive(tmp_path: Path) -> None:
    async with supervise(tmp_path, spec("frozen", SERVE), grace_s=0.3).running() as system:
        (frozen,) = system.children
        os.kill(frozen.pid, signal.SIGSTOP)
    assert not frozen.running


async def test_orchestrators_stop_before_the_tiers_they_ask(tmp_path: Path) -> None:
    note = tmp_path / "order"
    script = (
        f"""
    import signal, sys
    def end(*_):
        open({str(note)!r}, "a").write(sys.argv[1] + "\\n"); sys.exit(0)
    signal.signal(signal.SIGTERM, end)
"""
        + SERVE
    )
    specs = [
        ChildSpec(
            name=role,
            role=role,
            command=(sys.executable, "-c", textwrap.dedent(script), role),
        )
        for role in ("retrieval", "ranking", "orchestrator")
    ]
    async with supervise(tmp_path, *specs).running():
        pass
    assert note.read_text().split() == ["orchestrator", "ranking", "retrieval"]


async def test_a_second_supervisor_of_the_same_folder_is_refused(tmp_path: Path) -> None:
    async with supervise(tmp_path, spec("a", SERVE)).running():
        with pytest.raises(AlreadyUp, match=str(os.getpid())):
            async with supervise(tmp_path, spec("b", SERVE)).running():
                pass


async def test_a_status_file_of_a_dead_supervisor_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text('{"pid": 999999999}')
    async with supervise(tmp_path, spec("a", SERVE)).running() as system:
        assert system.children[0].running


async def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = f"""
        import asyncio, pathlib
        from tests.orchestrator.test_supervisor import SERVE, spec, supervise
        async def main():
            async with supervise(pathlib.Path({str(tmp_path)!r}), spec("a", SERVE)).running():
                await asyncio.sleep(600)
        asyncio.run(main())
    """
    supervisor = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], env=child_environment()
    )
    try:
        await until((tmp_path / "up.json").exists)
        status = json.loads((tmp_path / "up.json").read_text())
        pid = status["processes"][0]["pid"]
        assert alive(pid)
    finally:
        supervisor.kill()
        supervisor.wait()
    await until(lambda: not alive(pid))
