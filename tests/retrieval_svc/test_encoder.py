from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval_svc.encoder import TowerWeights, UserEncoder, moment_features, user_columns
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from shortlist.features import FeatureEncoder
from shortlist.ids import keys_of
from shortlist.tiers import History, UserContext
from tests.retrieval_svc.factory import Catalogue, Floats, mean_tower, unit

DIM, TOKEN_DIM, HIDDEN, LENGTH, ITEMS = 6, 3, 5, 4, 30
KEYS = np.sort(keys_of(f"item-{number}" for number in range(ITEMS)))
STRANGER = int(keys_of(["nobody"])[0])
NOON_MS = 1_700_000_000_000


def random_tower(*, has_time: bool = True, evened: bool = False, seed: int = 0) -> UserEncoder:
    """A tower with random weights, a user's city and age, and the device."""
    rng = np.random.default_rng(seed)
    user = FeatureEncoder.fit(
        {"city": ["Lyon", "Linz"] * 2, "age": [20.0, 30.0, 40.0, 50.0]},
        {"city": "categorical", "age": "numeric"},
    )
    context = FeatureEncoder.fit({"device": ["phone", "desk"] * 2}, {"device": "categorical"})
    width = 2 * TOKEN_DIM + user_columns(user, context)

    def array(*shape: int) -> Floats:
        return rng.normal(size=shape).astype(np.float32)

    return UserEncoder(
        keys=KEYS,
        vectors=unit(array(ITEMS, DIM)),
        user=user,
        context=context,
        weights=TowerWeights(
            position=array(LENGTH),
            user_tokens=array(user.vocabulary_size, TOKEN_DIM),
            context_tokens=array(context.vocabulary_size, TOKEN_DIM),
            history_map=array(DIM, DIM),
            feature_map=array(width, DIM),
            bias=array(DIM),
            hidden_map=array(2 * DIM + width, HIDDEN),
            hidden_bias=array(HIDDEN),
            output_map=array(HIDDEN, DIM),
            output_bias=array(DIM),
        ),
        has_time=has_time,
        evened=evened,
    )


def user_with(*events: tuple[int, float], **changes: Any) -> UserContext:
    """A user with a history of (item key, weight)."""
    history = History(
        keys=np.array([key for key, _ in events], np.uint64),
        times_ms=np.arange(len(events), dtype=np.int64),
        weights=np.array([weight for _, weight in events], np.float32),
    )
    return replace(UserContext(user_key=1, history=history, time_ms=NOON_MS), **changes)


def somebody() -> UserContext:
    return user_with(
        (int(KEYS[3]), 1.0),
        (int(KEYS[7]), 2.0),
        (int(KEYS[3]), 0.5),
        attributes={"city": "Lyon", "age": 33.0},
        context={"device": "phone"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved tower."""
    random_tower().save(tmp_path)
    return tmp_path


# --- encoding ---


def test_a_vector_worked_out_step_by_step() -> None:
    tower = random_tower()
    weights, vectors = tower._weights, tower.items.vectors
    strength = np.array([1.0, 2.0, 0.5]) * np.exp(weights.position[-3:])
    pooled = (strength[:, None] * vectors[[3, 7, 3]]).sum(0) / strength.sum()
    city = next(f for f in tower._user.token_features if f.name == "city")
    x = np.concatenate(
        [
            weights.user_tokens[city.first_token + city.vocabulary.index("Lyon")],
            weights.context_tokens[tower._context.encode_one({"device": "phone"}).tokens[0, 0]],
            [(33 - 35) / np.std([20, 30, 40, 50])],
            moment_features(np.array([NOON_MS]), True, np.array([3], np.float32))[0],
        ]
    )
    z = np.concatenate([pooled, vectors[3], x])
    hidden = np.maximum(z @ weights.hidden_map + weights.hidden_bias, 0)
    expected = (
        pooled @ weights.history_map
        + x @ weights.feature_map
        + weights.bias
        + hidden @ weights.output_map
        + weights.output_bias
    )
    np.testing.assert_allclose(
        tower.encode(somebody()), expected / np.linalg.norm(expected), atol=1e-5
    )


def test_a_vector_is_of_unit_length_and_finite() -> None:
    tower = random_tower()
    for user in (somebody(), user_with(), user_with((STRANGER, 1.0))):
        vector = tower.encode(user)
        assert vector.dtype == np.float32
        assert vector.shape == (tower.dim,) == (DIM,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_items_that_the_tower_does_not_know_are_ignored() -> None:
    tower = random_tower()
    known = [(int(KEYS[3]), 1.0), (int(KEYS[5]), 2.0)]
    mixed = [(STRANGER, 9.0), known[0], (0, 1.0), known[1], (2**64 - 1, 1.0)]
    np.testing.assert_array_equal(tower.encode(user_with(*mixed)), tower.encode(user_with(*known)))


def test_events_of_weight_zero_are_ignored() -> None:
    tower = random_tower()
    liked = [(int(KEYS[3]), 1.0), (int(KEYS[5]), 2.0)]
    seen = [(int(KEYS[8]), 0.0), liked[0], (int(KEYS[9]), 0.0), liked[1], (int(KEYS[1]), 0.0)]
    np.testing.assert_array_equal(tower.encode(user_with(*seen)), tower.encode(user_with(*liked)))


def test_a_history_of_unknown_or_unliked_items_is_like_none() -> None:
    tower = random_tower()
    nothing = tower.encode(user_with())
    for events in ([(STRANGER, 1.0)], [(int(KEYS[0]), 0.0)]):
        np.testing.assert_array_equal(tower.encode(user_with(*events)), nothing)


def test_of_a_long_history_the_newest_events_count() -> None:
    tower = random_tower()
    events = [(int(KEYS[n % ITEMS]), 1.0 + n % 3) for n in range(40)]
    np.testing.assert_array_equal(
        tower.encode(user_with(*events)), tower.encode(user_with(*events[-LENGTH:]))
    )


def test_unknown_attributes_and_values_are_ignored() -> None:
    tower = random_tower()
    plain = replace(somebody(), attributes={}, context={})
    strange = replace(
        plain, attributes={"city": "Atlantis", "shoe": 43.0}, context={"device": ("a", "b")}
    )
    np.testing.assert_array_equal(tower.encode(plain), tower.encode(strange))


def test_attributes_context_and_moment_move_the_vector() -> None:
    tower, user = random_tower(), somebody()
    changed = [
        replace(user, attributes={"city": "Linz", "age": 33.0}),
        replace(user, attributes={"city": "Lyon", "age": 50.0}),
        replace(user, context={"device": "desk"}),
        replace(user, time_ms=NOON_MS + 6 * 3_600_000),
    ]
    for other in changed:
        assert np.abs(tower.encode(user) - tower.encode(other)).max() > 1e-3


def test_without_times_and_features_a_stranger_is_like_any_other() -> None:
    stranger, passer = user_with((STRANGER, 1.0)), user_with((int(KEYS[1]), 0.0))
    liker = user_with((int(KEYS[1]), 1.0))
    catalogue = Catalogue.random(ITEMS)
    assert random_tower(has_time=False).tells_apart(stranger), "by where they live"
    assert mean_tower(catalogue, has_time=True).tells_apart(stranger), "by the moment"
    timeless = mean_tower(catalogue, has_time=False)
    assert [timeless.tells_apart(one) for one in (stranger, passer, liker)] == [False, False, True]


def test_a_tower_of_data_without_times_does_not_look_at_the_clock() -> None:
    tower, user = random_tower(has_time=False), somebody()
    later = replace(user, time_ms=NOON_MS + 6 * 3_600_000)
    np.testing.assert_array_equal(tower.encode(user), tower.encode(later))


def test_moments_are_points_on_a_day_and_a_week() -> None:
    week = 7 * 24 * 3_600_000
    times = np.array([0, week // 28, week], np.int64)  # midnight, 6 o'clock, a week later
    columns = moment_features(times, True, np.array([0, 9, 0], np.float32))
    assert columns.dtype == np.float32
    np.testing.assert_allclose(columns[0], [0, 1, 0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(columns[1, :2], [1, 0], atol=1e-6)
    np.testing.assert_allclose(columns[2], columns[0], atol=1e-6)
    assert columns[1, 4] == pytest.approx(np.log(10) / 4)


# --- files ---


def test_evened_histories_count_items_by_direction_whatever_is_left_to_the_last_number() -> None:
    tower = random_tower(has_time=False, evened=True)
    first, second = tower.items.vectors[[3, 7]]
    long, short = (np.linalg.norm(vector[:-1]) for vector in (first, second))
    pooled, newest, size = tower._pool(user_with((int(KEYS[3]), 1.0), (int(KEYS[7]), 2.0)).history)
    strength = np.array([1 / long, 2 / short])
    np.testing.assert_allclose(
        pooled, (strength @ [first, second]) / strength.sum(), rtol=1e-5, atol=1e-7
    )
    assert size == 2
    assert not newest.any()


def test_a_version_from_before_histories_were_evened_has_them_as_they_were(tmp_path: Path) -> None:
    tower = random_tower(has_time=False)
    tower.save(tmp_path)
    (tmp_path / "tower.json").write_text('{"has_time": false}', "utf-8")
    opened = UserEncoder.open(tmp_path)
    np.testing.assert_array_equal(opened.encode(somebody()), tower.encode(somebody()))


@pytest.mark.parametrize(("has_time", "evened"), [(True, False), (False, False), (False, True)])
def test_an_opened_tower_encodes_as_the_saved_one(
    tmp_path: Path, has_time: bool, evened: bool
) -> None:
    tower = random_tower(has_time=has_time, evened=evened)
    tower.save(tmp_path)
    opened = UserEncoder.open(tmp_path)
    assert opened.dim == DIM
    for user in (somebody(), user_with()):
        np.testing.assert_array_equal(opened.encode(user), tower.encode(user))


def test_an_opened_tower_maps_its_vectors_into_memory(folder: Path) -> None:
    assert isinstance(UserEncoder.open(folder).items.vectors, np.memmap)


ARRAYS = [*TowerWeights.__slots__, "item_vectors", "keys"]


CHANGES = {
    "longer": lambda array: np.concatenate([array, array]),
    "empty": lambda array: array[:0],
    "one dimension more": lambda array: array[..., None],
    "a single number": lambda array: array.ravel()[0],
}
# A tower may look at a history of any length.
WRONG_SHAPES = [(n, c) for n in ARRAYS for c in CHANGES if (n, c) != ("position", "longer")]


@pytest.mark.parametrize(("name", "change"), WRONG_SHAPES)
def test_an_array_of_another_shape_is_refused_and_named(
    folder: Path, name: str, change: str
) -> None:
    path = folder / f"{name}.npy"
    np.save(path, CHANGES[change](np.load(path)))
    # Of two arrays that do not fit each other either may be named.
    fits_not = rf"({name}|keys|history_map|hidden_map|feature_map)\.npy"
    with pytest.raises(ArtifactCorrupt, match=fits_not):
        UserEncoder.open(folder)


@pytest.mark.parametrize("name", sorted({*ARRAYS} - {"keys"}))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_and_named(
    folder: Path, name: str, value: float
) -> None:
    path = folder / f"{name}.npy"
    array = np.load(path)
    array.ravel()[-1] = value
    np.save(path, array)
    with pytest.raises(ArtifactRefused, match=rf"{name}\.npy holds NaN or Inf"):
        UserEncoder.open(folder)


@pytest.mark.parametrize("name", [*ARRAYS, "tower", "user_features", "context_features"])
def test_a_missing_file_is_refused_and_named(folder: Path, name: str) -> None:
    (path,) = folder.glob(f"{name}.*")
    path.unlink()
    with pytest.raises(ArtifactCorrupt, match=path.name.replace(".", r"\.")):
        UserEncoder.open(folder)


@pytest.mark.parametrize("name", [*ARRAYS, "tower", "user_features", "context_features"])
def test_a_file_of_garbage_is_refused_and_named(folder: Path, name: str) -> None:
    (path,) = folder.glob(f"{name}.*")
    path.write_bytes(b"not what it was")
    with pytest.raises(ArtifactCorrupt, match=path.name.replace(".", r"\.")):
        UserEncoder.open(folder)


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_objects_is_refused_without_unpickling(folder: Path, name: str) -> None:
    np.save(folder / f"{name}.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactCorrupt, match=rf"{name}\.npy"):
        UserEncoder.open(folder)


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_texts_is_refused_and_named(folder: Path, name: str) -> None:
    path = folder / f"{name}.npy"
    np.save(path, np.full(np.load(path).shape, "x"))
    with pytest.raises(ArtifactCorrupt, match=rf"{name}\.npy"):
        UserEncoder.open(folder)


def test_keys_that_do_not_ascend_are_refused(folder: Path) -> None:
    np.save(folder / "keys.npy", KEYS[::-1])
    with pytest.raises(ArtifactCorrupt, match=r"keys\.npy"):
        UserEncoder.open(folder)


def test_a_tower_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    tower = random_tower()
    tower.items.vectors[4, 2] = np.nan
    with pytest.raises(ArtifactRefused, match="item_vectors"):
        tower.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
