"""A slice that follows the catalogue: what is new is found, what is gone is not, whatever order."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval_svc.folding import FoldPolicy
from retrieval_svc.live import LiveGeneration
from shortlist.ids import key_of, keys_of, shard_of
from shortlist.live import CatalogItem
from tests.retrieval_svc.factory import DAY_MS, WATERMARK_MS, Catalogue, user_who_liked
from tests.retrieval_svc.live_slice import (
    ask,
    changes,
    everything,
    item,
    likes,
    live_slice,
    opened,
    proposed,
    sources_with,
)

CATALOGUE = Catalogue.random(300)
ALL_MY_SOURCES = {"two_tower", "content", "fresh", "creator", "popular"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slice")
    live_slice(folder, CATALOGUE)
    return folder


@pytest.fixture
def live(folder: Path) -> LiveGeneration:
    return opened(folder, CATALOGUE)


# --- new and changed items ---


def test_a_new_item_is_proposed_by_every_source_that_can_know_it(live: LiveGeneration) -> None:
    live.apply(changes(item("fresh-one"), item("its-twin")))
    found = sources_with(ask(live, "its-twin"), "fresh-one")
    assert found == ALL_MY_SOURCES
    assert live.snapshot.items == 302


def test_a_new_item_without_any_attribute_is_found_where_any_item_lies(
    live: LiveGeneration,
) -> None:
    live.apply(changes(CatalogItem(id="bare")))
    assert {"two_tower", "popular", "fresh"} <= sources_with(ask(live), "bare")
    cards = live.describe(keys_of(["bare"]), ("price", "tags"))
    assert np.isfinite(cards.vectors).all()
    assert (cards.titles, cards.attributes) == (("",), ({},))


def test_an_item_described_as_it_was_keeps_its_place(live: LiveGeneration) -> None:
    row = 17
    id, liked = CATALOGUE.ids[row], CATALOGUE.ids[90]
    before = proposed(ask(live, liked))
    table = CATALOGUE.table().slice(row, 1).to_pylist()[0]
    same = CatalogItem(
        id=id,
        title=table["title"],
        attributes={
            "genre": table["f_genre"],
            "tags": tuple(table["f_tags"]),
            "price": table["f_price"],
            **({"maker": table["f_maker"]} if table["f_maker"] else {}),
        },
    )
    live.apply(changes(same))
    after = proposed(ask(live, liked))
    key = key_of(id)
    assert live.snapshot.items == 300
    for name in ("two_tower", "mf", "popular", "cooccurrence", "trending", "geographic"):
        assert before[name].keys() == after[name].keys(), name
        if key in before[name]:
            assert after[name][key] == pytest.approx(before[name][key], abs=1e-5)


def test_a_changed_item_is_described_anew_and_keeps_what_happened_to_it(
    live: LiveGeneration,
) -> None:
    id = CATALOGUE.ids[5]
    before = proposed(ask(live, CATALOGUE.ids[9]))
    live.apply(changes(item(id, title="Another", attributes={"genre": "genre-6"})))
    answer = ask(live, CATALOGUE.ids[9])
    after = proposed(answer)
    assert after["popular"] == before["popular"]
    assert after["mf"] == before["mf"]
    assert after["two_tower"][key_of(id)] != before["two_tower"][key_of(id)]
    cards = live.describe(keys_of([CATALOGUE.ids[8], id, CATALOGUE.ids[2]]), ("genre",))
    assert cards.ids == (CATALOGUE.ids[8], id, CATALOGUE.ids[2])  # base, segment, base
    assert cards.titles[1] == "Another"
    assert cards.attributes[1] == {"genre": "genre-6"}
    assert cards.groups["genre"][1] == ("genre-6",)
    for one in answer.sources:
        assert len(np.unique(one.keys)) == len(one.keys), one.source


def test_histories_with_new_items_count(live: LiveGeneration) -> None:
    live.apply(changes(item("alpha", attributes={"maker": "zoe"}), item("beta")))
    stranger, known = proposed(ask(live, "nobody-knows-it")), proposed(ask(live, "alpha"))
    for name in ("two_tower", "content", "creator"):
        assert stranger[name] != known[name], name
    assert set(known["creator"]) == {key_of("alpha")}  # nobody else is by zoe
    assert next(iter(known["two_tower"])) == key_of("alpha")


def test_items_of_other_slices_are_known_in_histories_only(tmp_path: Path) -> None:
    live = live_slice(tmp_path, CATALOGUE, shards=2, shard=1)
    ids = [f"item of some shard {number}" for number in range(40)]
    mine = shard_of(keys_of(ids), 2) == 1
    live.apply(changes(*(item(id, attributes={"price": float(n)}) for n, id in enumerate(ids))))
    there = live.describe(keys_of(ids), ()).ids
    assert there == tuple(np.array(ids)[mine])
    other = ids[int(np.flatnonzero(~mine)[0])]
    assert proposed(ask(live, other))["two_tower"] != proposed(ask(live))["two_tower"]


def test_values_of_wrong_types_are_missing_and_counted(live: LiveGeneration) -> None:
    wrong = {"price": "much", "genre": 3.0, "tags": 1.0, "colour": "red"}
    live.apply(changes(CatalogItem(id="odd", attributes=wrong)))
    cards = live.describe(keys_of(["odd"]), ("price", "genre", "tags"))
    assert cards.attributes == ({},)
    assert live._drafter is not None
    assert live._drafter.misfits == 3  # nobody knows a colour


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e300, -1e300])
def test_numbers_of_any_size_do_not_reach_the_index(live: LiveGeneration, number: float) -> None:
    live.apply(changes(item("huge", attributes={"price": number})))
    cards = live.describe(keys_of(["huge"]), ("price",))
    assert np.isfinite(cards.vectors).all()
    assert "two_tower" in sources_with(ask(live), "huge")


def test_an_item_that_cannot_be_encoded_is_left_out_and_counted(
    live: LiveGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = live.generation.item_encoder
    assert encoder is not None
    bad = np.array([[np.nan] * 16, [0.0] * 16, np.eye(1, 16)[0]], np.float32)
    monkeypatch.setattr(encoder, "encode", lambda keys, columns: bad)
    live.apply(changes(item("a"), item("b"), item("c")))
    assert live.snapshot.items == 301
    assert live._drafter is not None
    assert live._drafter.skipped == 2


# --- what is gone ---


def test_deleted_hidden_and_expired_items_are_gone_from_every_source(
    live: LiveGeneration,
) -> None:
    liked = CATALOGUE.ids[0]
    everywhere = {one: ask(live, liked) for one in (liked,)}[liked]
    gone = [CATALOGUE.ids[n] for n in (3, 4, 5)] + ["new-3", "new-4", "new-5"]
    live.apply(changes(*(item(id) for id in gone[3:])))
    live.apply(
        changes(
            item(gone[1], hidden=True),
            item(gone[4], hidden=True),
            item(gone[2], expires_ms=WATERMARK_MS - 1),
            item(gone[5], expires_ms=WATERMARK_MS),
            deleted=[gone[0], gone[3]],
        )
    )
    answer = ask(live, liked)
    for id in gone:
        assert sources_with(answer, id) == set()
        assert id in ("new-3", "new-4", "new-5") or sources_with(everywhere, id)
    assert live.describe(keys_of(gone), ()).ids == ()
    assert live.snapshot.items == answer.items_searched == 297
    check = live.retrieve(everything(user_who_liked(), 5, check=keys_of([*gone, liked])))
    assert check.unknown == 6


def test_what_comes_back_knows_what_happened_to_it(live: LiveGeneration) -> None:
    id = CATALOGUE.ids[11]
    before = proposed(ask(live, CATALOGUE.ids[12]))
    live.apply(changes(item(id, hidden=True)))
    live.apply(changes(item(id)))
    after = proposed(ask(live, CATALOGUE.ids[12]))
    assert after["popular"] == before["popular"]
    assert after["mf"] == before["mf"]
    assert key_of(id) in after["two_tower"]


def test_an_item_falls_out_when_its_time_has_come_without_a_change(folder: Path) -> None:
    now = [WATERMARK_MS]
    live = opened(folder, CATALOGUE, clock_ms=lambda: now[0])
    old, new = CATALOGUE.ids[20], "milk"
    live.apply(changes(*(item(id, expires_ms=WATERMARK_MS + 500) for id in (old, new))))
    assert sources_with(ask(live), old)
    assert sources_with(ask(live), new)
    now[0] += 500
    assert sources_with(ask(live), old) == sources_with(ask(live), new) == set()
    assert live.describe(keys_of([old, new]), ()).ids == ()
    live.apply(changes(item(old, expires_ms=WATERMARK_MS + 900)))  # it may be shown for longer
    assert {"two_tower", "popular"} <= sources_with(ask(live), old)
    now[0] += 500
    assert sources_with(ask(live), old) == set()


def test_an_item_falls_out_at_the_time_that_it_was_published_with(tmp_path: Path) -> None:
    now = [WATERMARK_MS]
    live_slice(tmp_path, CATALOGUE)
    path, id = tmp_path / "shard-00000" / "items.parquet", CATALOGUE.ids[20]
    items = pq.read_table(path)
    expires = [WATERMARK_MS + 500 if one == id else None for one in items["id"].to_pylist()]
    pq.write_table(items.append_column("expires_ms", pa.array(expires, pa.int64())), path)
    live = opened(tmp_path, CATALOGUE, clock_ms=lambda: now[0])
    assert {"two_tower", "popular"} <= sources_with(ask(live), id)
    now[0] += 500
    assert sources_with(ask(live), id) == set()
    assert live.snapshot.items == 299
    live.apply(changes(item(id), item("new")))  # it does not expire any more
    assert {"two_tower", "popular"} <= sources_with(ask(live), id)
    assert live.snapshot.items == 301


# --- filters ---


def test_filters_see_items_as_they_are_now_in_every_source(live: LiveGeneration) -> None:
    id, other = CATALOGUE.ids[30], CATALOGUE.ids[31]
    live.apply(
        changes(item(id, attributes={"genre": "noir"}), item("n", attributes={"genre": "noir"}))
    )
    answer = ask(live, other, filter='`genre` = "noir"')
    allowed = {key_of(id), key_of("n")}
    found = proposed(answer)
    assert all(set(scores) <= allowed for scores in found.values())
    assert set(found["popular"]) == set(found["two_tower"]) == allowed
    assert answer.dropped["filtered"] == live.snapshot.items - 2
    former = ask(live, other, filter=f'`genre` = "genre-{30 % 7}"')
    assert sources_with(former, id) == set()


def test_excluded_items_are_excluded_wherever_they_are(live: LiveGeneration) -> None:
    id = CATALOGUE.ids[40]
    live.apply(changes(item(id), item("new")))
    answer = ask(live, id, exclude=keys_of([id, "new", CATALOGUE.ids[41]]))
    for one in (id, "new", CATALOGUE.ids[41]):
        assert sources_with(answer, one) == set()
    assert answer.dropped["excluded"] == 3


# --- events ---


def test_events_on_new_changed_and_old_items_count(live: LiveGeneration) -> None:
    changed, old = CATALOGUE.ids[50], CATALOGUE.ids[51]
    before = proposed(ask(live))["popular"]
    events = likes(*["new"] * 500, *[changed] * 600, *[old] * 700)
    new = item("new", published_ms=WATERMARK_MS - 500 * DAY_MS)
    live.apply(changes(new, item(changed), events=events))
    after = proposed(ask(live))["popular"]
    assert list(after)[:3] == [key_of(id) for id in (old, changed, "new")]
    assert after[key_of(old)] > before[key_of(old)]
    live.apply(changes(item("new", title="Renamed")))  # and stays where it is
    renamed = proposed(ask(live))["popular"]
    assert renamed == pytest.approx(after)


# --- whatever the order ---


def random_stretches(
    rng: np.random.Generator, count: int, size: int
) -> list[list[tuple[str, str]]]:
    """Stretches of (id, what happens); in each an item is once, like in the log."""
    pool = [*CATALOGUE.ids, *(f"new-{number}" for number in range(150))]
    kinds = ["upsert"] * 7 + ["delete", "hide", "expire"]
    return [
        [(pool[at], kinds[rng.integers(10)]) for at in rng.permutation(len(pool))[:size]]
        for _ in range(count)
    ]


def change_of(id: str, kind: str, number: int) -> CatalogItem | None:
    if kind == "delete":
        return None
    return item(
        id,
        title=f"{id} for the {number}th time",
        attributes={
            "genre": f"genre-{number % 5}",
            "maker": f"maker-{number % 3}",
            "price": float(number % 100),
        },
        hidden=kind == "hide",
        expires_ms=WATERMARK_MS - 5 if kind == "expire" else 0,
    )


def test_random_changes_leave_what_the_final_catalogue_gives(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval_svc.delta._SMALL", 16)  # many segments, many merges
    live, oracle = opened(folder, CATALOGUE), opened(folder, CATALOGUE)
    final: dict[str, CatalogItem | None] = {}
    number = 0
    for stretch in random_stretches(np.random.default_rng(5), 100, 10):
        found = {}
        for id, kind in stretch:
            number += 1
            found[id] = change_of(id, kind, number)
        live.apply(
            changes(
                *(one for one in found.values() if one),
                deleted=[id for id, one in found.items() if not one],
            )
        )
        final |= found
    assert number == 1000
    assert 2 <= len(live.snapshot.segments) <= 8
    oracle.apply(
        changes(
            *(one for one in final.values() if one),
            deleted=[id for id, one in final.items() if not one],
        )
    )
    assert len(oracle.snapshot.segments) == 1
    assert_same(live, oracle, [CATALOGUE.ids[7], "new-3", "new-77", CATALOGUE.ids[100]])
    gone = [id for id, one in final.items() if not one or one.hidden or one.expires_ms]
    assert len(gone) > 30
    for id in gone:
        assert sources_with(ask(live, "new-3"), id) == set()


def assert_same(live: LiveGeneration, other: LiveGeneration, liked: list[str]) -> None:
    for wishes in ({}, {"filter": '`genre` = "genre-2"'}):
        mine, theirs = (proposed(ask(one, *liked, **wishes)) for one in (live, other))
        for name, scores in mine.items():
            assert scores.keys() == theirs[name].keys(), name
            assert list(scores.values()) == pytest.approx(list(theirs[name].values()), abs=2e-5)
    keys = keys_of([*CATALOGUE.ids, *(f"new-{number}" for number in range(150))])
    mine_cards, their_cards = (
        one.describe(keys, ("genre", "price", "maker")) for one in (live, other)
    )
    assert mine_cards.ids == their_cards.ids
    assert mine_cards.titles == their_cards.titles
    assert mine_cards.attributes == their_cards.attributes
    np.testing.assert_allclose(mine_cards.vectors, their_cards.vectors, atol=1e-6)


def test_taking_the_same_items_in_twice_changes_nothing(live: LiveGeneration) -> None:
    stretch = changes(item("a"), item(CATALOGUE.ids[1]), deleted=[CATALOGUE.ids[2]])
    live.apply(stretch)
    once = proposed(ask(live, "a"))
    live.apply(stretch)
    assert proposed(ask(live, "a")) == once


# --- new bases ---


def test_a_new_base_answers_like_the_old_one_with_its_changes(folder: Path) -> None:
    eager = opened(folder, CATALOGUE, policy=FoldPolicy(share=0, fewest=40, most=40))
    patient = opened(folder, CATALOGUE)
    number = 0
    for stretch in random_stretches(np.random.default_rng(8), 40, 10):
        found = {}
        for id, kind in stretch:
            number += 1
            found[id] = change_of(id, kind, number)
        for one in (eager, patient):
            one.apply(
                changes(
                    *(new for new in found.values() if new),
                    deleted=[id for id, new in found.items() if not new],
                    events=likes(*(id for id, _ in stretch[:5]), time_ms=WATERMARK_MS + number),
                )
            )
        eager.wait_for_new_base(30)
    assert eager.snapshot.base.segment is not eager.generation.base
    assert eager.snapshot.shelf is not None
    assert_same(eager, patient, [CATALOGUE.ids[7], "new-3", "new-77"])
    eager.close()


def test_changes_during_a_rebuild_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval_svc import live as module

    go_on, folding = threading.Event(), threading.Event()

    def slow_fold(*arguments: object) -> object:
        folding.set()
        assert go_on.wait(30)
        return fold(*arguments)

    fold = module.fold
    monkeypatch.setattr(module, "fold", slow_fold)
    live = opened(folder, CATALOGUE, policy=FoldPolicy(share=0, fewest=20, most=20))
    live.apply(changes(*(item(f"new-{number}") for number in range(30))))
    assert folding.wait(30)
    live.apply(changes(item("late"), deleted=["new-7", CATALOGUE.ids[3]], events=likes("late")))
    assert "two_tower" in sources_with(ask(live), "late")  # before the swap
    expected = proposed(ask(live, "late"))
    go_on.set()
    live.wait_for_new_base(30)
    assert len(live.snapshot.base.segment) == 330
    assert live.snapshot.items == 300 + 30 + 1 - 2
    found = proposed(ask(live, "late"))
    for name, scores in expected.items():
        assert found[name] == pytest.approx(scores, abs=1e-5), name
    for id in ("new-7", CATALOGUE.ids[3]):
        assert sources_with(ask(live, "late"), id) == set()
    live.close()


def test_what_comes_back_after_a_rebuild_knows_what_happened_to_it(folder: Path) -> None:
    live = opened(folder, CATALOGUE, policy=FoldPolicy(share=0, fewest=20, most=20))
    id = CATALOGUE.ids[12]
    before = proposed(ask(live, CATALOGUE.ids[9]))
    live.apply(changes(item(id, hidden=True), *(item(f"new-{n}") for n in range(30))))
    live.wait_for_new_base(30)
    assert key_of(id) not in live.snapshot.base.segment.keys
    assert sources_with(ask(live), id) == set()
    live.apply(changes(item(id)))
    after = proposed(ask(live, CATALOGUE.ids[9]))
    for name in ("mf", "popular", "cooccurrence"):
        assert (key_of(id) in before[name]) == (key_of(id) in after[name]), name
        assert after[name].get(key_of(id)) == before[name].get(key_of(id)), name
    live.close()


def test_a_failed_rebuild_leaves_the_old_base_and_its_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> object:
        raise OSError("no space left")

    monkeypatch.setattr("retrieval_svc.live.fold", fails)
    live = opened(folder, CATALOGUE, policy=FoldPolicy(share=0, fewest=5, most=5))
    live.apply(changes(*(item(f"new-{number}") for number in range(10))))
    live.wait_for_new_base(30)
    live.apply(changes(item("later")))
    assert sources_with(ask(live), "new-3")
    assert sources_with(ask(live), "later")
    assert "no new base" in caplog.text


def test_an_old_version_without_item_encoder_deletes_and_hides_but_takes_no_new_item(
    tmp_path: Path,
) -> None:
    live_slice(tmp_path, CATALOGUE)
    for path in (tmp_path / "tower").glob("item_[!v]*"):
        path.unlink()
    live = opened(tmp_path, CATALOGUE)
    known, expiring = CATALOGUE.ids[1], CATALOGUE.ids[2]
    live.apply(
        changes(
            item("new"),
            item(known),
            item(expiring, expires_ms=WATERMARK_MS - 1),
            deleted=[CATALOGUE.ids[3]],
        )
    )
    assert live.snapshot.items == 298
    assert sources_with(ask(live), "new") == sources_with(ask(live), expiring) == set()
    assert {"two_tower", "popular"} <= sources_with(ask(live), known)
