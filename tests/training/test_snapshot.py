"""What training learns from: an import and what a real store has logged since."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval_svc.source_data import SharedData, SourceData
from retrieval_svc.sources import SOURCES, SliceView, SourceQuery
from retrieval_svc.sources.observed import LearningSource, ObservedEvents
from shortlist.config import Config, RetrievalConfig, StoreConfig
from shortlist.errors import InvalidField
from shortlist.live import CatalogItem, EventColumns, LiveEvent
from shortlist.schema import EventType, Schema
from shortlist.stores import Store
from shortlist.stores.opening import open_store
from shortlist.tiers import History, UserContext
from tests.redis_server import RedisServer
from training.dataset import SPLITS, Dataset
from training.importer import import_dataset
from training.snapshot import Snapshot, log_head, take_snapshot
from training.sources import TRAINERS, SourceLesson, TrainedSource
from training.splits import Learned
from training.windows import backtest_window, serving_window
from training.windows import test_window as window_of_test

START_S = 1_700_000_000
EVENTS = {"buy": {"weight": 3.0}, "rate": {"weight": 1.0, "positive_at": 3.0}}
Row = tuple[str, str, int, str, str, str]  # user, item, second, event, value, where


class Shop:
    """A workdir whose events are partly imported, partly logged."""

    def __init__(self, folder: Path, store: StoreConfig | None = None, **split: Any) -> None:
        self.folder, self.workdir = folder, folder / "W"
        self.config = Config(store=store or StoreConfig())
        self.schema = Schema.of(
            {
                "name": "shop",
                "interactions": [
                    {
                        "path": "events.csv",
                        "time": "time",
                        "event": "event",
                        "value": "value",
                        "context": {"where": {"role": "categorical"}},
                    }
                ],
                "events": EVENTS,
                "items": [
                    {
                        "path": "items.csv",
                        "features": {
                            "name": {"role": "title"},
                            "kind": {"role": "categorical"},
                            "price": {"role": "numeric"},
                        },
                    }
                ],
                **({"split": split} if split else {}),
            }
        )
        items = [f"i{n},Item {n},k{n % 3},{n / 2}" for n in range(30)]
        (folder / "items.csv").write_text("\n".join(["id,name,kind,price", *items]) + "\n")

    def imported(self, rows: Sequence[Row], name: str = "W") -> Dataset:
        lines = ["user,item,time,event,value,where", *(",".join(map(str, row)) for row in rows)]
        (self.folder / "events.csv").write_text("\n".join(lines) + "\n")
        import_dataset(self.schema, self.folder, self.folder / name / "dataset")
        return Dataset.load(self.folder / name / "dataset")

    def store(self) -> Store:
        return open_store(self.config.store, self.workdir)

    def log(self, rows: Sequence[Row]) -> int:
        """Record events as the intake would; the log's head."""

        async def append() -> int:
            store = self.store()
            try:
                return (await store.append([event_of(row) for row in rows])).sequence
            finally:
                await store.close()

        return asyncio.run(append())

    def change(self, *items: CatalogItem, delete: Sequence[str] = ()) -> None:
        async def change() -> None:
            store = self.store()
            try:
                await store.upsert_items(items)
                await store.delete_items(delete)
            finally:
                await store.close()

        asyncio.run(change())

    def snapshot(self, **how: Any) -> Snapshot:
        return take_snapshot(self.workdir, self.config, **how)


def event_of(row: Row) -> LiveEvent:
    user, item, second, event, text, where = row
    value = float(text) if text else None
    return LiveEvent(
        event_id="/".join(map(str, row)),
        user_id=user,
        item_id=item,
        event_type=event,
        time_ms=1000 * second,
        weight=EventType.model_validate(EVENTS[event]).weight_of(value),
        value=value,
        context={"where": where} if where else {},
    )


def some_rows(count: int = 600, *, start_s: int = START_S, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for second in range(count):
        rates = rng.random() < 0.5
        rows.append(
            (
                f"u{rng.integers(20 + second // 100)}",
                f"i{min(int(rng.exponential(8)), 29)}",
                start_s + 60 * second,
                "rate" if rates else "buy",
                str(rng.integers(1, 6)) if rates else "",
                "home" if rng.random() < 0.5 else "",
            )
        )
    return rows


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def said_of(dataset: Dataset, rows: Any = slice(None)) -> list[tuple[Any, ...]]:
    """Interactions by ids, without their parts."""
    events = dataset.events
    return list(
        zip(
            np.array(dataset.user_ids)[events.user[rows]].tolist(),
            np.array(dataset.item_ids)[events.item[rows]].tolist(),
            [dataset.event_types[code] for code in events.event[rows]],
            np.nan_to_num(events.value[rows], nan=-1).tolist(),
            events.weight[rows].tolist(),
            events.time_ms[rows].tolist(),
            np.array(events.context["where"].to_pylist(), object)[rows].tolist(),
            strict=True,
        )
    )


def assert_same(one: Dataset, other: Dataset) -> None:
    assert one.items.equals(other.items)
    assert one.users.equals(other.users)
    assert one.info == other.info
    for name in ("user", "item", "event", "value", "weight", "time_ms", "split"):
        np.testing.assert_array_equal(getattr(one.events, name), getattr(other.events, name))
    assert one.events.context == other.events.context


# --- without anything new ---


@pytest.mark.parametrize("store_is_there", [False, True])
def test_without_new_events_training_sees_the_import_and_nothing_else(
    shop: Shop, store_is_there: bool
) -> None:
    imported = shop.imported(some_rows())
    if store_is_there:
        assert shop.log([]) == 0
    snapshot = shop.snapshot()
    assert_same(snapshot.dataset, imported)
    assert snapshot.upto == snapshot.log_sequence == snapshot.logged == 0
    assert snapshot.learned.imported_before_ms == imported.validation_end_ms


def test_a_changed_item_alone_moves_no_interaction_to_another_part(shop: Shop) -> None:
    imported = shop.imported(some_rows())
    shop.change(CatalogItem(id="i3", title="Renamed", attributes={"kind": "k9"}))
    snapshot = shop.snapshot()
    np.testing.assert_array_equal(snapshot.dataset.events.split, imported.events.split)
    assert snapshot.dataset.info == imported.info
    assert snapshot.log_sequence == 1


# --- with events ---


def test_logged_events_are_what_an_import_of_them_would_be(shop: Shop) -> None:
    rows = some_rows()
    whole = shop.imported(rows, "whole")
    shop.imported(rows[:400])
    shop.log(rows[400:])
    joined = shop.snapshot().dataset
    assert said_of(joined) == said_of(whole)
    assert joined.users.equals(whole.users)
    assert joined.items.equals(whole.items)


@pytest.mark.slow
def test_a_redis_store_gives_the_same_snapshot(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis")
    server.start()
    try:
        rows = some_rows()
        snapshots = []
        for name, config in (("a", StoreConfig()), ("b", StoreConfig(url=server.url))):
            (tmp_path / name).mkdir()
            shop = Shop(tmp_path / name, config)
            shop.imported(rows[:300])
            shop.log(rows[300:])
            shop.change(CatalogItem(id="new", attributes={"kind": "k1"}), delete=["i0"])
            snapshots.append(shop.snapshot())
        assert_same(snapshots[0].dataset, snapshots[1].dataset)
        assert snapshots[0].meta == snapshots[1].meta
    finally:
        server.stop()


def test_the_order_in_which_events_arrive_makes_no_other_interactions(shop: Shop) -> None:
    rows = some_rows()
    shop.imported(rows[:300])
    shop.log([rows[at] for at in np.random.default_rng(3).permutation(np.arange(300, 600))])
    assert sorted(map(repr, said_of(shop.snapshot().dataset))) == sorted(
        map(repr, said_of(shop.imported(rows, "whole")))
    )


def test_what_is_learned_is_what_the_log_had_up_to_a_number_and_no_more(shop: Shop) -> None:
    rows = some_rows(900)
    shop.imported(rows[:300])
    shuffled = [rows[at] for at in np.random.default_rng(5).permutation(np.arange(300, 900))]
    shop.log(shuffled)
    snapshot = shop.snapshot()
    assert 0 < snapshot.log_sequence < snapshot.upto == 600
    known = said_of(snapshot.dataset, serving_window(snapshot.dataset).known)
    arrived = {repr(row[:3]) for row in shuffled[: snapshot.log_sequence]}
    learned = {repr((user, item, ms // 1000)) for user, item, _, _, _, ms, _ in known}
    imported = {repr(row[:3]) for row in rows[:300]}
    assert learned == arrived | imported


def test_most_of_what_was_logged_is_learned_and_the_newest_judges(shop: Shop) -> None:
    rows = some_rows(5000)
    shop.imported(rows[:1000])
    shop.log(rows[1000:])
    dataset = shop.snapshot().dataset
    held_out = dataset.rows_of_split("test")
    assert len(held_out) == 400  # a tenth of 4000
    assert held_out.min() == len(dataset.events) - 400
    past, present = backtest_window(dataset), serving_window(dataset)
    assert len(past.next) == pytest.approx(500, abs=2)  # a tenth of all
    assert dataset.events.time_ms[past.known].max() < dataset.events.time_ms[past.next].min()
    assert present.as_of_ms < dataset.events.time_ms[held_out].min()


def test_few_logged_events_leave_enough_to_judge_by(shop: Shop) -> None:
    rows = some_rows(3000)
    imported = shop.imported(rows[:2900])
    shop.log(rows[2900:])
    snapshot = shop.snapshot()
    dataset = snapshot.dataset
    assert len(dataset.rows_of_split("test")) == 200
    # None of them is learned, so serving begins to count with the first.
    assert snapshot.log_sequence == 0
    assert snapshot.learned.imported_before_ms == dataset.events.time_ms[2800]
    assert snapshot.learned.imported_before_ms > (imported.validation_end_ms or 0)


def test_later_snapshots_never_hold_out_what_an_earlier_one_learned(shop: Shop) -> None:
    rows = some_rows(2000)
    shop.imported(rows[:1000])
    learned: set[str] = set()
    for begin in range(1000, 2000, 125):
        snapshot = shop.snapshot()
        known = said_of(snapshot.dataset, serving_window(snapshot.dataset).known)
        assert learned <= {repr(row) for row in known}
        learned = {repr(row) for row in known}
        shop.log(rows[begin : begin + 125])


def test_a_schema_without_a_test_part_learns_everything(tmp_path: Path) -> None:
    shop = Shop(tmp_path, method="time", test_fraction=0.0)
    rows = some_rows()
    shop.imported(rows[:400])
    shop.log(rows[400:])
    snapshot = shop.snapshot()
    assert len(serving_window(snapshot.dataset).known) == len(snapshot.dataset.events)
    assert snapshot.log_sequence == snapshot.upto == 200


@pytest.mark.parametrize("method", ["leave_last_out", "random"])
def test_other_splits_keep_their_parts_and_learn_all_that_was_logged(
    tmp_path: Path, method: str
) -> None:
    shop = Shop(tmp_path, method=method)
    rows = some_rows()
    imported = shop.imported(rows[:400])
    shop.log(rows[400:])
    snapshot = shop.snapshot()
    assert snapshot.log_sequence == 200
    dataset, again = snapshot.dataset, {row[:2] for row in rows[400:]}
    parts = dict(zip(said_of(imported), imported.events.split, strict=True))
    for row, part in zip(said_of(dataset), dataset.events.split, strict=True):
        repeated = row[:2] in again
        assert SPLITS[part] == ("train" if repeated or row not in parts else SPLITS[parts[row]])
    assert len(dataset.rows_of_split("test"))


def test_a_snapshot_ends_at_the_number_that_it_is_asked_for(shop: Shop) -> None:
    rows = some_rows()
    shop.imported(rows[:300])
    upto = shop.log(rows[300:400])
    before = shop.snapshot()
    shop.log(rows[400:])
    assert log_head(shop.workdir, shop.config) == 300
    again = shop.snapshot(upto=upto)
    assert_same(again.dataset, before.dataset)
    # Who was deleted is left out as of now.
    assert again.meta == before.meta | {"forgotten_sequence": 300}
    with pytest.raises(
        InvalidField, match="log_sequence: 301 is not in the log, which ends at 300"
    ):
        shop.snapshot(upto=301)


def test_a_version_is_judged_by_all_that_it_has_not_learned(shop: Shop) -> None:
    rows = some_rows(900)
    shop.imported(rows[:300])
    shop.log(rows[300:600])
    learned = shop.snapshot().learned
    shop.log(rows[600:])
    dataset = shop.snapshot(learned=learned).dataset
    assert len(window_of_test(dataset).next) == 900 - 300 - learned.log_sequence
    assert len(window_of_test(dataset).known) == 300 + learned.log_sequence


def test_two_versions_are_judged_by_what_neither_has_learned() -> None:
    older = Learned(log_sequence=0, imported_before_ms=7)
    newer = Learned(log_sequence=9, imported_before_ms=None)
    assert older.later_of(newer) == newer.later_of(older) == newer


# --- users, items and types that only the live system knows ---


def test_a_new_item_comes_with_its_attributes_and_its_events(shop: Shop) -> None:
    rows = some_rows()
    shop.imported(rows)
    shop.log([("u1", "new", START_S + 10**6, "buy", "", "")])
    assert shop.snapshot().logged == 0  # nobody knows the item yet
    shop.change(
        CatalogItem(
            id="new", title="New", attributes={"kind": "k1", "price": 2.5}, published_ms=1234
        )
    )
    dataset = shop.snapshot().dataset
    row = dataset.item_row("new")
    assert row is not None
    described = dataset.items.slice(row, 1).to_pylist()[0]
    described.pop("key")
    assert described == {
        "id": "new",
        "title": "New",
        "published_ms": 1234,
        "f_kind": "k1",
        "f_price": 2.5,
    }
    assert dataset.published_ms[row] == 1234
    assert (np.diff(dataset.item_keys.astype(object)) > 0).all()
    assert said_of(dataset)[-1][:2] == ("u1", "new")


def test_deleted_and_hidden_items_leave_with_their_interactions(shop: Shop) -> None:
    rows = some_rows()
    imported = shop.imported(rows)
    shop.change(CatalogItem(id="i1", hidden=True), delete=["i0"])
    dataset = shop.snapshot().dataset
    assert dataset.item_row("i0") is dataset.item_row("i1") is None
    assert said_of(dataset) == [row for row in said_of(imported) if row[1] not in ("i0", "i1")]


def test_when_an_item_expires_is_kept(shop: Shop) -> None:
    shop.imported(some_rows())
    shop.change(CatalogItem(id="i5", title="Soon gone", expires_ms=99))
    items = shop.snapshot().dataset.items
    expires = dict(zip(items["id"].to_pylist(), items["expires_ms"].to_pylist(), strict=True))
    assert expires.pop("i5") == 99
    assert set(expires.values()) == {None}


def test_a_deleted_user_is_in_no_snapshot(shop: Shop) -> None:
    rows = some_rows()
    shop.imported(rows[:400])
    shop.log(rows[400:])

    async def forget() -> None:
        store = shop.store()
        await store.forget_users(["u1"])
        await store.close()

    asyncio.run(forget())
    dataset = shop.snapshot().dataset
    assert dataset.user_row("u1") is None
    assert {row[0] for row in said_of(dataset)} == {row[0] for row in rows} - {"u1"}


def test_an_imported_event_that_is_logged_as_well_is_there_once(shop: Shop) -> None:
    rows = some_rows()
    shop.imported(rows)
    shop.log(rows[-100:])
    assert len(shop.snapshot().dataset.events) == len(rows)


def test_types_that_the_schema_no_longer_has_are_left_out(shop: Shop) -> None:
    rows = some_rows()
    shop.imported(rows[:400])
    shop.log(rows[400:])
    shop.schema = shop.schema.model_copy(update={"events": {"rate": shop.schema.events["rate"]}})
    shop.imported([row for row in rows[:400] if row[3] == "rate"])
    assert {row[2] for row in said_of(shop.snapshot().dataset)} == {"rate"}


# --- counted once ---


@pytest.mark.parametrize("shuffled", [False, True])
def test_counts_of_a_retrained_version_that_follows_the_log_are_those_of_all_events(
    shop: Shop, shuffled: bool
) -> None:
    """Each event once: by training or by following, whatever the order of arrival."""
    rows = some_rows(900)
    whole = shop.imported(rows, "whole")
    shop.imported(rows[:300])
    order = np.arange(300, 900)
    shop.log(
        [rows[at] for at in (np.random.default_rng(1).permutation(order) if shuffled else order)]
    )
    snapshot = shop.snapshot()
    assert 300 < snapshot.log_sequence < 600
    dataset = snapshot.dataset
    window = serving_window(dataset)
    trained = popular(dataset, window.known, window.as_of_ms)
    followed = following(shop, trained, dataset, after=snapshot.log_sequence)
    newest_ms = int(whole.events.time_ms.max())
    expected = popular(whole, np.arange(len(whole.events)), newest_ms).data.columns
    # Counts are told as of a moment of the source's choice.
    age_ms = newest_ms - followed.shared.settings["as_of_ms"]
    counts = followed.data.columns["count"] * 0.5 ** (age_ms / HALF_LIFE_MS)
    np.testing.assert_allclose(counts, expected["count"], rtol=1e-6)
    np.testing.assert_allclose(followed.data.columns["always"], expected["always"])


HALF_LIFE_MS = 6 * 3_600_000.0


def popular(dataset: Dataset, rows: Any, as_of_ms: int) -> TrainedSource:
    trained = TRAINERS["popular"](
        SourceLesson(
            dataset=dataset,
            rows=rows,
            as_of_ms=as_of_ms,
            config=RetrievalConfig(),
            half_life_ms=HALF_LIFE_MS,
        )
    )
    assert isinstance(trained, TrainedSource)
    return trained


class Followed:
    """What a source has learned by following the log."""

    def __init__(self, data: SourceData, shared: SharedData) -> None:
        self.data, self.shared = data, shared


def following(shop: Shop, trained: TrainedSource, dataset: Dataset, *, after: int) -> Followed:
    """The source as it is served, after it has observed the rest of the log."""

    async def rest() -> EventColumns:
        store = shop.store()
        try:
            return (await store.changes(after)).events
        finally:
            await store.close()

    events = asyncio.run(rest())
    rows = np.searchsorted(dataset.item_keys, events.item_keys)
    source = SOURCES["popular"].open(
        SliceView(
            source="popular",
            keys=dataset.item_keys,
            vectors=np.zeros((dataset.n_items, 1), np.float32),
            watermark_ms=0,
            data=trained.data,
            shared=trained.shared,
            slice_folder=Path(),
            artifact=Path(),
            siblings={},
        )
    )
    assert isinstance(source, LearningSource)
    observed = source.observing(
        ObservedEvents(
            rows=rows,
            times_ms=events.times_ms,
            weights=events.weights,
            values=events.values,
            places=events.places,
            newest_ms=int(events.times_ms.max()),
        )
    )
    somebody = UserContext(user_key=1, history=History.empty(), time_ms=0)
    assert len(observed.propose(SourceQuery(user=somebody), 5)[0]) == 5
    assert isinstance(observed, LearningSource)
    learned = observed.learned()
    return Followed(learned.data, learned.shared)
