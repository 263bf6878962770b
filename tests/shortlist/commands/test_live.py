"""`shortlist events`, `items` and `forget`, on a workdir's store and on a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shortlist.cli import main
from shortlist.commands.json_lines import event_of, item_document, item_of, read_lines
from shortlist.commands.sending import insist
from shortlist.errors import InvalidField, ShortlistError, TierUnavailable
from shortlist.live import CatalogItem, StoredEvent
from shortlist.stores.sqlite import SqliteStore
from tests.orchestrator.live import a_live_world
from tests.orchestrator.wire import served

SCHEMA = """
name: shop
interactions: [{path: e.csv, event: kind, context: {device: {role: categorical}}}]
events: {click: {}, buy: {weight: 3}}
items: [{path: i.csv, features: {category: {role: multi_categorical}, price: {role: numeric}}}]
"""
EVENTS = [
    {"user_id": "u1", "item_id": "i1", "event_id": "e1", "event_type": "buy", "time_ms": 5},
    {"user_id": "u1", "item_id": "i2", "context": {"device": "phone"}},
    {"user_id": "u1", "item_id": "i2", "context": {"device": "phone"}},
]

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A command with --json: its exit code and its object."""

    def run(*arguments: object) -> tuple[int, Any]:
        code = main([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def a_file(folder: Path, *lines: object) -> Path:
    path = folder / "lines.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def recorded(workdir: Path) -> list[StoredEvent]:
    async def read() -> list[StoredEvent]:
        store = SqliteStore(workdir / "store.sqlite")
        try:
            return [one async for one in store.events(0, await store.head())]
        finally:
            await store.close()

    return asyncio.run(read())


def test_events_of_a_file_go_to_the_store_and_again_change_nothing(workdir: Path, run: Run) -> None:
    path = a_file(workdir, *EVENTS, "")
    code, sent = run("events", path, "-w", workdir)
    assert code == 0
    assert (sent["lines"], sent["accepted"], sent["duplicates"], sent["refused"]) == (3, 2, 1, [])
    code, again = run("events", path, "-w", workdir)
    assert (again["accepted"], again["duplicates"]) == (0, 3)
    first, second = [one.event for one in recorded(workdir)]
    assert (first.event_id, first.event_type, first.weight, first.time_ms) == ("e1", "buy", 3.0, 5)
    assert (second.event_type, dict(second.context)) == ("click", {"device": "phone"})


def test_refused_lines_are_numbered_and_the_others_are_kept(workdir: Path, run: Run) -> None:
    path = a_file(
        workdir,
        EVENTS[0],
        "{nonsense",
        {"user_id": "u1"},
        "",
        {**EVENTS[1], "colour": "red"},
        {**EVENTS[1], "time_ms": "noon"},
        {**EVENTS[1], "value": True},
        {**EVENTS[1], "event_type": "gaze"},
        "[1]",
        EVENTS[1],
    )
    code, sent = run("events", path, "-w", workdir, "--batch", 4)
    assert code == 1
    assert sent["accepted"] == 2
    refused = {one["line"]: (one["field"], one["message"]) for one in sent["refused"]}
    assert sorted(refused) == [2, 3, 5, 6, 7, 8, 9]
    assert "JSON" in refused[2][1]
    assert refused[3][0] == "event.item_id"
    assert "colour: unknown field" in refused[5][1]
    assert "time_ms" in refused[6][1]
    assert refused[8] == (
        "event.event_type",
        "unknown event type 'gaze'; known: click, buy",
    )


def test_the_report_for_people_names_what_was_refused(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_file(workdir, EVENTS[0], {"user_id": "u1"})
    assert main(["events", str(path), "-w", str(workdir)]) == 1
    out = capsys.readouterr().out
    assert "1 events recorded" in out
    assert "event.item_id" in out


def test_items_are_written_read_listed_and_removed(workdir: Path, run: Run) -> None:
    lines = [
        {"id": "a", "title": "A", "attributes": {"category": ["x", "y"], "price": 2}},
        {"id": "b", "attributes": {"category": "x"}, "hidden": True, "expires_ms": 7},
        {"id": "c", "attributes": {"colour": "red"}},
    ]
    code, sent = run("items", "upsert", a_file(workdir, *lines), "-w", workdir)
    assert (code, sent["accepted"]) == (1, 2)
    assert [(one["line"], one["field"]) for one in sent["refused"]] == [(3, 'attributes["colour"]')]
    code, found = run("items", "get", "b", "nobody", "-w", workdir)
    assert code == 1
    assert found["missing_ids"] == ["nobody"]
    [item] = found["items"]
    assert (item["hidden"], item["expires_ms"]) == (True, 7)
    assert item["attributes"] == {"category": ["x"]}
    code, first = run("items", "list", "--page-size", 1, "-w", workdir)
    code, second = run(
        "items", "list", "--page-size", 1, "--page-token", first["next_page_token"], "-w", workdir
    )
    assert {one["items"][0]["id"] for one in (first, second)} == {"a", "b"}
    assert second["next_page_token"] == ""
    code, deleted = run("items", "delete", "a", "zzz", "-w", workdir)
    assert (code, deleted["accepted"]) == (0, 2)
    assert run("items", "get", "a", "-w", workdir)[0] == 1


def test_a_listing_is_a_file_that_upsert_reads(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"id": f"i{n}", "title": f"No. {n}", "published_ms": n} for n in range(25)]
    main(["items", "upsert", str(a_file(workdir, *lines)), "-w", str(workdir)])
    capsys.readouterr()
    assert main(["items", "list", "--all", "--page-size", "10", "-w", str(workdir)]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(one["id"] for one in listed) == sorted(one["id"] for one in lines)
    assert [item_document(item_of(one)) for one in listed] == listed


def test_a_forgotten_user_is_refused_from_then_on(workdir: Path, run: Run) -> None:
    path = a_file(workdir, EVENTS[0])
    run("events", path, "-w", workdir)
    code, report = run("forget", "u1", "u2", "-w", workdir)
    assert (code, report["accepted"]) == (0, 2)
    code, sent = run("events", a_file(workdir, EVENTS[1]), "-w", workdir)
    assert code == 1
    assert sent["refused"][0]["field"] == "user_id"
    assert recorded(workdir) == []


async def test_the_same_commands_talk_to_a_server(tmp_path: Path, run: Run) -> None:
    events = a_file(tmp_path, {"user_id": "ann", "item_id": "i9"}, {"user_id": "ann"})
    async with a_live_world() as (world, store), served(world.recommender) as target:

        def talk() -> None:
            assert run("events", events, "--target", target)[1]["accepted"] == 1
            items = a_file(tmp_path, {"id": "i300", "attributes": {"genre": ["g1"]}})
            code, sent = run("items", "upsert", items, "--target", target, "--wait")
            assert (code, sent["accepted"]) == (0, 1)
            assert run("items", "get", "i300", "--target", target)[0] == 0
            assert run("items", "list", "--target", target)[1]["items"][0]["id"] == "i300"
            assert run("items", "delete", "i1", "--target", target, "--wait")[0] == 0
            assert run("forget", "bob", "--target", target)[0] == 0

        await asyncio.to_thread(talk)
        assert await store.is_forgotten(["bob"]) == [True]


@pytest.mark.parametrize(
    "arguments",
    [
        ["events", "-"],
        ["items", "delete", "i1"],
        ["items", "delete", "i1", "--workdir", "{workdir}", "--wait"],
        ["forget", "u1", "--workdir", "{workdir}/elsewhere"],
        ["items", "list", "--all", "--json", "--workdir", "{workdir}"],
    ],
)
def test_a_command_that_cannot_know_what_to_do_is_a_usage_error(
    workdir: Path, arguments: list[str]
) -> None:
    assert main([one.format(workdir=workdir) for one in arguments]) == 2


@pytest.mark.parametrize("line", ['{"user_id": "\\ud800", "item_id": "i"}', "[" * 100_000])
def test_a_line_that_no_text_or_value_can_hold_is_refused(line: str) -> None:
    [read] = read_lines([line.encode()], event_of)
    assert read.value is None
    assert read.problem


def test_numbers_beyond_the_contract_are_refused() -> None:
    with pytest.raises(InvalidField, match="too large"):
        event_of({"user_id": "u", "item_id": "i", "time_ms": 2**63})
    item = CatalogItem(id="a", attributes={"n": 2.0})
    assert item_of({"id": "a", "attributes": {"n": 2}}) == item


async def test_what_passes_is_tried_again_and_what_does_not_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shortlist.commands.sending._FIRST_PAUSE_S", 0.001)
    failures: list[ShortlistError] = [TierUnavailable("away"), TierUnavailable("away")]

    async def call() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert await insist(call) == "done"
    failures = [InvalidField("x", "wrong"), TierUnavailable("never reached")]
    failures.reverse()
    with pytest.raises(InvalidField):
        await insist(call)
    failures = [TierUnavailable("away")] * 6
    with pytest.raises(TierUnavailable):
        await insist(call)
    assert failures == []
