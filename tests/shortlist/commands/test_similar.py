from __future__ import annotations

import asyncio
import json

import pytest

from shortlist.cli import main
from tests.orchestrator.wire import served
from tests.orchestrator.world import a_world


async def run(*arguments: str) -> int:
    """The command against a served world; `main` starts a loop of its own."""
    async with a_world() as world, served(world.recommender) as target:
        return await asyncio.to_thread(main, ["similar", *arguments, "--target", target])


async def test_it_shows_items_like_one_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("i7", "--page-size", "5", "--exclude", "i9", "--attribute", "genre") == 0
    shown = capsys.readouterr().out
    assert "Like i7" in shown
    assert "Title i" in shown
    assert "two_tower" in shown


async def test_its_document_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("i7", "--page-size", "5", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["items"]) == 5
    assert "i7" not in [item["id"] for item in document["items"]]
    assert document["versions"]["retrieval"] == "v1"
    assert document["trace"]["stages"][0]["stage"] == "profile"


async def test_a_filter_says_which_items_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("i7", "--filter", 'genre = "g2"', "--page-size", "40", "--json") == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert len(items) == 40
    assert all(int(item["id"][1:]) % 5 == 2 for item in items)
    assert await run("i7", "--filter", "genre = g2") == 1
    assert "at character 9" in capsys.readouterr().err


async def test_an_unknown_item_is_one_line_of_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("nonsense") == 1
    assert "no item 'nonsense'" in capsys.readouterr().err


def test_it_wants_a_server_or_a_workdir(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["similar", "i7"]) == 2
    assert "--target" in capsys.readouterr().err
