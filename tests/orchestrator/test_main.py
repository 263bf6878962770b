"""`python -m orchestrator` as its own process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.__main__ import main
from ranking_svc.servicer import add_services as add_ranking
from retrieval_svc.servicer import add_services as add_retrieval
from shortlist.client import AsyncClient
from shortlist.config import Config
from shortlist.page import PageRequest
from shortlist.serving import Server, ServerOptions
from tests.contracts.store import write_store
from tests.orchestrator.wire import running
from tests.orchestrator.world import FixedVersion, World, a_world, item_ids, reasons

SCHEMA = """
name: made-up
interactions: [{path: events.csv, event: event}]
events: {click: {weight: 1.0}, view: {weight: 0.0}}
"""


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    Config().save(tmp_path / "shortlist.yaml")
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    world = a_world()
    write_store(tmp_path, world.users.items())
    return tmp_path


@asynccontextmanager
async def tiers(world: World) -> AsyncIterator[list[str]]:
    """The command line's arguments that name the world's tiers, which are served here."""
    async with AsyncExitStack() as stack:
        arguments: list[str] = []
        for shard in world.shards:
            server = Server(ServerOptions(drain_s=0.1))
            add_retrieval(server, shard, FixedVersion(shard))
            arguments += ["--shard", await stack.enter_async_context(running(server))]
        server = Server(ServerOptions(drain_s=0.1))
        add_ranking(server, world.rankers[0], FixedVersion(world.rankers[0]))
        yield [*arguments, "--ranker", await stack.enter_async_context(running(server))]


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orchestrator", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        line = json.loads(await asyncio.wait_for(child.stdout.readline(), 60))
        yield child, f"127.0.0.1:{line['port']}"
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


@pytest.mark.slow
async def test_a_process_of_its_own_serves_the_same_page_and_drains_on_sigterm(
    workdir: Path,
) -> None:
    async with a_world() as world, tiers(world) as arguments:
        async with process("--workdir", str(workdir), *arguments) as (child, target):
            async with AsyncClient(target) as client:
                page = await client.recommend(PageRequest(user_id="ann"))
            child.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(child.wait(), 30) == 0
        assert page.degradations == ()
        assert not page.cold_start
        assert item_ids(page) == item_ids(await world.page("ann"))


@pytest.mark.slow
async def test_a_shard_that_is_not_there_at_the_start_is_missing_and_named(workdir: Path) -> None:
    async with a_world() as world, tiers(world) as arguments:
        arguments[1] = "127.0.0.1:1"
        async with (
            process("--workdir", str(workdir), *arguments) as (_, target),
            AsyncClient(target) as client,
        ):
            page = await client.recommend(PageRequest(user_id="ann"))
    assert reasons(page) == ["SHARD_DOWN"]
    assert (page.coverage.shards_answered, page.coverage.shards_total) == (1, 2)


def test_help_teaches() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for word in ("--shard", "--ranker", "python -m orchestrator", "SHORTLIST_SHARD"):
        assert word in result.output
    assert "--version" not in result.output  # an orchestrator follows its shards


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--workdir"),
        (["--workdir", ".", "--version", "v1"], "No such option"),
        (["--workdir", ".", "--ranker", "a:1"], "name the shards"),
    ],
)
def test_arguments_that_make_no_sense_are_explained(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert complaint in result.output
