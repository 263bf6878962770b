from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from ranking_svc.features import FeatureBuilder, FeatureSpec, ItemTable
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from shortlist.tiers import Candidates, History, UserContext
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


def test_sources_that_the_spec_does_not_know_are_ignored_and_missing_ones_are_absent() -> None:
    asked = replace(candidates(10, 20), source_names=("two_tower", "tomorrow"))
    found = columns_of(builder(), user_with(), asked)
    assert found["score:two_tower"] == near(0.9, 0.4)
    assert found["score:popular"] == found["proposed:popular"] == [0, 0]
    assert found["log_rank:popular"] == near(np.log1p(2000), np.log1p(2000))
    assert not any("tomorrow" in name for name in found)


def test_what_is_known_of_items() -> None:
    found = columns_of(builder(), user_with(), candidates(10, 40))
    assert found["item:popularity"] == near(1.0, 0.4)
    assert found["item:value"] == near(0.1, 0.4)
    assert found["item:price"] == near(-2 / np.sqrt(2), 1 / np.sqrt(2))


def test_ages_in_log_days_and_a_mark_where_they_are_unknown() -> None:
    found = columns_of(builder(), user_with(), candidates(10, 20, 30, 40))
    # 30 is published tomorrow: as if now.
    assert found["item:age_published"] == near(np.log1p(10) / 10, -0.1, 0, 0)
    assert found["item:age_first_event"] == near(np.log1p(3) / 10, -0.1, -0.1, -0.1)


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


def test_the_taste_for_values_of_a_feature() -> None:
    found = columns_of(builder(), user_with((10, 1.0), (20, 1.0)), candidates(30, 50, 40))
    mass = {"rock": 0.75, "jazz": 0.25}  # of the history
    share = {"rock": 5.5 / 10, "jazz": 3.5 / 10}  # of all interactions
    assert found["history:share:genre"] == near(mass["jazz"], mass["rock"], 0)
    lift = {word: np.log((0.9 * mass[word] + 0.1 * share[word]) / share[word]) for word in mass}
    assert found["history:lift:genre"] == near(lift["jazz"], lift["rock"], 0)


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
        assert found["match:genre"] == expected
    for nothing in ({}, {"genre": "folk"}, {"genre": "unheard of"}):
        found = columns_of(builder(), user_with(attributes=nothing), asked)
        assert found["match:genre"] == [0] * 5


def test_what_is_known_of_the_user_and_the_moment() -> None:
    user = user_with((10, 1.0), (40, 0.0), (20, 1.0), attributes={"age": 40.0})
    found = columns_of(builder(), user, candidates(30, 50))
    assert found["user:events"] == near(*[np.log1p(3) / 5] * 2)
    assert found["user:days_since_event"] == near(*[np.log(2) / 10] * 2)
    assert found["user:mean:popularity"] == near(0.9, 0.9)
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
    seen_only = user_with((10, 0.0), (STRANGER, 1.0))
    for user in (user_with(), seen_only):
        found = columns_of(builder(), user, candidates(10, 20, STRANGER))
        for name, values in found.items():
            if name.startswith(("history:", "user:mean:")):
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


def test_no_candidates_are_no_rows() -> None:
    for user in (user_with(), user_with((10, 1.0))):
        rows = builder().build(user, candidates())
        assert rows.numeric.shape == (0, len(builder().names))


def test_items_and_users_without_features_have_fewer_columns() -> None:
    built = builder(item=NOTHING, user=NOTHING, context=NOTHING)
    found = columns_of(built, user_with((10, 1.0)), candidates(20, STRANGER))
    assert not any("genre" in name or "price" in name for name in found)
    assert built.item_slots == ()


def test_a_history_of_the_future_is_as_if_of_now() -> None:
    user = user_with((10, 1.0), time_ms=NOW_MS - 30 * DAY_MS)
    found = columns_of(builder(), user, candidates(10))
    assert found["user:days_since_event"] == found["item:age_published"] == [0]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_asked_features_are_finite(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool = np.concatenate([KEYS, rng.integers(1, 2**63, 5, dtype=np.uint64)])
    for _ in range(30):
        size = int(rng.integers(0, 9))
        history = History(
            keys=rng.choice(pool, size),
            times_ms=rng.integers(0, 2 * NOW_MS, size),
            weights=rng.choice([0, 0.5, 3], size).astype(np.float32),
        )
        user = UserContext(user_key=1, history=history, time_ms=int(rng.integers(0, 2 * NOW_MS)))
        keys = rng.permutation(pool)[: int(rng.integers(0, 10))]
        columns_of(builder(), user, candidates(*keys.tolist()))


# --- files ---


def test_a_saved_table_is_read_back(tmp_path: Path) -> None:
    table().save(tmp_path)
    loaded = ItemTable.load(tmp_path)
    for field in fields(ItemTable):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(table(), field.name))


@pytest.mark.parametrize("name", [field.name for field in fields(ItemTable)])
def test_a_column_that_is_missing_or_garbage_is_refused_and_named(
    tmp_path: Path, name: str
) -> None:
    table().save(tmp_path)
    path = tmp_path / f"{name}.npy"
    path.write_bytes(b"garbage")
    with pytest.raises(ArtifactCorrupt, match=rf"{name}\.npy"):
        ItemTable.load(tmp_path)
    path.unlink()
    with pytest.raises(ArtifactCorrupt, match=rf"{name}\.npy"):
        ItemTable.load(tmp_path)


ALIGNED = [f.name for f in fields(ItemTable) if f.name not in ("keys", "token_shares")]


@pytest.mark.parametrize("name", ALIGNED)
def test_a_column_of_another_length_is_refused_and_named(tmp_path: Path, name: str) -> None:
    changed = replace(table(), **{name: getattr(table(), name)[:-1]})
    with pytest.raises(ArtifactCorrupt, match=rf"{name}\.npy has 5 rows, not 6"):
        changed.save(tmp_path)


FLOATS = ["vectors", "statistics", "token_weights", "numeric", "affinities", "token_shares"]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_column_that_is_not_finite_is_refused_and_named(
    tmp_path: Path, name: str, value: float
) -> None:
    column = getattr(table(), name).copy()
    column.ravel()[-1] = value
    with pytest.raises(ArtifactRefused, match=rf"{name}\.npy holds NaN or Inf"):
        replace(table(), **{name: column}).save(tmp_path)


def test_a_spec_is_read_back(tmp_path: Path) -> None:
    spec = FeatureSpec(sources=("a", "b"), statistics=("s",), has_time=False)
    spec.save(tmp_path / "spec.json")
    assert FeatureSpec.load(tmp_path / "spec.json") == spec


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sources": 1, "statistics": []}', "7"])
def test_a_file_that_is_no_spec_is_corrupt_and_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "spec.json"
    path.write_text(content)
    with pytest.raises(ArtifactCorrupt, match=r"spec\.json"):
        FeatureSpec.load(path)
