from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ranking_svc.columns import HISTORY_LENGTH
from ranking_svc.features import FORMAT, FeatureBuilder, FeatureSpec, embedded_slots
from shortlist.errors import ArtifactCorrupt
from shortlist.features import FeatureEncoder
from shortlist.tiers import AttributeValue, Candidates, History, UserContext
from tests.ranking_svc.tables import (
    CONTEXT,
    DAY_MS,
    ITEM,
    KEYS,
    NOTHING,
    NOW_MS,
    STRANGER,
    builder,
    candidates,
    padded,
    table,
    user_with,
)


def columns_of(
    built: FeatureBuilder, user: UserContext, asked: Candidates
) -> dict[str, list[float]]:
    """The built columns by name."""
    rows = built.build(user, asked)
    assert rows.numeric.dtype == np.float32
    assert rows.numeric.shape == (len(asked), len(built.names))
    assert np.isfinite(rows.numeric).all()
    return dict(zip(built.names, rows.numeric.T.tolist(), strict=True))


def near(*values: float) -> object:
    return pytest.approx(values, abs=1e-5)


# --- columns ---


def test_columns_have_names_of_their_own() -> None:
    names = builder().names
    assert len(set(names)) == len(names)


def test_what_the_sources_said() -> None:
    found = columns_of(builder(), user_with(), candidates(10, 20, 30))
    assert found["score:two_tower"] == near(0.9, 0.4, 0.4)  # not proposed: like its worst
    assert found["log_rank:two_tower"] == near(0, np.log(2), np.log1p(2000))
    assert found["proposed:two_tower"] == [1, 1, 0]
    assert found["score:popular"] == near(10, 8, 8)
    assert found["log_rank:popular"] == near(0, np.log1p(2000), np.log(2))
    assert found["proposed:popular"] == [1, 0, 1]
    assert found["reciprocal_rank:two_tower"] == near(1 / 10, 1 / 11, 0)
    assert found["reciprocal_rank:popular"] == near(1 / 10, 0, 1 / 11)


def test_scores_relative_to_the_best_and_the_worst_of_a_source() -> None:
    asked = replace(
        candidates(10, 20, 30, 40),
        scores=np.array([[4, 1, 2, np.nan], [np.nan, 7, np.nan, np.nan]], np.float32),
        ranks=np.array([[0, 2, 1, -1], [-1, 0, -1, -1]], np.int32),
    )
    found = columns_of(builder(), user_with(), asked)
    assert found["relative:two_tower"] == near(1, 0, 1 / 3, 0)
    assert found["relative:popular"] == near(0, 1, 0, 0)  # alone, so the best


def test_scores_far_apart_do_not_overflow() -> None:
    asked = replace(
        candidates(10, 20), scores=np.array([[3e38, -3e38], [3e38, np.nan]], np.float32)
    )
    found = columns_of(builder(), user_with(), asked)
    assert found["relative:two_tower"] == near(1, 0)


def test_what_the_blend_said() -> None:
    asked = replace(candidates(10, 20, 30), fused=np.array([0.5, 0.25, 0], np.float32))
    found = columns_of(builder(), user_with(), asked)
    assert found["blend:fused"] == near(*np.log([0.5, 0.25, 1e-6]))
    assert found["blend:sources"] == [2, 1, 1]


def test_sources_that_the_spec_does_not_know_do_not_count_as_agreeing() -> None:
    asked = replace(candidates(10, 20, 30), source_names=("tomorrow", "popular"))
    assert columns_of(builder(), user_with(), asked)["blend:sources"] == [1, 0, 1]


def test_sources_that_the_spec_does_not_know_are_ignored_and_missing_ones_are_absent() -> None:
    asked = replace(candidates(10, 20), source_names=("two_tower", "tomorrow"))
    found = columns_of(builder(), user_with(), asked)
    assert found["score:two_tower"] == near(0.9, 0.4)
    assert found["score:popular"] == found["proposed:popular"] == [0, 0]
    assert found["log_rank:popular"] == near(np.log1p(2000), np.log1p(2000))
    assert not any("tomorrow" in name for name in found)


def test_what_is_known_of_items() -> None:
    found = columns_of(builder(), user_with(), candidates(10, 40))
    assert found["item:popularity_all"] == near(1.0, 0.4)
    assert found["item:value"] == near(0.1, 0.4)
    assert found["item:price"] == near(-2 / np.sqrt(2), 1 / np.sqrt(2))


def test_ages_in_log_days_and_a_mark_where_they_are_unknown() -> None:
    found = columns_of(builder(), user_with(), candidates(10, 20, 30, 40))
    # 30 is published tomorrow: as if now.
    assert found["item:age_published"] == near(np.log1p(10) / 10, -0.1, 0, 0)
    assert found["item:age_first_event"] == near(np.log1p(3) / 10, -0.1, -0.1, -0.1)
    assert found["item:age_last_event"] == near(np.log1p(1) / 10, -0.1, -0.1, -0.1)


def test_how_candidates_relate_to_the_history() -> None:
    user = user_with((30, 1.0), (40, 0.0), (10, 2.0))  # 40 was seen, not liked
    found = columns_of(builder(), user, candidates(20, 40, 10))
    to_10, to_30 = np.array([0.5, -1, 1]), np.array([np.sqrt(0.75), 0, 0])
    assert found["history:similarity_newest"] == near(*to_10)
    assert found["history:similarity_newest_3"] == near(*((to_10 + to_30) / 2))
    assert found["history:similarity_mean"] == near(*((to_10 + to_30) / 2))
    assert found["history:similarity_max"] == near(*np.maximum(to_10, to_30))
    # 20 goes with 10 (0.5); 10 goes with 30 (0.25).
    assert found["history:cooccurrence"] == near(0.5 / np.sqrt(2), 0, 0.25 / np.sqrt(2))
    assert found["history:cooccurrence_mean"] == near(0.25, 0, 0.125)
    prices = ITEM.encode({"price": [2.0, 4.0, 1.0, 3.0]}, 4).numeric[:, 0]
    liked = (prices[3] + prices[2]) / 2
    assert found["history:distance:price"] == near(*np.abs(prices[:3] - liked))
    assert found["history:distance:popularity_all"] == near(0, 0.4, 0.2)  # from 0.8


def test_newer_events_count_more_where_recency_is_asked_for() -> None:
    user = user_with((30, 1.0), (40, 1.0), (20, 1.0))
    found = columns_of(builder(), user, candidates(10))
    weights = 0.5 ** (np.array([2, 1, 0]) / 5)
    similar = np.array([0, -1, 0.5])  # of 10 to 30, 40 and 20
    assert found["history:similarity_recent"] == near(weights @ similar / weights.sum())
    assert found["history:cooccurrence_recent"] == near(weights @ [0.25, 0, 0.5])
    assert found["history:cooccurrence"] == near(0.75 / np.sqrt(3))


def test_how_near_candidates_are_to_the_common_taste_of_the_history() -> None:
    user = user_with((20, 1.0), (40, 0.0), (10, 1.0))
    found = columns_of(builder(), user, candidates(30, 10, 40, 50))
    assert found["history:factors_newest"] == near(0.6, 1, 0, 0)
    assert found["history:factors_mean"] == near(0.7, 0.5, 0, 0)
    assert found["history:factors_max"] == near(0.8, 1, 0, 0)
    assert found["history:factors_passed"] == near(0, 0, 1, 0)


def test_how_candidates_relate_to_what_was_seen_and_not_liked() -> None:
    user = user_with((30, 0.0), (20, 1.0), (10, 0.0))
    found = columns_of(builder(), user, candidates(10, 20, 50, STRANGER))
    to_10, to_30 = np.array([1, 0.5, 0, 0]), np.array([0, np.sqrt(0.75), -1, 0])
    assert found["history:similarity_passed"] == near(*((to_10 + to_30) / 2))
    assert found["history:cooccurrence_passed"] == near(0.25 / np.sqrt(2), 0.5 / np.sqrt(2), 0, 0)
    # Half of the passed ones are rock, half jazz.
    assert found["history:passed:genre"] == near(0.5, 0.5, 0.5, 0)
    assert found["history:share:genre"] == near(0.5, 0.5, 0.5, 0)


def test_the_taste_for_values_of_a_feature() -> None:
    found = columns_of(builder(), user_with((10, 1.0), (20, 1.0)), candidates(30, 50, 40))
    mass = {"rock": 0.75, "jazz": 0.25}  # of the history
    share = {"rock": 5.5 / 10, "jazz": 3.5 / 10}  # of all interactions
    assert found["history:share:genre"] == near(mass["jazz"], mass["rock"], 0)
    lift = {word: np.log((0.9 * mass[word] + 0.1 * share[word]) / share[word]) for word in mass}
    assert found["history:lift:genre"] == near(lift["jazz"], lift["rock"], 0)


def test_how_often_and_how_lately_the_history_had_a_value() -> None:
    user = user_with((30, 1.0), (30, 1.0), (50, 1.0), (40, 1.0), (40, 0.0), (40, 1.0))
    found = columns_of(builder(), user, candidates(30, 50, 20, 40, STRANGER))
    jazz, rock = np.log1p(2), np.log1p(1)
    assert found["history:count:genre"] == near(jazz, rock, jazz, 0, 0)  # the more frequent
    longest = np.log1p(HISTORY_LENGTH)
    jazz, rock = 1 - np.log1p(3) / longest, 1 - np.log1p(2) / longest  # liked ones since
    assert found["history:recency:genre"] == near(jazz, rock, rock, 0, 0)  # the more recent
    jazz, rock = 1 - np.log1p(5) / 10, 1 - np.log1p(4) / 10  # days
    assert found["history:recency_days:genre"] == near(jazz, rock, rock, 0, 0)


def test_the_newest_event_is_as_recent_as_it_gets() -> None:
    user = user_with((50, 1.0), time_ms=NOW_MS - 5 * DAY_MS)
    found = columns_of(builder(), user, candidates(10))
    assert found["history:recency:genre"] == found["history:recency_days:genre"] == [1]


def test_only_the_three_newest_count_as_newest_and_only_the_last_fifty_as_history() -> None:
    old, new = [(40, 1.0)] * 60, [(10, 1.0)] * 50
    found = columns_of(builder(), user_with(*old, *new), candidates(10))
    assert found["history:similarity_mean"] == near(1)
    mixed = columns_of(builder(), user_with(*old, (10, 1.0), (10, 1.0), (10, 1.0)), candidates(10))
    assert mixed["history:similarity_newest_3"] == near(1)
    assert mixed["history:similarity_mean"][0] < -0.8


def test_features_that_user_and_item_share_match() -> None:
    asked = candidates(10, 20, 30, 40, STRANGER)
    for genre, expected in (("rock", [1, 1, 0, 0, 0]), ("jazz", [0, 1, 1, 0, 0])):
        found = columns_of(builder(), user_with(attributes={"genre": genre}), asked)
        assert found["match:user:genre:genre"] == expected
    for nothing in ({}, {"genre": "folk"}, {"genre": "unheard of"}):
        found = columns_of(builder(), user_with(attributes=nothing), asked)
        assert found["match:user:genre:genre"] == [0] * 5


def test_places_match_whatever_the_features_are_called() -> None:
    countries = {"country": ["NZ", "NO", "NZ", "NO", None]}
    item = FeatureEncoder.fit(countries, {"country": "geo"})
    home = FeatureEncoder.fit({"home": ["NZ", "NO"] * 2}, {"home": "geo"})
    now = FeatureEncoder.fit({"here": ["NZ", "NO", "PE"] * 2}, {"here": "geo"})
    encoded = item.encode(countries, 5)
    located = replace(
        table(item),
        tokens=padded(encoded.tokens, np.int32),
        token_weights=padded(encoded.weights),
    )
    built = FeatureBuilder(builder().spec, located, item, home, now)
    user = user_with(attributes={"home": "NO"}, context={"here": "NZ"})
    found = columns_of(built, user, candidates(10, 20, 50, STRANGER))
    assert found["match:user:home:country"] == [0, 1, 0, 0]
    assert found["match:context:here:country"] == [1, 0, 0, 0]
    elsewhere = user_with(context={"here": "PE"})
    assert columns_of(built, elsewhere, candidates(10))["match:context:here:country"] == [0]


def test_features_of_other_names_do_not_match_unless_they_are_places() -> None:
    user = FeatureEncoder.fit({"favourite": ["rock"] * 2}, {"favourite": "categorical"})
    assert not any(name.startswith("match:") for name in builder(user=user).names)


# --- places ---

AT_HOME = FeatureEncoder.fit({"home": ["48.86,2.35"] * 2}, {"home": "geo"})
HERE = FeatureEncoder.fit({"here": ["48.86,2.35"] * 2}, {"here": "geo"})


def nearness(km: float) -> float:
    return float(1 - np.log1p(km) / 10)


def test_how_far_items_are_from_the_user() -> None:
    built, asked = builder(user=AT_HOME, context=HERE), candidates(10, 30, 40, 50, STRANGER)
    paris = user_with(attributes={"home": "48.86,2.35"})
    found = columns_of(built, paris, asked)["place:nearness"]
    # To Lyon and to Sydney; where 40 is, nobody knows.
    expected = [1, nearness(392), 0, nearness(16_960), 0]
    assert found == pytest.approx(expected, abs=1e-3)
    lyon = user_with(attributes={"home": "48.86,2.35"}, context={"here": "45.76,4.84"})
    found = columns_of(built, lyon, asked)["place:nearness"]
    assert found[:2] == pytest.approx([1, 1], abs=1e-3)  # the nearest place counts


@pytest.mark.parametrize("home", ["france", "", "91,0", 7.0, ("48.86", "2.35")])
def test_a_user_without_coordinates_is_near_nothing(home: AttributeValue) -> None:
    for user in (user_with(), user_with(attributes={"home": home})):
        found = columns_of(builder(user=AT_HOME), user, candidates(10, 20))
        assert found["place:nearness"] == [0, 0]


def test_coordinates_of_features_that_are_no_places_are_none() -> None:
    user = user_with(attributes={"genre": "48.86,2.35", "unheard": "48.86,2.35"})
    assert columns_of(builder(), user, candidates(10))["place:nearness"] == [0]


def test_how_far_items_are_from_the_nearest_liked_one() -> None:
    user = user_with((20, 1.0), (40, 1.0), (30, 0.0), (50, 1.0))
    found = columns_of(builder(), user, candidates(10, 30, 40, 50))["history:nearness"]
    assert found == pytest.approx([nearness(7.31), nearness(387), 0, 1], abs=1e-3)


def test_items_without_coordinates_have_no_columns_of_distance() -> None:
    nowhere = replace(table(), places=np.zeros((6, 0, 3), np.float32))
    names = FeatureBuilder(builder().spec, nowhere, ITEM, AT_HOME, CONTEXT).names
    assert not any("nearness" in name for name in names)


# --- users ---


def test_what_is_known_of_the_user_and_the_moment() -> None:
    user = user_with((10, 1.0), (40, 0.0), (20, 1.0), attributes={"age": 40.0})
    found = columns_of(builder(), user, candidates(30, 50))
    assert found["user:events"] == near(*[np.log1p(3) / 5] * 2)
    assert found["user:days_since_event"] == near(*[np.log(2) / 10] * 2)
    assert found["user:mean:popularity_all"] == near(0.9, 0.9)
    assert found["user:std:popularity_all"] == near(0.1, 0.1)
    assert found["user:std:value"] == near(0.05, 0.05)
    assert found["user:mean:value"] == near(0.15, 0.15)
    assert found["user:mean:price"] == near(*[(-2 - 1) / 2 / np.sqrt(2)] * 2)
    assert found["user:age"] == near(1, 1)
    assert found["moment:day_sin"] == near(1, 1)
    assert found["moment:day_cos"] == near(0, 0)
    week = 2 * np.pi * (20_000 * 24 + 6) / (24 * 7)
    assert found["moment:week_sin"] == near(*[np.sin(week)] * 2)
    assert found["moment:week_cos"] == near(*[np.cos(week)] * 2)


def test_numbers_of_the_context_are_the_last_columns() -> None:
    built = builder(context=ITEM)
    found = columns_of(built, user_with(context={"price": 5.0}), candidates(10))
    assert built.names[-1] == "context:price"
    assert found["context:price"] == near(np.sqrt(2))


def test_tokens_of_user_and_context_come_encoded() -> None:
    user = user_with(attributes={"genre": "jazz"}, context={"device": "phone"})
    rows = builder().build(user, candidates(10))
    assert rows.user.weights.sum() == rows.context.weights.sum() == 1
    assert rows.context.tokens[0, 0] == CONTEXT.encode_one({"device": "phone"}).tokens[0, 0]


# --- what is missing ---


def test_without_a_history_the_features_of_it_are_zero() -> None:
    for user in (user_with(), user_with((STRANGER, 1.0), (STRANGER, 0.0))):
        found = columns_of(builder(), user, candidates(10, 20, STRANGER))
        for name, values in found.items():
            if name.startswith(("history:", "user:mean:", "user:std:")):
                assert values == [0, 0, 0], name


def test_what_was_only_seen_is_nothing_liked() -> None:
    found = columns_of(builder(), user_with((10, 0.0), (20, 0.0)), candidates(10, 20, STRANGER))
    for name, values in found.items():
        if name.startswith(("history:", "user:mean:", "user:std:")) and "passed" not in name:
            assert values == [0, 0, 0], name


def test_unknown_items_are_counted_and_have_neutral_features() -> None:
    built = builder()
    user = user_with((10, 1.0), (20, 1.0))
    rows = built.build(user, candidates(STRANGER, 10, 0, 50))
    assert rows.unknown == 2
    assert rows.items.tolist() == [5, 0, 5, 4]
    found = columns_of(built, user, candidates(10, 20, STRANGER))
    for name, values in found.items():
        if name.startswith(("item:age", "history:distance")) or not name.startswith(
            ("item:", "history:", "match:")
        ):
            continue
        assert values[2] == 0, name


def test_unknown_items_in_a_history_change_nothing_but_its_size() -> None:
    asked = candidates(30, 50)
    plain = columns_of(builder(), user_with((10, 1.0)), asked)
    strange = columns_of(builder(), user_with((STRANGER, 1.0), (10, 1.0)), asked)
    changed = {name for name, values in plain.items() if strange[name] != values}
    assert changed == {"user:events"}


def test_data_without_times_has_neither_ages_nor_moments() -> None:
    user = user_with((10, 1.0))
    found = columns_of(builder(has_time=False), user, candidates(10))
    assert found["item:age_published"] == found["item:age_first_event"] == near(-0.1)
    assert found["user:days_since_event"] == [0]
    assert [v for name, v in found.items() if name.startswith("moment:")] == [[0]] * 4
    assert not any("recency_days" in name for name in found)


# --- some of the candidates ---


@pytest.mark.parametrize("rows", [[3, 0], [2], [], [0, 1, 2, 3, 4]])
def test_features_of_chosen_candidates_are_what_they_are_among_all(rows: list[int]) -> None:
    built, asked = builder(), candidates(10, 20, 30, STRANGER, 50)
    user = user_with((10, 1.0), (40, 0.0), (20, 1.0), attributes={"genre": "rock"})
    everything, some = built.build(user, asked), built.build(user, asked, np.array(rows, int))
    np.testing.assert_allclose(some.numeric, everything.numeric[rows], atol=1e-6)
    assert some.items.tolist() == everything.items[rows].tolist()
    assert some.unknown == sum(row == 3 for row in rows)


def test_no_candidates_are_no_rows() -> None:
    for user in (user_with(), user_with((10, 1.0))):
        rows = builder().build(user, candidates())
        assert rows.numeric.shape == (0, len(builder().names))
        nobody = replace(
            candidates(),
            source_names=(),
            scores=np.zeros((0, 0), np.float32),
            ranks=np.zeros((0, 0), np.int32),
        )
        assert builder().build(user, nobody).numeric.shape == rows.numeric.shape


def test_items_and_users_without_features_have_fewer_columns() -> None:
    built = builder(item=NOTHING, user=NOTHING, context=NOTHING)
    found = columns_of(built, user_with((10, 1.0)), candidates(20, STRANGER))
    assert not any("genre" in name or "price" in name for name in found)
    assert built.item_slots == ()


@pytest.mark.parametrize(
    ("values", "has_time", "embedded"), [(100, True, 2), (101, True, 1), (101, False, 2)]
)
def test_values_that_are_many_get_no_embedding_where_there_are_times(
    values: int, has_time: bool, embedded: int
) -> None:
    names = [f"creator {n}" for n in range(values)] * 2
    item = FeatureEncoder.fit(
        {"maker": names, "genre": ["a", "b"] * values, "about": ["some words"] * 2 * values},
        {"maker": "creator", "genre": "categorical", "about": "text"},
    )
    assert len(embedded_slots(item, has_time=has_time)) == embedded


def test_a_history_of_the_future_is_as_if_of_now() -> None:
    user = user_with((10, 1.0), time_ms=NOW_MS - 30 * DAY_MS)
    found = columns_of(builder(), user, candidates(10))
    assert found["user:days_since_event"] == found["item:age_published"] == [0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("has_time", [True, False])
def test_whatever_is_asked_features_are_finite(seed: int, has_time: bool) -> None:
    rng = np.random.default_rng(seed)
    pool = np.concatenate([KEYS, rng.integers(1, 2**63, 5, dtype=np.uint64)])
    built = builder(has_time=has_time, user=AT_HOME, context=HERE)
    for _ in range(30):
        size = int(rng.integers(0, 70))
        history = History(
            keys=rng.choice(pool, size),
            times_ms=rng.choice([-(2**63), 0, NOW_MS, 2 * NOW_MS, 2**63 - 1], size),
            weights=rng.choice([0, 0.5, 3], size).astype(np.float32),
        )
        user = UserContext(
            user_key=1,
            history=history,
            attributes={"home": rng.choice(["1,2", "-90,180", "x", "1e-40,0"]).item()},
            context={"here": rng.choice(["48.86,2.35", ""]).item()},
            time_ms=int(rng.choice([0, NOW_MS, 2**63 - 1])),
        )
        keys = rng.permutation(pool)[: int(rng.integers(0, 10))]
        asked = candidates(*keys.tolist())
        wild = rng.choice([np.nan, np.inf, -3e38, 3e38, 0, 1e-40], asked.scores.shape)
        columns_of(built, user, replace(asked, scores=wild.astype(np.float32)))


# --- files ---


def test_a_spec_is_read_back(tmp_path: Path) -> None:
    spec = FeatureSpec(sources=("a", "b"), statistics=("s",), has_time=False)
    spec.save(tmp_path / "spec.json")
    assert FeatureSpec.load(tmp_path / "spec.json") == spec


def test_a_spec_of_another_format_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text('{"sources": ["a"], "statistics": [], "has_time": true}')
    expected = rf"spec\.json: features of format 1, .* builds format {FORMAT}; train"
    with pytest.raises(ArtifactCorrupt, match=expected):
        FeatureSpec.load(path)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", f'{{"format": {FORMAT}}}', f'{{"format": {FORMAT}, "sources": 1}}', "7"],
)
def test_a_file_that_is_no_spec_is_corrupt_and_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "spec.json"
    path.write_text(content)
    with pytest.raises(ArtifactCorrupt, match=r"spec\.json"):
        FeatureSpec.load(path)
