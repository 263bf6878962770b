"""Sources that follow events: to observe them is to have been trained on them.

The oracle trains on everything. What training learns beside counts (what to expect of an item, the
usual weight) stays as it was before the events, so it is taken from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from retrieval_svc.source_data import SharedData, SourceData
from retrieval_svc.sources import SOURCES, SliceView, Source, SourceQuery
from retrieval_svc.sources.counters import NEVER
from retrieval_svc.sources.observed import LearningSource, ObservedEvents
from shortlist.config import RetrievalConfig
from shortlist.live import CatalogItem
from shortlist.places import place_keys
from shortlist.tiers import History, UserContext
from tests.training.tiny import DAY_MS, tiny_dataset
from training.dataset import Dataset
from training.sources import TRAINERS, SourceLesson, TrainedSource

HALF_LIFE_MS = 6.0 * DAY_MS
NAMES = ("popular", "trending", "geographic")
CITIES = np.array(["paris", "rome", "48.86,2.35", None], object)
ITEMS, EVENTS, KNOWN = 40, 900, 600
SOMEBODY = UserContext(
    user_key=1,
    history=History.empty(),
    context={"city": "paris"},
    attributes={"home": "48.8,2.3"},
    time_ms=0,
)


def dataset_of(seed: int, *, timed: bool = True) -> Dataset:
    """Items of creators and places, some published late, with likes in cities."""
    rng = np.random.default_rng(seed)
    dataset = tiny_dataset(
        rng.integers(25, size=EVENTS),
        np.where(rng.random(EVENTS) < 0.2, rng.integers(5), rng.integers(ITEMS, size=EVENTS)),
        users=25,
        items=ITEMS,
        time_ms=np.sort(rng.integers(1, 90 * DAY_MS, size=EVENTS)) if timed else None,
        weight=rng.choice([0.0, 1.0, 2.0], size=EVENTS),
        published_ms=[int(t) if t % 3 else None for t in rng.integers(80 * DAY_MS, size=ITEMS)],
        item_features={
            "by": ("creator", [f"creator-{row % 7}" for row in range(ITEMS)]),
            "at": ("geo", [(48.8, 2.4) if row % 4 else (41.9, 12.5) for row in range(ITEMS)]),
        },
        user_features={"home": ("geo", [str(CITIES[user % 3]) for user in range(25)])},
        context={"city": rng.choice(CITIES, size=EVENTS).tolist()},
    )
    contexts = dataset.info.schema.interactions[0].context
    contexts["city"] = contexts["city"].model_copy(update={"role": "geo"})
    return dataset


def trained(
    name: str, dataset: Dataset, events: int, *, as_of_ms: int | None = None
) -> TrainedSource:
    lesson = SourceLesson(
        dataset=dataset,
        rows=np.arange(events),
        as_of_ms=int(dataset.events.time_ms[events - 1]) if as_of_ms is None else as_of_ms,
        config=RetrievalConfig(),
        half_life_ms=HALF_LIFE_MS if dataset.has_time else None,
    )
    source = TRAINERS[name](lesson)
    assert isinstance(source, TrainedSource), source
    return source


def opened(name: str, data: SourceData, shared: SharedData) -> Source:
    n = len(next(iter(data.columns.values())))
    return SOURCES[name].open(
        SliceView(
            source=name,
            keys=np.arange(n, dtype=np.uint64),
            vectors=np.zeros((n, 1), np.float32),
            watermark_ms=0,
            data=data,
            shared=shared,
            slice_folder=Path(),
            artifact=Path(),
            siblings={},
        )
    )


def events_of(
    dataset: Dataset, begin: int, end: int, rows: npt.NDArray[np.int64] | None = None
) -> ObservedEvents:
    """Events of the data as the log tells of them; `rows`: of each item, -1 = not in the slice."""
    chosen, events = slice(begin, end), dataset.events
    rows = np.arange(dataset.n_items) if rows is None else rows
    homes, cities = dataset.users["f_home"].to_pylist(), events.context["city"].to_pylist()
    places = [
        place_keys({"home": homes[events.user[at]], "city": cities[at] or ()}, ("home", "city"))
        for at in range(begin, end)
    ]
    return ObservedEvents(
        rows=rows[events.item[chosen]],
        times_ms=events.time_ms[chosen],
        weights=events.weight[chosen],
        values=events.value[chosen],
        places=[tuple(each.tolist()) for each in places],
        newest_ms=int(events.time_ms[:end].max()),
    )


def observing(source: Source, batches: Iterable[ObservedEvents]) -> Source:
    for events in batches:
        assert isinstance(source, LearningSource)
        source = source.observing(events)
    return source


def scores_of(source: Source, n: int = ITEMS, user: UserContext = SOMEBODY) -> dict[int, float]:
    rows, scores = source.propose(SourceQuery(user=user), n)
    assert (np.diff(scores) <= 0).all()
    return dict(zip(rows.tolist(), scores.tolist(), strict=True))


def oracle(name: str, dataset: Dataset, before: TrainedSource, moment_ms: int) -> Source:
    """Trained on all events as of a moment, but for what is learned beside counts."""
    after = trained(name, dataset, EVENTS, as_of_ms=moment_ms)
    counted = {"as_of_ms", "newest_ms", "likes"}
    settings = {
        **before.shared.settings,
        **{entry: after.shared.settings[entry] for entry in counted & after.shared.settings.keys()},
    }
    if name == "geographic":
        # In likes of what was the usual weight; what is where, was counted before the events.
        scale = after.shared.settings["usual_weight"] / before.shared.settings["usual_weight"]
        liked = after.data.lists["liked"]
        located = np.zeros(len(after.shared.arrays["places"]))
        known = np.isin(after.shared.arrays["places"], before.shared.arrays["places"])
        located[known] = before.shared.arrays["located"]
        arrays = {
            "places": after.shared.arrays["places"],
            "likes": after.shared.arrays["likes"] * scale,
            "located": located,
        }
        data = SourceData(
            columns={"likes": after.data.columns["likes"] * scale},
            lists={
                "liked": replace(liked, weights=liked.weights * np.float32(scale)),
                "located": after.data.lists["located"],
            },
        )
        settings["likes"] *= scale
        return opened(name, data, SharedData(arrays=arrays, settings=settings))
    kept = {"prior": before.data.columns["prior"]} if name == "popular" else {}
    data = SourceData(columns={**after.data.columns, **kept})
    return opened(name, data, SharedData(arrays=before.shared.arrays, settings=settings))


def moment_of(source: Source) -> int:
    assert isinstance(source, LearningSource)
    settings = source.learned().shared.settings
    return int(settings.get("newest_ms", settings["as_of_ms"]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("batch", [1, 6, 100, 300])
@pytest.mark.parametrize("name", NAMES)
def test_to_observe_events_is_to_have_been_trained_on_them(
    name: str, batch: int, seed: int
) -> None:
    dataset = dataset_of(seed)
    before = trained(name, dataset, KNOWN)
    batches = [events_of(dataset, at, at + batch) for at in range(KNOWN, EVENTS, batch)]
    source = observing(opened(name, before.data, before.shared), batches)
    expected = oracle(name, dataset, before, moment_of(source))
    assert scores_of(source) == pytest.approx(scores_of(expected), rel=1e-4, abs=1e-5)
    assert scores_of(source) != pytest.approx(
        scores_of(opened(name, before.data, before.shared)), rel=1e-2
    )


@pytest.mark.parametrize("name", ["popular", "geographic"])
def test_without_times_nothing_fades(name: str) -> None:
    dataset = dataset_of(5, timed=False)
    before = trained(name, dataset, KNOWN)
    events = events_of(dataset, KNOWN, EVENTS)
    live = replace(events, newest_ms=10**12, times_ms=np.full(len(events), 10**12))
    source = observing(opened(name, before.data, before.shared), [live])
    expected = oracle(name, dataset, before, 0)
    assert scores_of(source) == pytest.approx(scores_of(expected), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_not_far_from_those_of_the_last_moment(name: str) -> None:
    """The moment of the counts moves in steps; a score between two is nearly that of now."""
    dataset = dataset_of(3)
    before = trained(name, dataset, KNOWN)
    events = events_of(dataset, KNOWN, EVENTS)
    source = observing(opened(name, before.data, before.shared), [events])
    now = scores_of(oracle(name, dataset, before, events.newest_ms))
    # Of trends those that hardly are one may come and go.
    clear = {row: score for row, score in scores_of(source).items() if score > 0.1}
    assert clear == pytest.approx({row: now[row] for row in clear}, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_events_does_not_matter(name: str) -> None:
    dataset = dataset_of(1)
    before = trained(name, dataset, KNOWN)
    events = [events_of(dataset, at, at + 20) for at in range(KNOWN, EVENTS, 20)]
    newest = max(one.newest_ms for one in events)
    forwards = observing(opened(name, before.data, before.shared), events)
    backwards = observing(
        opened(name, before.data, before.shared),
        [replace(one, newest_ms=newest) for one in reversed(events)],
    )
    assert scores_of(forwards) == pytest.approx(scores_of(backwards), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_snapshot_is_the_same_after_the_next_was_made(name: str) -> None:
    dataset = dataset_of(2)
    before = trained(name, dataset, KNOWN)
    first = observing(opened(name, before.data, before.shared), [events_of(dataset, KNOWN, 700)])
    scores = scores_of(first)
    later = events_of(dataset, 700, EVENTS)
    one, same = observing(first, [later]), observing(first, [later])
    assert scores_of(first) == scores
    assert scores_of(one) == scores_of(same) != scores


@pytest.mark.parametrize("name", NAMES)
def test_shards_together_are_the_whole(name: str) -> None:
    """Of items that are divided, each has the score that it has in the one slice of all."""
    dataset = dataset_of(4)
    before = trained(name, dataset, KNOWN)
    whole = observing(opened(name, before.data, before.shared), [events_of(dataset, KNOWN, EVENTS)])
    together: dict[int, float] = {}
    for part in range(3):
        mine = np.flatnonzero(np.arange(ITEMS) % 3 == part)
        rows = np.full(ITEMS, -1)
        rows[mine] = np.arange(len(mine))
        source = opened(name, before.data.take(mine, ITEMS), before.shared)
        events = [events_of(dataset, at, at + 50, rows) for at in range(KNOWN, EVENTS, 50)]
        found = scores_of(observing(source, events))
        together |= {int(mine[row]): score for row, score in found.items()}
    assert together == pytest.approx(scores_of(whole), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_learned_opens_as_a_source_that_goes_on(name: str) -> None:
    dataset = dataset_of(6)
    before = trained(name, dataset, KNOWN)
    source = observing(opened(name, before.data, before.shared), [events_of(dataset, KNOWN, 750)])
    assert isinstance(source, LearningSource)
    again = opened(name, source.learned().data, source.learned().shared)
    assert scores_of(again) == pytest.approx(scores_of(source), rel=1e-6)
    rest = events_of(dataset, 750, EVENTS)
    assert scores_of(observing(again, [rest])) == pytest.approx(
        scores_of(observing(source, [rest])), rel=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
def test_new_items_join_what_was_learned(name: str) -> None:
    """A segment of new items, opened with what the base knows, counts like the base."""
    dataset = dataset_of(7)
    before = trained(name, dataset, KNOWN)
    base = observing(opened(name, before.data, before.shared), [events_of(dataset, KNOWN, 700)])
    assert isinstance(base, LearningSource)
    newest = int(dataset.events.time_ms[-1])
    items = [
        CatalogItem(id="a", attributes={"by": "creator-1", "at": "48.8,2.4"}, published_ms=newest),
        CatalogItem(id="b", attributes={"by": "nobody", "at": "nowhere"}),
    ]
    shared = base.learned().shared
    segment = opened(name, SOURCES[name].new_items(shared, items), shared)  # type: ignore[attr-defined]
    likes = 30
    paris = tuple(place_keys({"city": "paris"}, ["city"]).tolist())
    segment = observing(
        segment,
        [
            ObservedEvents(
                rows=np.zeros(likes, np.int64),
                times_ms=np.full(likes, newest),
                weights=np.ones(likes, np.float32),
                values=np.full(likes, np.nan, np.float32),
                places=[paris] * likes,
                newest_ms=newest,
            )
        ],
    )
    known = scores_of(observing(base, [ObservedEvents.none(newest)]))
    found = scores_of(segment)
    assert found[0] > found.get(1, 0)
    if name == "geographic":
        here = likes + before.shared.arrays["likes"].max() + 100  # more than all likes in Paris
        assert found[0] > likes / here
    else:
        assert found[0] > max(known.values(), default=0)


def test_a_new_item_is_expected_to_do_as_its_creator_does() -> None:
    dataset = dataset_of(8)
    shared = trained("popular", dataset, EVENTS).shared
    names = [f"creator-{number}" for number in range(7)]
    items = [CatalogItem(id=name, attributes={"by": name}) for name in names]
    items.append(CatalogItem(id="c", attributes={"by": (names[0], names[1])}))
    items += [CatalogItem(id="d", attributes={"by": "nobody"}), CatalogItem(id="e")]
    columns = SOURCES["popular"].new_items(shared, items).columns  # type: ignore[attr-defined]
    prior, mean = columns["prior"], shared.settings["mean_rate"]
    assert len(set(prior[:7].tolist())) == 7
    assert prior[7:].tolist() == pytest.approx([prior[:2].mean(), mean, mean])
    assert columns["since_ms"].tolist() == [NEVER] * len(items)


def test_many_changes_are_charted_as_if_there_had_been_one() -> None:
    """More changed rows than stand apart, so that a new order is made now and then."""
    rng, n = np.random.default_rng(0), 20_000
    columns = {
        "count": rng.gamma(1.0, size=n),
        "always": np.zeros(n),
        "since_ms": np.zeros(n, np.int64),
        "prior": np.zeros(n),
    }
    settings: dict[str, Any] = {
        "half_life_ms": 1e6,
        "begin_ms": 0,
        "trust": 0.5,
        "as_of_ms": 1_000_000,
    }
    start = opened("popular", SourceData(columns=columns), SharedData(settings=settings))
    likes = 50_000
    rows = rng.integers(n, size=likes)
    whole = ObservedEvents(
        rows=rows,
        times_ms=np.full(likes, 1_001_000),
        weights=rng.random(likes).astype(np.float32),
        values=np.full(likes, np.nan, np.float32),
        places=[()] * likes,
        newest_ms=1_001_000,
    )
    pieces = [
        replace(
            whole,
            rows=whole.rows[at : at + 1000],
            times_ms=whole.times_ms[at : at + 1000],
            weights=whole.weights[at : at + 1000],
        )
        for at in range(0, likes, 1000)
    ]
    once, often = observing(start, [whole]), observing(start, pieces)
    assert scores_of(often, 300) == pytest.approx(scores_of(once, 300), rel=1e-5)
    likes_of = np.bincount(rows, weights=whole.weights, minlength=n)
    fading, all_time = 2 ** (1000 / 1e6), 1e-3
    by_hand = (columns["count"] + likes_of * fading) / 1.5 + all_time * likes_of
    first = np.argsort(-by_hand)[:300]
    expected = dict(zip(first.tolist(), by_hand[first].tolist(), strict=True))
    assert scores_of(often, 300) == pytest.approx(expected, rel=1e-5)
