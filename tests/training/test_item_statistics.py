from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ranking_svc.features import ItemTable
from shortlist.features import FeatureEncoder
from tests.training.tiny import DAY_MS, random_dataset, tiny_dataset
from training import item_statistics
from training.dataset import Dataset
from training.encoding import fit_encoders
from training.item_statistics import HalfLives, build_item_table, decayed_counts


def table_of(dataset: Dataset, rows: np.ndarray, **changes: Any) -> ItemTable:
    options: dict[str, Any] = {
        "vectors": np.eye(dataset.n_items, 4, dtype=np.float32),
        "encoder": fit_encoders(dataset, rows).item,
        "half_lives": HalfLives.of(dataset, rows),
    }
    as_of = int(dataset.events.time_ms[rows].max()) if len(rows) else 0
    table = build_item_table(dataset, rows, as_of, **options | changes)
    table.check()
    return table


# --- popularity ---


@pytest.mark.parametrize("half_life", [None, DAY_MS / 2, 30.0 * DAY_MS])
def test_decayed_counts_are_what_a_loop_finds(half_life: float | None) -> None:
    dataset = random_dataset()
    rows = dataset.rows_of_split("train")
    events, as_of = dataset.events, 91 * DAY_MS
    expected = np.zeros(dataset.n_items)
    for row in rows:
        age = 0 if half_life is None else (as_of - int(events.time_ms[row])) / half_life
        expected[events.item[row]] += float(events.weight[row]) * 0.5**age
    np.testing.assert_allclose(decayed_counts(dataset, rows, as_of, half_life), expected)


def test_an_interaction_counts_half_after_a_half_life() -> None:
    dataset = tiny_dataset([0, 0], [0, 1], time_ms=[0, DAY_MS], weight=[4.0, 4.0])
    counts = decayed_counts(dataset, np.arange(2), DAY_MS, DAY_MS)
    assert counts.tolist() == [2.0, 4.0]


def test_half_lives_are_parts_of_the_span_of_the_data() -> None:
    dataset = tiny_dataset([0, 0, 0], [0, 1, 2], time_ms=[5, 100, 2005])
    lives = HalfLives.of(dataset, np.arange(3))
    assert lives.values_ms == (10.0, 40.0, 100.0, 500.0)
    assert lives.statistics == (
        *("popularity_0", "popularity_1", "popularity_2", "popularity_3"),
        *("popularity_all", "trend", "trend_0", "trend_1", "trend_2", "trend_3"),
        *("events", "value"),
    )


def test_data_of_a_single_moment_has_half_lives_above_zero() -> None:
    dataset = tiny_dataset([0, 0], [0, 1], time_ms=[7, 7])
    assert min(HalfLives.of(dataset, np.arange(2)).values_ms) > 0


@pytest.mark.parametrize("timed", [True, False])
def test_statistics_have_a_column_for_every_name(timed: bool) -> None:
    dataset = random_dataset(timed=timed)
    rows = dataset.rows_of_split("train")
    names = HalfLives.of(dataset, rows).statistics
    assert table_of(dataset, rows).statistics.shape == (dataset.n_items + 1, len(names))


def test_data_without_times_has_one_popularity_and_no_trend() -> None:
    dataset = random_dataset(timed=False)
    rows = dataset.rows_of_split("train")
    assert HalfLives.of(dataset, rows).statistics == ("popularity_all", "events", "value")
    table = table_of(dataset, rows)
    counts = decayed_counts(dataset, rows, 0, None)
    np.testing.assert_allclose(
        table.statistics[:-1, 0], np.log1p(counts / counts.mean()), rtol=1e-6
    )
    assert not table.first_event_ms.any()
    assert not table.last_event_ms.any()


def test_trend_is_the_fastest_popularity_against_the_slowest() -> None:
    dataset = random_dataset()
    rows = dataset.rows_of_split("train")
    names = HalfLives.of(dataset, rows).statistics
    column = dict(zip(names, table_of(dataset, rows).statistics.T, strict=True))
    np.testing.assert_allclose(
        column["trend"], column["popularity_0"] - column["popularity_3"], atol=1e-6
    )


def test_trends_hold_each_speed_against_the_next_slower_one() -> None:
    dataset = random_dataset()
    rows = dataset.rows_of_split("train")
    names = HalfLives.of(dataset, rows).statistics
    column = dict(zip(names, table_of(dataset, rows).statistics.T, strict=True))
    speeds = ["popularity_0", "popularity_1", "popularity_2", "popularity_3", "popularity_all"]
    for place, (faster, slower) in enumerate(pairwise(speeds)):
        trend = column[faster] - column[slower]
        np.testing.assert_allclose(column[f"trend_{place}"], trend, atol=1e-6)


def test_an_item_that_everybody_turned_to_lately_trends() -> None:
    dataset = tiny_dataset(np.arange(40), [0] * 20 + [1] * 20, time_ms=np.arange(40) * DAY_MS)
    rows = np.arange(40)
    names = HalfLives.of(dataset, rows).statistics
    for place, name in enumerate(names):
        if name.startswith("trend"):
            statistics = table_of(dataset, rows).statistics[:, place]
            assert statistics[1] > 0 > statistics[0], name


def test_events_are_counted_whatever_they_weigh() -> None:
    dataset = tiny_dataset([0, 1, 2, 0], [0, 0, 0, 1], items=3, weight=[0.0, 1.0, 5.0, 1.0])
    rows = np.arange(4)
    place = HalfLives.of(dataset, rows).statistics.index("events")
    expected = np.log1p([3, 1, 0, 0]) / 10
    np.testing.assert_allclose(table_of(dataset, rows).statistics[:, place], expected, rtol=1e-6)


def test_values_are_standardised_and_shrunk_to_the_mean() -> None:
    dataset = tiny_dataset([0, 1, 2], [0, 0, 1], items=3, value=[5.0, 5.0, 2.0])
    value = table_of(dataset, np.arange(3)).statistics[:, -1]
    mean, std = 4.0, math.sqrt(2.0)
    assert value[0] == pytest.approx(2 * (5 - mean) / std / (2 + 10))
    assert value[1] == pytest.approx((2 - mean) / std / (1 + 10))
    assert value[2:].tolist() == [0, 0]


def test_values_that_are_all_alike_or_missing_say_nothing() -> None:
    for value in ([3.3, 3.3, 3.3], [math.nan] * 3):
        dataset = tiny_dataset([0, 1, 2], [0, 0, 1], value=value)
        assert np.abs(table_of(dataset, np.arange(3)).statistics[:, -1]).max() < 1e-6


# --- moments ---


def test_the_events_at_the_ends_and_the_publication_are_known_or_zero() -> None:
    dataset = tiny_dataset(
        [0, 1, 0], [1, 1, 0], items=3, time_ms=[30, 40, 50], published_ms=[None, 20, None]
    )
    table = table_of(dataset, np.arange(3))
    assert table.first_event_ms.tolist() == [50, 30, 0, 0]
    assert table.last_event_ms.tolist() == [50, 40, 0, 0]
    assert table.published_ms.tolist() == [0, 20, 0, 0]


# --- places ---


def test_items_are_where_their_coordinates_say() -> None:
    dataset = tiny_dataset(
        [0, 0],
        [0, 1],
        items=3,
        item_features={
            "shop": ("geo", [(90.0, 0.0), (0.0, 90.0), (None, 1.0)]),
            "country": ("geo", ["NZ", "NO", "NZ"]),
            "maker": ("geo", [(None, None), (0.0, 0.0), (0.0, 0.0)]),
        },
    )
    places = table_of(dataset, np.arange(2)).places
    shops, makers = [[0, 0, 1], [0, 1, 0], [0, 0, 0]], [[0, 0, 0], [1, 0, 0], [1, 0, 0]]
    np.testing.assert_allclose(places[:-1, 0], shops, atol=1e-7)
    np.testing.assert_allclose(places[:-1, 1], makers, atol=1e-7)
    assert not places[-1].any()


def test_items_without_coordinates_have_no_places() -> None:
    dataset = random_dataset()
    table = table_of(dataset, dataset.rows_of_split("train"))
    assert table.places.shape == (dataset.n_items + 1, 0, 3)


# --- co-occurrence ---


def naive_cosines(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Shrunk cosine of every pair of items over users who liked both."""
    events = dataset.events
    liked = np.zeros((dataset.n_users, dataset.n_items))
    for row in rows:
        if events.weight[row] > 0:
            liked[events.user[row], events.item[row]] = 1
    together = liked.T @ liked
    sizes = np.diag(together)
    cosines = np.zeros_like(together)
    for a in range(dataset.n_items):
        for b in range(dataset.n_items):
            if a != b and together[a, b]:
                cosine = together[a, b] / math.sqrt(sizes[a] * sizes[b])
                cosines[a, b] = cosine * together[a, b] / (together[a, b] + 5)
    return cosines


def test_neighbours_are_the_naive_cosines_best_first() -> None:
    dataset = random_dataset()
    rows = dataset.rows_of_split("train")
    table = table_of(dataset, rows)
    expected = naive_cosines(dataset, rows)
    for item in range(dataset.n_items):
        known = table.neighbours[item] < dataset.n_items
        found = np.zeros(dataset.n_items)
        found[table.neighbours[item][known]] = table.affinities[item][known]
        np.testing.assert_allclose(found, expected[item], rtol=1e-5)
        assert (np.diff(table.affinities[item]) <= 0).all()
        assert not table.affinities[item][~known].any()


def test_neighbours_do_not_depend_on_how_many_items_are_looked_at_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = random_dataset()
    rows = dataset.rows_of_split("train")
    whole = table_of(dataset, rows)
    monkeypatch.setattr(item_statistics, "_BLOCK", 7)
    parts = table_of(dataset, rows)
    np.testing.assert_array_equal(parts.neighbours, whole.neighbours)
    np.testing.assert_array_equal(parts.affinities, whole.affinities)


def test_only_the_best_neighbours_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = random_dataset()
    rows = dataset.rows_of_split("train")
    monkeypatch.setattr(item_statistics, "_NEIGHBOURS", 3)
    table = table_of(dataset, rows)
    best = np.sort(naive_cosines(dataset, rows), axis=1)[:, :-4:-1]
    np.testing.assert_allclose(table.affinities[:-1], best, rtol=1e-5)


def test_the_newest_interactions_of_a_heavy_user_co_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_statistics, "_USER_CAP", 2)
    dataset = tiny_dataset([0, 0, 1, 0], [0, 1, 0, 2], time_ms=[1, 2, 3, 4])
    table = table_of(dataset, np.arange(4))
    assert set(table.neighbours[1].tolist()) == {2, 3}  # 3 = nobody
    assert set(table.neighbours[0].tolist()) == {3}


def test_items_with_the_same_fans_point_the_same_way_and_seen_ones_do_not_count() -> None:
    dataset = tiny_dataset(
        [0, 0, 1, 1, 2, 2, 3, 3, 0], [0, 1, 0, 1, 2, 3, 2, 3, 4], weight=[1] * 8 + [0]
    )
    factors = table_of(dataset, np.arange(9)).factors[:-1]
    cosines = factors @ factors.T
    assert cosines[0, 1] == pytest.approx(1, abs=1e-3)
    assert cosines[0, 2] == pytest.approx(0, abs=1e-3)
    assert not factors[4].any()


# --- tokens ---


def test_token_shares_are_shares_of_the_interactions() -> None:
    dataset = tiny_dataset(
        [0, 0, 1, 1],
        [0, 0, 1, 2],
        item_features={
            "genre": ("multi_categorical", [["a"], ["a", "b"], ["b"]]),
            "made": ("categorical", ["x", "x", None]),
        },
    )
    rows = np.arange(4)
    encoder = fit_encoders(dataset, rows).item
    shares = table_of(dataset, rows, encoder=encoder).token_shares
    words = {
        word: share
        for feature in encoder.token_features
        for word, share in zip(feature.vocabulary, shares[feature.first_token :], strict=False)
    }
    assert words == pytest.approx({"a": 2.5 / 4, "b": 1.5 / 4, "x": 3 / 4})


def test_the_last_row_stands_for_unknown_items() -> None:
    dataset = random_dataset()
    table = table_of(dataset, dataset.rows_of_split("train"))
    assert (table.neighbours[-1] == dataset.n_items).all()
    for name in ("vectors", "statistics", "last_event_ms", "tokens", "numeric", "affinities"):
        assert not getattr(table, name)[-1].any()


def test_a_table_of_no_interactions_is_finite() -> None:
    dataset = random_dataset()
    table = table_of(dataset, np.empty(0, np.int64), encoder=FeatureEncoder([], []))
    assert not table.statistics.any()
    assert not table.affinities.any()
