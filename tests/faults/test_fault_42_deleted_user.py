"""Fault 42: a user was deleted. No store, log or later artifact holds the id, or the key of it."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shortlist.artifacts import ArtifactStore
from shortlist.client import AsyncClient
from shortlist.config import Config, StoreConfig
from shortlist.feed import RecordedEvent
from shortlist.ids import key_of
from shortlist.launch import module_command, tethered
from shortlist.page import PageRequest
from shortlist.stores import Store
from shortlist.stores.opening import open_store
from shortlist.stores.sqlite_purge import traces
from tests.contracts.store import a_profile
from tests.faults.any_store import DURABLE_STORES
from tests.orchestrator.wire import served
from tests.orchestrator.world import a_world
from tests.redis_server import RedisServer
from tests.trained import CONFIG, job_environment, short_tmp

GONE = "Ingibjörg-who-left"
STAYS = "Ragnheiður-who-stays"
OTHERS = [f"somebody-{n}" for n in range(200)]
EVENTS = 60  # of each of the two: more than are read one by one


def files_with(folder: Path, user_id: str) -> list[str]:
    """Names of the files that hold the id, or its key in any of the ways in which we write keys."""
    key = key_of(user_id)
    wanted = {*traces(user_id), key.to_bytes(8, "little"), key.to_bytes(8, "big"), b"%d" % key}
    wanted.add(json.dumps(user_id).strip('"').encode())
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(one in path.read_bytes() for one in wanted)
    ]


def recorded(user_id: str, number: int) -> RecordedEvent:
    return RecordedEvent(
        event_id=f"{user_id}-{number}",
        user_id=user_id,
        item_id=f"i{number * 7 % 300}",
        context={"device": f"the phone of {user_id}"},
    )


async def live_for_a_while(client: AsyncClient, store: Store) -> None:
    """Both look at pages and do things; many others do something."""
    for user in (GONE, STAYS):
        report = await client.record_events([recorded(user, n) for n in range(EVENTS)])
        assert report.accepted == EVENTS
        page = await client.recommend(PageRequest(user_id=user))
        click = RecordedEvent(
            event_id=f"click of {user}",
            user_id=user,
            item_id=page.items[0].id,
            attribution_token=page.attribution_token,
        )
        assert (await client.record_events([click])).accepted == 1
        await impressions_of(store, user)
    await client.record_events([recorded(user, n) for n, user in enumerate(OTHERS)])


async def impressions_of(store: Store, user: str) -> None:
    """Return when there are some: they are written after the page was answered."""
    while (profile := await store.get(user)) is None or not len(profile.impressions.keys):
        await asyncio.sleep(0.01)


async def check_refused(client: AsyncClient) -> None:
    report = await client.record_events([recorded(GONE, n) for n in range(1000, 1003)])
    assert report.accepted == 0
    assert [error.field for error in report.errors] == [f"events[{n}].user_id" for n in range(3)]
    page = await client.recommend(PageRequest(user_id=GONE))
    assert page.cold_start
    assert len(page.items) == 20


@pytest.mark.parametrize("kind", DURABLE_STORES)
async def test_fault_42_a_store_and_its_log_hold_no_byte_of_a_deleted_user(
    kind: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    record_fault: Callable[..., None],
) -> None:
    caplog.set_level(logging.DEBUG)
    server = RedisServer(tmp_path, "--save", "3600 100000") if kind == "redis" else None
    if server:
        server.start()
    store = open_store(StoreConfig(url=server.url if server else ""), tmp_path)
    base = [(user, a_profile(user, town="Reykjavík")) for user in (*OTHERS, GONE, STAYS)]
    await store.replace_base(base, [])
    async with (
        a_world(store=store) as world,
        served(world.recommender) as target,
        AsyncClient(target) as client,
    ):
        await live_for_a_while(client, store)
        before = files_with(tmp_path, GONE)
        assert before
        assert (await client.delete_users([GONE])).accepted == 1
        assert files_with(tmp_path, GONE) == []
        await check_refused(client)
        await store.replace_base(base, [])  # an import of files from before
        await check_refused(client)
    stays = await open_again(store, server, tmp_path)
    assert files_with(tmp_path, GONE) == []
    assert files_with(tmp_path, STAYS) != []
    assert stays == EVENTS + 1
    assert GONE not in caplog.text
    record_fault(
        **{f"{kind}_files_before": len(before), f"{kind}_files_after": 0},
        refused=6,
    )


async def open_again(store: Store, server: RedisServer | None, folder: Path) -> int:
    """Who was deleted is not there, also after a restart; events of the one who stays."""
    await store.close()
    if server:
        server.stop()
        server.start()
    store = open_store(StoreConfig(url=server.url if server else ""), folder)
    assert await store.get(GONE) is None
    assert await store.is_forgotten([GONE, STAYS]) == [True, False]
    profile = await store.get(STAYS)
    assert profile is not None
    await store.close()
    if server:
        server.stop()
    return sum(profile.counters.values())


@pytest.mark.slow  # trains
async def test_fault_42_no_later_artifact_holds_a_deleted_user(
    tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    workdir = tmp_path / "workdir"
    await asyncio.to_thread(import_a_world, workdir)
    before = files_with(workdir, GONE)
    assert {"dataset/users.parquet", "dataset/dataset.json", "store.sqlite"} <= set(before)
    assert await forget(workdir) == 1
    assert files_with(workdir, GONE) == ["dataset/dataset.json", "dataset/users.parquet"]
    with short_tmp() as tmp:
        for tier in ("retrieval", "ranking"):
            await asyncio.to_thread(train, tier, workdir, tmp)
        assert files_with(tmp, GONE) == []
    assert files_with(workdir, GONE) == []
    assert files_with(workdir, STAYS) != []
    artifacts = ArtifactStore(workdir / "artifacts")
    for tier in ("backtest", "retrieval", "ranking"):
        assert artifacts.open(tier).manifest.meta["forgotten_sequence"] == 1
    record_fault(workdir_files_before=len(before), workdir_files_after=0)


async def forget(workdir: Path) -> int:
    """The number of the change."""
    store = open_store(StoreConfig(), workdir)
    head = await store.forget_users([GONE])
    await store.close()
    return head


def import_a_world(workdir: Path) -> None:
    """Made up, and in it one who will go, one who stays, and bad rows of both."""
    from shortlist.commands.import_data import import_into
    from shortlist.commands.terminal import Terminal
    from shortlist.schema import Schema
    from simulator import World, WorldConfig, write_dataset

    source = workdir.parent / "files"
    world = World(WorldConfig(users=150, items=300, events=4000, seed=42))
    written = write_dataset(world, source)
    lines = (source / "events.csv").read_text("utf-8").splitlines()
    for user in (GONE, STAYS):
        mine = [f'"{user}",{line.partition(",")[2]}' for line in lines[1::97]]
        lines += [*mine, f'"{user}","item-000001","some day","click","tv"']
    (source / "events.csv").write_text("\n".join(lines) + "\n", "utf-8")
    with (source / "users.csv").open("a", encoding="utf-8") as users:
        users.writelines(f'"{user}","IS","35-44","is"\n' for user in (GONE, STAYS))
    workdir.mkdir()
    Config.model_validate(CONFIG).save(workdir / "shortlist.yaml")
    import_into(workdir, Schema.load(written.schema), source, Terminal(as_json=True))
    shutil.rmtree(source)


def train(tier: str, workdir: Path, tmp: Path) -> None:
    """The job as it is run, with its log among the files that are looked through."""
    (workdir / "run").mkdir(exist_ok=True)
    with (workdir / "run" / f"{tier}.log").open("wb") as log:
        done = subprocess.run(
            tethered(module_command(f"training.{tier}", "--workdir", str(workdir))),
            env=job_environment(tmp, tmp),
            stdout=log,
            stderr=log,
            check=False,
        )
    text = (workdir / "run" / f"{tier}.log").read_text("utf-8", "replace")
    assert done.returncode == 0, text
    assert json.loads(text.splitlines()[-1])[tier]
