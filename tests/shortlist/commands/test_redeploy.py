"""`shortlist redeploy` and `shortlist rollback` on a system that serves."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from shortlist.launch import child_environment, module_command
from tests.shortlist.fleets import System, publish_all, running


async def shortlist(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    process = await asyncio.create_subprocess_exec(
        *module_command("shortlist", *arguments),
        env=child_environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


def place(root: Path, system: System) -> tuple[str, ...]:
    return ("--artifacts", str(root), "--process", ",".join(system.targets), "--json")


async def test_both_tiers_are_redeployed_and_the_last_one_is_rolled_back(tmp_path: Path) -> None:
    publish_all(tmp_path)
    async with running(tmp_path) as system:
        code, out, err = await shortlist("redeploy", *place(tmp_path, system))
        assert code == 0, err
        changes = json.loads(out)["changes"]
        assert [(one["tier"], one["version"], one["previous"]) for one in changes] == [
            ("retrieval", "v2", "v1"),
            ("ranking", "r2", "r1"),
        ]
        assert [one["replicas"] for one in changes] == [4, 1]
        page = await system.page()
        assert (page.versions.retrieval, page.versions.ranking) == ("v2", "r2")

        code, out, err = await shortlist("rollback", *place(tmp_path, system))
        assert code == 0, err
        (change,) = json.loads(out)["changes"]
        assert (change["tier"], change["version"]) == ("ranking", "r1")
        page = await system.page()
        assert (page.versions.retrieval, page.versions.ranking) == ("v2", "r1")


async def test_a_system_that_does_not_answer_is_an_error_of_one_line(tmp_path: Path) -> None:
    publish_all(tmp_path)
    code, out, err = await shortlist(
        "redeploy", "ranking", "--artifacts", str(tmp_path), "--process", "127.0.0.1:1", "--json"
    )
    assert (code, out) == (1, "")
    assert "no version is changed while a process is away: 127.0.0.1:1" in " ".join(err.split())
