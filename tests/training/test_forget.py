from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shortlist.cli import main
from shortlist.commands.import_data import schema_text
from shortlist.config import Config, StoreConfig
from shortlist.errors import ArtifactRefused
from shortlist.ids import key_of
from shortlist.schema import Schema
from shortlist.stores import ProfilesUnavailable
from shortlist.stores.opening import open_store
from training.dataset import Dataset, DatasetUnreadable
from training.forget import load_remembered, take_out_the_forgotten
from training.importer import import_dataset

SCHEMA = {
    "name": "shop",
    "interactions": [
        {
            "path": "events.csv",
            "user": "user",
            "item": "item",
            "time": "time",
            "event": "kind",
            "value": "stars",
            "context": {"device": {"role": "categorical"}},
        }
    ],
    "events": {"click": {"weight": 1.0}},
    "items": [{"path": "items.csv", "id": "id", "features": {"name": {"role": "title"}}}],
    "users": [{"path": "users.csv", "id": "id", "features": {"town": {"role": "categorical"}}}],
    "bad_rows": {"max_fraction": 0.5},
}
USERS = ["ann", "bob", "Ægir of the Sea", "dora", "eve"]
GONE = USERS[2]
ONLY_BAD = "mallory-of-the-bad-row"  # nobody whom the import could use
CONFIG = Config()


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Five users who look at things in turn, and rows that the import cannot use."""
    source = tmp_path / "files"
    source.mkdir()
    rows = [
        f"{USERS[n % 5]},item-{n * 7 % 11},{1_700_000_000 + n},click,{n % 3},tv" for n in range(60)
    ]
    bad = [f"{GONE},item-1,yesterday,click,1,tv", f"{ONLY_BAD},item-1,tomorrow,click,1,tv"]
    (source / "events.csv").write_text(_lines("user,item,time,kind,stars,device", [*rows, *bad]))
    (source / "items.csv").write_text(_lines("id,name", [f"item-{n},Item {n}" for n in range(11)]))
    (source / "users.csv").write_text(_lines("id,town", [f"{user},Town" for user in USERS]))
    workdir = tmp_path / "workdir"
    import_dataset(Schema.of(SCHEMA), source, workdir / "dataset")
    return workdir


def _lines(header: str, rows: Sequence[str]) -> str:
    return "\n".join([header, *rows]) + "\n"


def forget(workdir: Path, *users: str) -> int:
    """In the workdir's store; the number of the change."""

    async def run() -> int:
        store = open_store(StoreConfig(), workdir)
        head = await store.forget_users(users)
        await store.close()
        return head

    return asyncio.run(run())


def rows_of(dataset: Dataset) -> list[tuple[Any, ...]]:
    """Everything that is known of each interaction."""
    users, items, events = dataset.user_ids.to_pylist(), dataset.item_ids, dataset.events
    return [
        (
            users[events.user[row]],
            items[events.item[row]].as_py(),
            events.event[row],
            events.value[row],
            events.weight[row],
            events.time_ms[row],
            events.split[row],
            events.context["device"][row].as_py(),
        )
        for row in range(len(events))
    ]


def files_with(folder: Path, *needles: str) -> list[str]:
    """Names of files that hold one of the texts, or the key of one, in any order of bytes."""
    wanted = [needle.encode() for needle in needles]
    wanted += [key_of(one).to_bytes(8, order) for one in needles for order in ("little", "big")]
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(needle in path.read_bytes() for needle in wanted)
    ]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_where_nobody_was_deleted_the_data_set_stays_as_it_is(workdir: Path) -> None:
    before = bytes_of(workdir / "dataset")
    assert load_remembered(workdir, CONFIG).forgotten_sequence == 0
    forget(workdir)  # nobody, but there is a store now
    found = load_remembered(workdir, CONFIG)
    assert bytes_of(workdir / "dataset") == before
    assert (found.dataset.n_users, found.forgotten_sequence) == (5, 0)


def test_a_deleted_user_is_taken_out_and_nothing_else_changes(workdir: Path) -> None:
    before = Dataset.load(workdir / "dataset")
    assert files_with(workdir, GONE) == ["dataset/dataset.json", "dataset/users.parquet"]
    sequence = forget(workdir, GONE, "never-seen")
    found = load_remembered(workdir, CONFIG)
    assert found.forgotten_sequence == sequence == 1
    assert rows_of(found.dataset) == [row for row in rows_of(before) if row[0] != GONE]
    assert found.dataset.user_ids.to_pylist() == [
        user for user in before.user_ids.to_pylist() if user != GONE
    ]
    assert found.dataset.users["f_town"].to_pylist() == ["Town"] * 4
    assert found.dataset.items.equals(before.items)
    assert found.dataset.info.train_end_ms == before.info.train_end_ms
    assert files_with(workdir, GONE, "never-seen") == []


def test_examples_of_bad_rows_go_and_their_counts_stay(workdir: Path) -> None:
    counts = Dataset.load(workdir / "dataset").info.bad_rows["interactions[0]"]
    assert ONLY_BAD in json.dumps(counts)
    forget(workdir, ONLY_BAD)  # who is no user of the data set
    found = load_remembered(workdir, CONFIG).dataset
    left = found.info.bad_rows["interactions[0]"]
    assert (left["rows"], left["bad"]) == (counts["rows"], counts["bad"]) == (62, 2)
    assert left["reasons"].keys() == counts["reasons"].keys()
    assert all(reason["examples"] == [] for reason in left["reasons"].values())
    assert found.n_users == 5
    assert files_with(workdir, ONLY_BAD) == []


def test_when_all_are_deleted_nobody_is_left_to_learn_from(workdir: Path) -> None:
    from training.retrieval import train

    forget(workdir, *USERS)
    found = load_remembered(workdir, CONFIG).dataset
    assert (found.n_users, len(found.events), found.n_items) == (0, 0, 11)
    with pytest.raises(ArtifactRefused, match="no positive interaction"):
        train(workdir)


def test_users_who_are_deleted_later_are_taken_out_the_next_time(workdir: Path) -> None:
    forget(workdir, "ann")
    load_remembered(workdir, CONFIG)
    sequence = forget(workdir, "bob")
    found = load_remembered(workdir, CONFIG)
    assert found.forgotten_sequence == sequence == 2
    assert set(found.dataset.user_ids.to_pylist()) == set(USERS) - {"ann", "bob"}


def test_jobs_that_begin_together_do_it_once(workdir: Path) -> None:
    forget(workdir, GONE, "ann")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: take_out_the_forgotten(workdir, CONFIG), range(8)))
    assert found == [1] * 8
    assert Dataset.load(workdir / "dataset").n_users == 3


def test_a_store_that_cannot_say_who_was_deleted_stops_the_job(workdir: Path) -> None:
    (workdir / "store.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(ProfilesUnavailable, match=r"store\.sqlite"):
        load_remembered(workdir, CONFIG)


def test_a_damaged_data_set_is_not_written_anew(workdir: Path) -> None:
    forget(workdir, GONE)
    with (workdir / "dataset" / "interactions.parquet").open("r+b") as file:
        file.write(b"XXXX")
    with pytest.raises(DatasetUnreadable, match="checksum"):
        load_remembered(workdir, CONFIG)


def test_the_command_takes_users_out_of_a_workdirs_data_set_at_once(workdir: Path) -> None:
    (workdir / "schema.yaml").write_text(schema_text(Schema.of(SCHEMA)), "utf-8")
    assert main(["forget", GONE, "--workdir", str(workdir), "--json"]) == 0
    assert files_with(workdir, GONE) == []
    assert Dataset.load(workdir / "dataset").n_users == 4


@pytest.mark.slow  # kills a process at each line
def test_who_is_killed_while_forgetting_leaves_a_data_set_and_nobody_who_was_deleted(
    workdir: Path, checkout: Path
) -> None:
    forget(workdir, GONE)
    run = subprocess.run(
        [sys.executable, "-m", "tests.faults.forgetter", str(workdir), GONE],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout)
    assert figures["steps"] > 30
    assert 0 < figures["absent"] < figures["steps"] / 2  # between two renames
