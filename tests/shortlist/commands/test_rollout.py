"""`shortlist rollout` against real processes' services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shortlist.cli import main
from shortlist.rollout_client import Guards, Process, Release
from tests.shortlist.fleets import System, publish_all, running


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    publish_all(tmp_path)
    async with running(tmp_path) as system:
        yield system


async def rollout(
    system: System, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    targets = ",".join(system.targets)
    code = await asyncio.to_thread(main, ["rollout", "--process", targets, *arguments])
    return code, capsys.readouterr().out


async def state(
    system: System, capsys: pytest.CaptureFixture[str], *arguments: str
) -> dict[str, Any]:
    """Of the one orchestrator."""
    code, out = await rollout(system, capsys, *arguments, "--json")
    assert code == 0
    [(target, found)] = json.loads(out)["orchestrators"].items()
    assert target == system.targets[-1]
    return dict(found)


async def test_it_shows_what_is_served_to_whom(
    system: System, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a narrow terminal folds the table
    found = await state(system, capsys)
    assert found["stable"] == {"retrieval": "v1", "ranking": "r1"}
    assert found["canary"] is found["shadow"] is None
    for one in system.shards:
        await one.versions.prepare("v2")
    orchestrator = Process(system.targets[-1])
    await orchestrator.set_canary(Release(retrieval="v2"), 1.0, Guards())
    await orchestrator.close()
    page = await system.page()
    assert (page.versions.retrieval, page.versions.ranking) == ("v2", "r1")
    canary = (await state(system, capsys))["canary"]
    assert (canary["running"], canary["share"], canary["figures"]["pages"]) == (True, 1.0, 1)
    assert canary["release"] == {"retrieval": "v2", "ranking": ""}
    code, out = await rollout(system, capsys)
    assert code == 0
    assert "canary" in out
    assert "100.0%" in out


async def test_a_shadow_is_prepared_everywhere_and_ended(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = await state(system, capsys, "--shadow", "1", "--retrieval", "v2", "--ranking", "r2")
    assert begun["shadow"]["release"] == {"retrieval": "v2", "ranking": "r2"}
    assert system.loaded() == [["v1", "v2"]] * 4
    assert system.loaded("ranking") == [["r1", "r2"]]
    page = await system.page()
    assert (page.versions.retrieval, page.versions.ranking) == ("v1", "r1")
    async with asyncio.timeout(20):
        while not (seen := (await state(system, capsys))["shadow"])["requests"]:
            await asyncio.sleep(0.05)
    assert seen["failed"] == 0
    ended = await state(system, capsys, "--shadow", "0")
    assert (ended["shadow"]["share"], ended["shadow"]["requests"]) == (0.0, 1)


async def test_versions_without_a_shadow_are_a_mistake(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = await rollout(system, capsys, "--ranking", "r2")
    assert code == 2


async def test_a_version_that_does_not_exist_begins_no_shadow(
    system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = await rollout(system, capsys, "--shadow", "0.5", "--ranking", "r9")
    assert code == 1
    assert (await state(system, capsys))["shadow"] is None
