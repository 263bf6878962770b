from __future__ import annotations

import asyncio
import json

import pytest

from shortlist.cli import main
from tests.orchestrator.wire import served
from tests.orchestrator.world import a_world


async def test_a_filter_and_blocked_values_reach_the_server(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["recommend", "--user", "ann", "--page-size", "30", "--json"]
    words += ["--filter", 'genre IN ("g1", "g2")', "--block", "genre=g1", "--block", "genre=g4"]
    async with a_world() as world, served(world.recommender) as target:
        assert await asyncio.to_thread(main, [*words, "--target", target]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert len(items) == 30
    assert all(int(item["id"][1:]) % 5 == 2 for item in items)
