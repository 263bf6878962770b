"""A ranker that follows the log: its items, its counts, and where it says it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranking_svc.features import FeatureBuilder
from ranking_svc.item_counts import ItemCounts
from ranking_svc.item_table import ItemTable, Keys
from ranking_svc.live import LiveItemTable
from ranking_svc.models.dcn import open_dcn
from ranking_svc.ranker import LocalRanker
from shortlist.artifacts import ArtifactStore
from shortlist.config import RankingConfig
from shortlist.errors import ArtifactCorrupt
from shortlist.ids import key_of, keys_of
from shortlist.live import CatalogItem, Changes, EventColumns, ItemChange, LiveEvent
from shortlist.stores.memory import MemoryStore
from shortlist.tiers import LogPosition
from tests.contracts.ranker import a_query
from tests.ranking_svc.factory import (
    KEYS,
    publish_ranker,
    random_builder,
    random_counts,
    random_weights,
    write_network,
)
from tests.ranking_svc.tables import DAY_MS, NOW_MS

NEW = ("nova", "super nova", "dwarf")
NEW_ITEMS = [
    CatalogItem(
        id=NEW[0],
        attributes={"genre": ("rock", "jazz"), "price": 4.5, "at": "48.86,2.35"},
        published_ms=NOW_MS - DAY_MS,
    ),
    CatalogItem(id=NEW[1], attributes={"genre": ("jazz", "never heard of")}),
    CatalogItem(id=NEW[2]),
]


def a_table() -> LiveItemTable:
    builder = random_builder()
    return LiveItemTable.of(builder.table, random_counts(), builder.item, ["at"])


def changes_of(
    items: Sequence[CatalogItem] = (), events: Sequence[tuple[str, int, float, float]] = ()
) -> Changes:
    """Events are (item, time, weight, value)."""
    return Changes(
        sequence=len(items) + len(events),
        head=len(items) + len(events),
        items=tuple(
            ItemChange(sequence=at + 1, key=key_of(item.id), item=item)
            for at, item in enumerate(items)
        ),
        events=EventColumns(
            sequences=np.arange(len(events)) + len(items) + 1,
            user_keys=np.zeros(len(events), np.uint64),
            item_keys=keys_of([one[0] for one in events]),
            times_ms=np.array([one[1] for one in events], np.int64),
            weights=np.array([one[2] for one in events], np.float32),
            values=np.array([one[3] for one in events], np.float32),
            places=[()] * len(events),
        ),
    )


def nothing(rows: Any) -> None: ...


# --- the table ---


def test_what_only_training_writes_is_the_table_s_and_the_rest_a_copy() -> None:
    builder, untouched = random_builder(), random_builder().table
    table = builder.table
    live = LiveItemTable.of(table, random_counts(), builder.item, ["at"])
    for name in ("vectors", "factors", "neighbours", "affinities"):
        assert getattr(live, name) is getattr(table, name)
    live.follow(changes_of(NEW_ITEMS, [("item-3", NOW_MS, 1.0, 5.0)]), nothing)
    for field in fields(ItemTable):
        before = getattr(untouched, field.name)
        np.testing.assert_array_equal(getattr(table, field.name), before)


def test_before_anything_happens_it_is_the_table_that_was_trained() -> None:
    table, live = random_builder().table, a_table()
    rows = np.array([0, 7, 39, len(KEYS)])
    np.testing.assert_allclose(live.statistics_of(rows), table.statistics[rows], atol=1e-6)
    strangers = keys_of(["item-1", "nova"])
    assert live.rows_of(strangers).tolist() == table.rows_of(strangers).tolist()
    assert live.size == len(KEYS)


def test_new_items_have_rows_and_attributes_and_nothing_that_must_be_learned() -> None:
    live, encoder = a_table(), random_builder().item
    live.follow(changes_of(NEW_ITEMS), nothing)
    rows = live.rows_of(keys_of(NEW))
    assert sorted(rows.tolist()) == [41, 42, 43]
    assert live.size == 43
    encoded = encoder.encode(
        {"genre": [["rock", "jazz"], ["jazz"], None], "price": [4.5, None, None]}, 3
    )
    np.testing.assert_array_equal(live.tokens[rows], encoded.tokens)
    np.testing.assert_array_equal(live.token_weights[rows], encoded.weights)
    np.testing.assert_array_equal(live.numeric[rows], encoded.numeric)
    assert live.published_ms[rows].tolist() == [NOW_MS - DAY_MS, 0, 0]
    assert np.linalg.norm(live.places[rows], axis=2)[:, 0].tolist() == pytest.approx([1, 0, 0])
    learned = live.learned_rows(rows)
    assert not live.vectors[learned].any()
    assert not live.factors[learned].any()
    assert not live.affinities[learned].any()
    assert (live.neighbours[learned] == len(KEYS)).all()
    # Nobody has touched them.
    unknown = live.statistics_of(np.array([len(KEYS)]))
    np.testing.assert_array_equal(live.statistics_of(rows), np.repeat(unknown, 3, axis=0))


def test_items_that_come_one_by_one_have_the_rows_of_those_that_come_at_once() -> None:
    once, by_one = a_table(), a_table()
    many = [CatalogItem(id=f"new-{number}", attributes={"price": 2.0}) for number in range(50)]
    once.follow(changes_of(many), nothing)
    for item in many:
        by_one.follow(changes_of([item]), nothing)
    keys = keys_of(item.id for item in many)
    for table in (once, by_one):
        assert sorted(table.rows_of(keys).tolist()) == list(range(41, 91))
    assert once.rows_of(KEYS).tolist() == list(range(40))


def test_a_changed_item_keeps_what_was_learned_and_counted() -> None:
    live, before = a_table(), a_table()
    changed = CatalogItem(id="item-3", attributes={"genre": "jazz", "price": 1.0})
    row = live.rows_of(keys_of(["item-3"]))
    live.follow(changes_of([changed]), nothing)
    assert live.rows_of(keys_of(["item-3"])).tolist() == row.tolist()
    assert live.published_ms[row].tolist() == [0]
    assert live.tokens[row].any()
    np.testing.assert_array_equal(live.vectors[row], before.vectors[row])
    np.testing.assert_array_equal(live.neighbours[row], before.neighbours[row])
    np.testing.assert_allclose(live.statistics_of(row), before.statistics_of(row))
    assert live.size == len(KEYS)


def test_a_deleted_item_takes_no_row_and_changes_nothing() -> None:
    live = a_table()
    gone = Changes(
        sequence=1,
        head=1,
        items=(ItemChange(sequence=1, key=key_of("nova"), item=None),),
        events=changes_of().events,
    )
    live.follow(gone, nothing)
    assert live.size == len(KEYS)


def test_rows_are_refreshed_before_a_new_item_is_found() -> None:
    live, found = a_table(), []
    live.follow(
        changes_of(NEW_ITEMS), lambda rows: found.append((len(rows), live.rows_of(keys_of(NEW))))
    )
    ((refreshed, rows),) = found
    assert refreshed == 3
    assert rows.tolist() == [40, 40, 40]  # unknown


def test_changes_that_fail_are_taken_in_once_when_they_come_again() -> None:
    live, other = a_table(), a_table()
    changes = changes_of(NEW_ITEMS, [("nova", NOW_MS, 1, 4), ("item-2", NOW_MS, 2, 1)])

    def fail(rows: Any) -> None:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        live.follow(changes, fail)
    live.follow(changes, nothing)
    other.follow(changes, nothing)
    rows = np.arange(44)
    np.testing.assert_array_equal(live.statistics_of(rows), other.statistics_of(rows))
    assert live.size == other.size == 43


def test_beyond_the_room_for_new_items_they_stay_unknown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ranking_svc.live._LEAST_SPARE", 5)
    live = a_table()  # as much room as there are items: 40
    many = [CatalogItem(id=f"new-{number}") for number in range(60)]
    live.follow(changes_of(many, [(item.id, NOW_MS, 1.0, 3.0) for item in many]), nothing)
    assert live.size == 80
    assert (live.rows_of(keys_of(item.id for item in many)) == 40).sum() == 20
    assert "no room for 20 new items" in caplog.text


def test_events_change_counts_values_and_times() -> None:
    live, before = a_table(), a_table()
    row = live.rows_of(keys_of(["item-5"]))
    live.follow(changes_of([], [("item-5", NOW_MS + 5, 1.0, 9.0)] * 40), nothing)
    names = list(random_builder().spec.statistics)
    now, then = live.statistics_of(row)[0], before.statistics_of(row)[0]
    for name in ("popularity_0", "popularity_all", "events", "value"):
        assert now[names.index(name)] > then[names.index(name)]
    assert live.last_event_ms[row].tolist() == [NOW_MS + 5]
    assert live.first_event_ms[row].tolist() == before.first_event_ms[row].tolist()


def test_events_of_items_that_nobody_knows_change_nothing() -> None:
    live = a_table()
    rows = np.arange(40)
    before = live.statistics_of(rows)
    live.follow(changes_of([], [("nova", NOW_MS, 1.0, 1.0)]), nothing)
    np.testing.assert_array_equal(live.statistics_of(rows), before)


def test_after_a_hundred_half_lives_nothing_is_out_of_range() -> None:
    live, rows = a_table(), np.arange(41)
    before = live.statistics_of(rows)
    later = NOW_MS + 400 * DAY_MS  # 200 of the shorter half-lives
    live.follow(changes_of([], [("item-5", later, 1e-30, np.nan)]), nothing)
    touched = live.rows_of(keys_of(["item-5"]))
    others = np.setdiff1d(rows, touched)
    names = list(random_builder().spec.statistics)
    slow = [names.index("popularity_all"), names.index("value")]
    np.testing.assert_allclose(
        live.statistics_of(others)[:, slow], before[others][:, slow], rtol=1e-5
    )
    assert np.isfinite(live.statistics_of(rows)).all()


# --- the ranker ---


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """Read only: version v1, and v2 of other weights."""
    store = ArtifactStore(tmp_path_factory.mktemp("store"))
    publish_ranker(store, version="v1")
    publish_ranker(store, version="v2", seed=1)
    store.promote("ranking", "v1", expected="v2")
    return store


@pytest.fixture
async def live() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    yield store
    await store.close()


@pytest.fixture(params=["onnx", "numpy"])
async def ranker(
    artifacts: ArtifactStore, live: MemoryStore, request: pytest.FixtureRequest
) -> AsyncIterator[LocalRanker]:
    ranker = LocalRanker.open(artifacts, None, RankingConfig(engine=request.param), live=live)
    yield ranker
    await ranker.close()


def an_event(number: int, item: str, **changed: Any) -> LiveEvent:
    event = LiveEvent(
        event_id=f"event-{number}",
        user_id="ann",
        item_id=item,
        event_type="click",
        time_ms=NOW_MS + number,
        weight=1.0,
        value=4.0,
    )
    return replace(event, **changed)


async def test_it_knows_the_log_before_it_is_asked(ranker: LocalRanker, live: MemoryStore) -> None:
    await live.upsert_items(NEW_ITEMS)
    await live.append([an_event(number, "nova") for number in range(20)])
    head = await live.head()
    await ranker.start()
    answer = await ranker.score(a_query(keys_of(NEW)))
    assert answer.unknown_items == 0
    assert answer.log.sequence == head
    assert (await ranker.status()).log.sequence == head
    assert (await ranker.status()).items == len(KEYS) + 3
    assert ranker.versions.status().versions[0].log.sequence == head


async def test_new_items_are_scored_as_if_they_had_been_there_at_training(
    ranker: LocalRanker, live: MemoryStore, tmp_path: Path
) -> None:
    """Against a table that had them from the beginning, for every model."""
    await live.upsert_items(NEW_ITEMS)
    await live.append([an_event(number, NEW[number % 2]) for number in range(7)])
    await ranker.start()
    generation = ranker.versions.active
    complete = generation.builder.over(with_items(generation.table, keys_of(NEW)))
    for name, model in generation.models.items():
        query = a_query(np.concatenate([KEYS[:20], keys_of(NEW)]))
        mine = generation.builder.build(query.user, query.candidates)
        theirs = complete.build(query.user, query.candidates)
        np.testing.assert_allclose(mine.numeric, theirs.numeric, rtol=1e-5, atol=1e-6)
        scored = (await ranker.score(replace(query, model=name))).scores
        assert np.isfinite(scored).all()
        if name in ("dcn", "linear"):
            again = network(name, complete, tmp_path, generation.engine).score(theirs)
            np.testing.assert_allclose(model.score(mine).logits, again.logits, rtol=1e-4, atol=1e-5)


def with_items(live: LiveItemTable, new: Keys) -> ItemTable:
    """A plain table of the same content: rows by ascending key of all items."""
    keys = np.sort(np.concatenate([live.keys, new]))
    rows = np.append(live.rows_of(keys), len(live.keys))
    moved = np.full(len(live.keys) + 1 + len(new), len(keys))
    moved[rows[:-1]] = np.arange(len(keys))
    learned = live.learned_rows(rows)
    columns = {
        name: getattr(live, name)[rows]
        for name in (
            *("published_ms", "first_event_ms", "last_event_ms"),
            *("tokens", "token_weights", "numeric", "places"),
        )
    }
    columns |= {name: getattr(live, name)[learned] for name in ("vectors", "factors", "affinities")}
    return ItemTable(
        keys=keys,
        statistics=live.statistics_of(rows),
        neighbours=moved[live.neighbours[learned]].astype(np.int32),
        token_shares=live.token_shares,
        **columns,
    )


def network(name: str, builder: FeatureBuilder, folder: Path, engine: str) -> Any:
    """What `publish_ranker` writes, over another table."""
    seed, shape = (0, {}) if name == "dcn" else (1, {"hidden": (), "crosses": 0})
    write_network(folder / name, random_weights(random_builder(), seed=seed, **shape))
    return open_dcn(name, folder / name, builder, engine)


async def test_what_happens_while_it_serves_changes_the_next_answer(
    ranker: LocalRanker, live: MemoryStore
) -> None:
    await ranker.start()
    before = (await ranker.score(a_query(KEYS))).scores
    await live.append([an_event(number, "item-5") for number in range(50)])
    while (await ranker.status()).log.sequence < await live.head():
        (tailer,) = ranker.versions._tailers.values()
        await tailer.catch_up()
    after = (await ranker.score(a_query(KEYS))).scores
    (row,) = np.flatnonzero(key_of("item-5") == KEYS)
    assert before[row] != after[row]


async def test_another_version_has_caught_up_when_it_is_prepared(
    ranker: LocalRanker, live: MemoryStore
) -> None:
    await ranker.start()
    await live.upsert_items(NEW_ITEMS)
    head = await live.head()
    await ranker.versions.prepare("v2")
    loaded = {one.version: one for one in ranker.versions.status().versions}
    assert loaded["v2"].log.sequence == head
    answer = await ranker.score(replace(a_query(keys_of(NEW)), model_version="v2"))
    assert (answer.unknown_items, answer.log.sequence) == (0, head)


async def test_a_version_follows_the_log_from_where_it_was_trained(
    tmp_path: Path, live: MemoryStore
) -> None:
    await live.append([an_event(number, "item-5") for number in range(10)])
    await live.upsert_items(NEW_ITEMS)
    store = ArtifactStore(tmp_path)
    publish_ranker(store, log_sequence=10)
    ranker = LocalRanker.open(store, live=live)
    await ranker.start()
    table = ranker.versions.active.table
    rows = table.rows_of(keys_of(["item-5"]))
    np.testing.assert_allclose(table.statistics_of(rows)[:, -2:], known(rows)[:, -2:], rtol=1e-6)
    assert table.size == 43
    await ranker.close()


def known(rows: Any) -> Any:
    return random_counts().statistics()[rows]


async def test_without_a_log_it_serves_what_was_trained(artifacts: ArtifactStore) -> None:
    ranker = LocalRanker.open(artifacts)
    await ranker.start()
    assert (await ranker.score(a_query(KEYS))).log == LogPosition()
    await ranker.close()


# --- the files ---


@pytest.mark.parametrize("name", ["speeds", "events", "values", "valued"])
def test_counts_of_another_length_or_missing_are_refused_and_named(
    tmp_path: Path, name: str
) -> None:
    random_counts().save(tmp_path)
    np.save(tmp_path / f"{name}.npy", np.load(tmp_path / f"{name}.npy")[:-1])
    with pytest.raises(ArtifactCorrupt, match=rf"{name}\.npy"):
        ItemCounts.load(tmp_path, len(KEYS))
    (tmp_path / f"{name}.npy").unlink()
    with pytest.raises(ArtifactCorrupt, match=rf"{name}\.npy"):
        ItemCounts.load(tmp_path, len(KEYS))


def test_counts_that_say_other_than_the_statistics_are_refused(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def damage(folder: Path) -> None:
        path = folder / "item_counts" / "speeds.npy"
        np.save(path, np.load(path)[::-1])

    publish_ranker(store, damage=damage)
    with pytest.raises(ArtifactCorrupt, match="item_counts"):
        LocalRanker.open(store)


def test_counts_are_held_to_the_statistics_in_every_stretch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ranking_svc.ranker._CHECKED_AT_ONCE", 7)
    store = ArtifactStore(tmp_path)
    publish_ranker(store)
    LocalRanker.open(store)

    def damage(folder: Path) -> None:
        path = folder / "item_counts" / "events.npy"
        events = np.load(path)
        events[-1] += 100
        np.save(path, events)

    publish_ranker(store, damage=damage)
    with pytest.raises(ArtifactCorrupt, match="item_counts"):
        LocalRanker.open(store)


def test_places_that_no_feature_fills_are_refused(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    publish_ranker(store, located=[])
    with pytest.raises(ArtifactCorrupt, match=r"meta\.located"):
        LocalRanker.open(store)
