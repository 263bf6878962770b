from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from retrieval_svc.__main__ import main
from shortlist.artifacts import ArtifactStore
from shortlist.config import StoreConfig
from shortlist.remote import RemoteRetriever
from shortlist.stores.opening import open_store
from tests.retrieval_svc.factory import Catalogue, publish, query


@pytest.mark.parametrize("event_loop", ["asyncio", "uvloop"])
async def test_a_shard_serves_until_it_is_told_to_stop(
    tmp_path: Path, checkout: Path, event_loop: str
) -> None:
    publish(ArtifactStore(tmp_path / "artifacts"), Catalogue.random(1200), exact_below=0)
    process = subprocess.Popen(
        [sys.executable, "-m", "retrieval_svc", "--workdir", str(tmp_path), "--shard", "0"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "SHORTLIST_EVENT_LOOP": event_loop},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["event"] == "serving"
        client = RemoteRetriever(f"127.0.0.1:{ready['port']}")
        assert (await client.retrieve(query())).items_searched == 1200
        await _delete_item(tmp_path, "item-7")  # nothing was written to the workdir's log before
        while (await client.retrieve(query())).items_searched != 1199:
            await asyncio.sleep(0.02)
        loaded = _loaded_libraries(process.pid)
        assert any("scann" in library for library in loaded)
        assert not any("tensorflow" in library for library in loaded)
        assert any("uvloop" in library for library in loaded) == (event_loop == "uvloop")
        await client.close()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
    finally:
        process.kill()
        process.communicate()


def test_help_teaches_with_examples() -> None:
    text = CliRunner().invoke(main, ["--help"], prog_name="python -m retrieval_svc").output
    assert "python -m retrieval_svc --workdir W --shard 0 --port 7001" in text
    assert "SHORTLIST_SHARD" in text


def test_the_shard_number_is_required() -> None:
    done = CliRunner().invoke(main, ["--workdir", "absent"])
    assert done.exit_code == 2
    assert "Missing option '--shard'" in done.stderr


def test_a_shard_that_cannot_start_says_why_in_one_line(tmp_path: Path, checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "retrieval_svc", "--workdir", "absent", "--shard", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "no current retrieval version in" in done.stderr
    assert "Traceback" not in done.stderr


async def _delete_item(workdir: Path, id: str) -> None:
    store = open_store(StoreConfig(), workdir)
    await store.delete_items([id])
    await store.close()


def _loaded_libraries(pid: int) -> set[str]:
    maps = Path(f"/proc/{pid}/maps")
    if not maps.exists():
        pytest.skip("needs /proc to see what a process has loaded")
    return {line.split()[-1] for line in maps.read_text().splitlines()}
