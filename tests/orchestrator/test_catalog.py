"""Changes of the catalogue: checked, durable, and waited for where that was asked."""

from __future__ import annotations

import pytest

from orchestrator.catalog import Catalog
from orchestrator.gone import UnavailableItems
from orchestrator.index_wait import IndexWait
from shortlist.errors import BudgetExceeded, InvalidRequest, TierUnavailable
from shortlist.ids import key_of
from shortlist.live import CatalogItem
from shortlist.schema import Schema
from shortlist.stores.memory import MemoryStore
from tests.orchestrator.live import a_live_world
from tests.orchestrator.world import SCHEMA, item_ids


def a_catalog(store: MemoryStore, schema: Schema | None = SCHEMA) -> Catalog:
    return Catalog(store, schema, IndexWait((), UnavailableItems(store), 5.0))


def an_item(id: str = "new", **fields: object) -> CatalogItem:
    return CatalogItem(id=id, **fields)  # type: ignore[arg-type]


FULL = an_item(
    title="A title",
    attributes={
        "genre": ("drama", "comedy"),
        "maker": "m1",
        "price": 3.5,
        "released": 1.6e12,
        "about": "a long text",
        "from": "48.86,2.35",
    },
    published_ms=1_600_000_000_000,
    expires_ms=1_900_000_000_000,
)


async def test_an_item_is_read_as_it_was_written() -> None:
    catalog = a_catalog(MemoryStore())
    report = await catalog.upsert_items([FULL, an_item("other")])
    assert (report.accepted, report.errors, report.sequence) == (2, (), 2)
    found = await catalog.get_items(["other", "nobody", "new"])
    assert found.items == (an_item("other"), FULL)
    assert found.missing_ids == ("nobody",)


async def test_one_category_alone_is_a_list_of_one() -> None:
    catalog = a_catalog(MemoryStore())
    await catalog.upsert_items([an_item(attributes={"genre": "drama", "maker": "m1"})])
    [item] = (await catalog.get_items(["new"])).items
    assert item.attributes == {"genre": ("drama",), "maker": "m1"}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"id": ""}, "id"),
        ({"id": "i" * 513}, "id"),
        ({"title": "t" * 1025}, "title"),
        ({"published_ms": -1}, "published_ms"),
        ({"expires_ms": -1}, "expires_ms"),
        ({"expires_ms": 2**62}, "expires_ms"),
        ({"attributes": {f"a{n}": "x" for n in range(65)}}, "attributes"),
        ({"attributes": {"colour": "red"}}, 'attributes["colour"]'),
        ({"attributes": {"price": "cheap"}}, 'attributes["price"]'),
        ({"attributes": {"price": float("nan")}}, 'attributes["price"]'),
        ({"attributes": {"price": ("1", "2")}}, 'attributes["price"]'),
        ({"attributes": {"genre": 3.0}}, 'attributes["genre"]'),
        ({"attributes": {"genre": ("drama", "")}}, 'attributes["genre"]'),
        ({"attributes": {"genre": ("g",) * 1001}}, 'attributes["genre"]'),
        ({"attributes": {"maker": ("m1", "m2")}}, 'attributes["maker"]'),
        ({"attributes": {"maker": "m" * 513}}, 'attributes["maker"]'),
        ({"attributes": {"released": "yesterday"}}, 'attributes["released"]'),
        ({"attributes": {"released": -5.0}}, 'attributes["released"]'),
        ({"attributes": {"about": "x" * 65_537}}, 'attributes["about"]'),
        ({"attributes": {"title": "Not here"}}, 'attributes["title"]'),
    ],
)
async def test_a_wrong_item_is_refused_alone_and_its_field_is_named(
    fields: dict[str, object], path: str
) -> None:
    catalog = a_catalog(MemoryStore())
    wrong = CatalogItem(**{"id": "wrong", **fields})  # type: ignore[arg-type]
    report = await catalog.upsert_items([an_item("a"), wrong, an_item("b")])
    assert report.accepted == 2
    assert [(one.id, one.field) for one in report.errors] == [(wrong.id, f"items[1].{path}")]
    assert (await catalog.get_items(["a", "b"])).missing_ids == ()


async def test_an_unknown_attribute_is_told_which_there_are() -> None:
    report = await a_catalog(MemoryStore()).upsert_items([an_item(attributes={"colour": "red"})])
    assert "genre, maker, price" in report.errors[0].message


async def test_of_an_id_that_comes_twice_in_a_call_the_first_one_stands() -> None:
    catalog = a_catalog(MemoryStore())
    report = await catalog.upsert_items([an_item("a", title="one"), an_item("a", title="two")])
    assert report.accepted == 1
    assert [(one.field, one.message) for one in report.errors] == [
        ("items[1].id", "repeats items[0]")
    ]
    assert (await catalog.get_items(["a"])).items[0].title == "one"


async def test_without_a_schema_any_attribute_is_taken() -> None:
    catalog = a_catalog(MemoryStore(), schema=None)
    assert (await catalog.upsert_items([an_item(attributes={"colour": "red"})])).accepted == 1


async def test_deleting_is_done_once_for_known_and_unknown_items_alike() -> None:
    catalog = a_catalog(MemoryStore())
    await catalog.upsert_items([an_item("a")])
    report = await catalog.delete_items(["a", "nobody", "", "a"])
    assert report.accepted == 3
    assert [(one.id, one.field) for one in report.errors] == [("", "ids[2]")]
    assert (await catalog.get_items(["a"])).missing_ids == ("a",)


async def test_a_listing_goes_through_all_items_once_in_the_order_of_keys() -> None:
    catalog = a_catalog(MemoryStore())
    ids = [f"i{n}" for n in range(25)]
    await catalog.upsert_items([an_item(one, hidden=one == "i3") for one in ids])
    listed: list[str] = []
    token = ""
    while True:
        page = await catalog.list_items(page_size=10, page_token=token)
        listed += [item.id for item in page.items]
        token = page.next_page_token
        if not token:
            break
    assert listed == sorted(ids, key=key_of)


@pytest.mark.parametrize("size", [10, 25])
async def test_a_listing_that_ends_with_its_page_has_no_next_one(size: int) -> None:
    catalog = a_catalog(MemoryStore())
    await catalog.upsert_items([an_item(f"i{n}") for n in range(size)])
    assert (await catalog.list_items(page_size=size)).next_page_token == ""


@pytest.mark.parametrize("ids", [[], ["a"] * 1001, ["a", ""]])
async def test_reading_wrong_ids_fails_the_call(ids: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="ids"):
        await a_catalog(MemoryStore()).get_items(ids)


async def test_a_listing_refuses_sizes_and_tokens_that_are_none() -> None:
    catalog = a_catalog(MemoryStore())
    for size in (-1, 1001):
        with pytest.raises(InvalidRequest, match="page_size"):
            await catalog.list_items(page_size=size)
    with pytest.raises(InvalidRequest, match="page_token"):
        await catalog.list_items(page_token="AAAA")


async def test_changes_of_none_or_too_many_are_refused_as_a_whole() -> None:
    catalog = a_catalog(MemoryStore())
    with pytest.raises(InvalidRequest, match="items"):
        await catalog.upsert_items([an_item()] * 10_001)
    with pytest.raises(InvalidRequest, match="ids"):
        await catalog.delete_items([])
    with pytest.raises(InvalidRequest, match="ids"):
        await catalog.delete_users(["u"] * 1001)


async def test_a_forgotten_user_is_somebody_new() -> None:
    async with a_live_world() as (world, store):
        assert not (await world.page("ann")).cold_start
        report = await world.recommender.delete_users(["ann", ""])
        assert (await world.page("ann")).cold_start
        assert await store.is_forgotten(["ann", "bob"]) == [True, False]
    assert report.accepted == 1
    assert [one.field for one in report.errors] == ["ids[1]"]


# -- waiting --------------------------------------------------------------------------------------


async def test_waiting_ends_when_all_shards_and_this_orchestrator_know() -> None:
    async with a_live_world() as (world, store):
        report = await world.recommender.delete_items(["i1"], wait_for_index=True)
        assert world.recommender.log_position.sequence == report.sequence == await store.head()


async def test_waiting_past_the_deadline_says_that_the_change_stays() -> None:
    async with a_live_world() as (world, store):
        world.shards[1].log = None
        with pytest.raises(BudgetExceeded, match=r"durable, as number 1 .* array/1 \(0\)"):
            await world.recommender.delete_items(["i1"], wait_for_index=True, deadline_ms=200)
        assert await store.head() == 1
        assert "i1" not in item_ids(await world.page("stranger", page_size=200))


async def test_a_shard_that_does_not_answer_is_waited_for() -> None:
    async with a_live_world() as (world, _):
        world.shards[0].fails = TierUnavailable("gone for now")
        with pytest.raises(BudgetExceeded, match=r"array/0 \(no answer\)"):
            await world.recommender.upsert_items([an_item()], wait_for_index=True, deadline_ms=200)
        world.shards[0].fails = None
        report = await world.recommender.upsert_items([an_item()], wait_for_index=True)
    assert report.accepted == 1


async def test_a_dead_replica_holds_up_nobody_while_another_of_its_shard_answers() -> None:
    async with a_live_world(replicas=2) as (world, _):
        world.shards[0].fails = TierUnavailable("dead")
        report = await world.recommender.delete_items(["i1"], wait_for_index=True)
    assert report.accepted == 1


async def test_a_replica_that_answers_and_does_not_know_yet_is_waited_for() -> None:
    async with a_live_world(replicas=2) as (world, _):
        world.shards[0].log = None
        with pytest.raises(BudgetExceeded, match=r"array/0 \(0\)"):
            await world.recommender.delete_items(["i1"], wait_for_index=True, deadline_ms=200)


async def test_what_was_refused_as_a_whole_is_not_waited_for() -> None:
    async with a_live_world(following=False) as (world, _):
        report = await world.recommender.delete_items([""], wait_for_index=True)
    assert report.accepted == 0
