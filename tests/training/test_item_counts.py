"""A ranker that observes events knows what it would have been trained to know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ranking_svc.live import LiveItemTable
from shortlist.features import FeatureEncoder
from shortlist.live import Changes, EventColumns
from tests.training.tiny import DAY_MS, random_dataset
from training.dataset import Dataset
from training.item_statistics import HalfLives, build_item_table, count_items

ROWS, KNOWN = 600, 400


def live_table(dataset: Dataset, half_lives: HalfLives) -> LiveItemTable:
    """Trained on the first of the events."""
    known = np.arange(KNOWN)
    as_of_ms = int(dataset.events.time_ms[known].max()) if dataset.has_time else 0
    nothing = FeatureEncoder([], [])
    table = build_item_table(
        dataset,
        known,
        as_of_ms,
        vectors=np.zeros((dataset.n_items, 2), np.float32),
        encoder=nothing,
        half_lives=half_lives,
    )
    counts = count_items(dataset, known, as_of_ms, half_lives)
    return LiveItemTable.of(table, counts, nothing, [])


def stretch(dataset: Dataset, begin: int, end: int) -> Changes:
    events, chosen = dataset.events, slice(begin, end)
    return Changes(
        sequence=end,
        head=ROWS,
        items=(),
        events=EventColumns(
            sequences=np.arange(begin, end) + 1,
            user_keys=np.zeros(end - begin, np.uint64),
            item_keys=dataset.item_keys[events.item[chosen]],
            times_ms=events.time_ms[chosen],
            weights=events.weight[chosen],
            values=events.value[chosen],
            places=[()] * (end - begin),
        ),
    )


def without_values(dataset: Dataset) -> Dataset:
    nothing = np.full(ROWS, np.nan, np.float32)
    return replace(dataset, events=replace(dataset.events, value=nothing))


@pytest.mark.parametrize("valued", [True, False])
@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("batch", [1, 20, 200])
def test_to_observe_events_is_to_have_been_trained_on_them(
    batch: int, timed: bool, valued: bool
) -> None:
    dataset = random_dataset(ROWS, timed=timed, seed=3)
    dataset = dataset if valued else without_values(dataset)
    half_lives = HalfLives.of(dataset, np.arange(KNOWN))
    live = live_table(dataset, half_lives)
    before = live.statistics_of(np.arange(dataset.n_items))
    for begin in range(KNOWN, ROWS, batch):
        live.follow(stretch(dataset, begin, begin + batch), lambda rows: None)
    everything = np.arange(ROWS)
    as_of_ms = int(dataset.events.time_ms.max()) if timed else 0
    now = count_items(dataset, everything, as_of_ms, half_lives)
    # Values are told in the standard deviations that the model has learned.
    scale = count_items(dataset, np.arange(KNOWN), 0, half_lives)
    if valued:
        shift = (now.value_mean - scale.value_mean) / scale.value_std
        spread = now.value_std / scale.value_std
        now = replace(now, values=now.values * spread + now.valued * shift)
    found = live.statistics_of(np.arange(dataset.n_items))
    np.testing.assert_allclose(found, now.statistics(), rtol=1e-4, atol=1e-5)
    assert not np.allclose(found, before, atol=1e-2)
    if timed:
        table = build_item_table(
            dataset,
            everything,
            as_of_ms,
            vectors=np.zeros((dataset.n_items, 2), np.float32),
            encoder=FeatureEncoder([], []),
            half_lives=half_lives,
        )
        n = dataset.n_items
        assert live.first_event_ms[:n].tolist() == table.first_event_ms[:n].tolist()
        assert live.last_event_ms[:n].tolist() == table.last_event_ms[:n].tolist()


def test_an_event_that_comes_late_counts_what_it_would_have() -> None:
    dataset = random_dataset(ROWS, seed=4)
    half_lives = HalfLives.of(dataset, np.arange(KNOWN))
    in_order, backwards = live_table(dataset, half_lives), live_table(dataset, half_lives)
    for begin in range(KNOWN, ROWS, 50):
        in_order.follow(stretch(dataset, begin, begin + 50), lambda rows: None)
    for begin in range(ROWS - 50, KNOWN - 1, -50):
        backwards.follow(stretch(dataset, begin, begin + 50), lambda rows: None)
    rows = np.arange(dataset.n_items)
    np.testing.assert_allclose(
        in_order.statistics_of(rows), backwards.statistics_of(rows), rtol=1e-5, atol=1e-6
    )


def test_no_time_passing_shifts_a_statistic() -> None:
    """Counts fade relative to their means: without events everything stays."""
    dataset = random_dataset(ROWS, seed=5)
    half_lives = HalfLives(values_ms=(0.1 * DAY_MS, 1.0 * DAY_MS))
    rows = np.arange(dataset.n_items)
    sooner = count_items(dataset, np.arange(KNOWN), int(90 * DAY_MS), half_lives)
    later = count_items(dataset, np.arange(KNOWN), int(93 * DAY_MS), half_lives)
    np.testing.assert_allclose(
        sooner.statistics()[rows], later.statistics()[rows], rtol=1e-5, atol=1e-6
    )
