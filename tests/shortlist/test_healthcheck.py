from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import click
import pytest
from click.testing import CliRunner, Result

from shortlist.healthcheck import main
from shortlist.serving import Server, ServerOptions


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    running = Server(ServerOptions(drain_s=0))
    port = await running.start()
    yield running, f"127.0.0.1:{port}"
    await running.stop()


async def run(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, list(arguments))


async def test_a_process_that_serves_is_healthy(server: tuple[Server, str]) -> None:
    done = await run(server[1])
    assert (done.exit_code, done.output) == (0, "")


async def test_each_service_of_a_process_can_be_asked_for(server: tuple[Server, str]) -> None:
    assert (await run(server[1], "--service", "grpc.health.v1.Health")).exit_code == 0
    done = await run(server[1], "--service", "shortlist.v1.Retrieval")
    assert (done.exit_code, "NOT_FOUND" in done.stderr) == (1, True)


async def test_a_process_that_drains_is_not_healthy(server: tuple[Server, str]) -> None:
    running, address = server
    await running._health.enter_graceful_shutdown()  # the first step of Server.stop
    done = await run(address)
    assert (done.exit_code, done.stderr) == (1, f"Error: {address}: NOT_SERVING\n")


async def test_a_port_that_refuses_is_not_healthy() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        done = await run(address)
    assert done.exit_code == 1
    assert f"{address}: UNAVAILABLE" in done.stderr


async def test_a_port_that_never_answers_is_not_healthy() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        done = await run(f"127.0.0.1:{mute.getsockname()[1]}", "--timeout-s", "0.2")
    assert done.exit_code == 1


def test_variables_that_configure_a_service_mean_nothing_to_its_health_check() -> None:
    names = [param.envvar for param in main.params if isinstance(param, click.Option)]
    assert names == [None, None]
    assert "auto_envvar_prefix" not in main.context_settings
