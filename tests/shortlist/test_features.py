from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.errors import ArtifactCorrupt
from shortlist.features import Encoded, FeatureEncoder


def fit(
    columns: Mapping[str, tuple[str, Sequence[Any]]], *, min_count: int = 1, **options: Any
) -> FeatureEncoder:
    """An encoder of `name: (role, values)`."""
    return FeatureEncoder.fit(
        {name: values for name, (_, values) in columns.items()},
        {name: role for name, (role, _) in columns.items()},
        min_count=min_count,
        **options,
    )


def words_of(encoder: FeatureEncoder, encoded: Encoded, row: int = 0) -> dict[str, float]:
    """The values of a row with their weights."""
    by_code = {
        feature.first_token + place: value
        for feature in encoder.token_features
        for place, value in enumerate(feature.vocabulary)
    }
    return {
        by_code[int(code)]: float(weight)
        for code, weight in zip(encoded.tokens[row], encoded.weights[row], strict=True)
        if code
    }


ALL = {
    "kind": ("categorical", ["a", "b", "a", None]),
    "tags": ("multi_categorical", [["x", "y"], ["x"], [], None]),
    "place": ("geo", [(10.0, 20.0), (10.0, 20.0), (None, None), (-33.9, 151.2)]),
    "price": ("numeric", [1.0, 2.0, 3.0, None]),
    "maker": ("creator", ["ann", "ann", "bob", None]),
}


# --- layout ---


def test_every_feature_owns_slots_and_tokens_that_follow_one_another() -> None:
    encoder = fit(ALL)
    slot, token = 0, 1
    for feature in encoder.token_features:
        assert (feature.first_slot, feature.first_token) == (slot, token)
        slot, token = slot + feature.slots, token + len(feature.vocabulary)
    assert (encoder.slots, encoder.vocabulary_size) == (slot, token)


def test_tokens_of_a_feature_lie_in_its_range_and_its_slots() -> None:
    encoder = fit(ALL)
    encoded = encoder.encode({name: values for name, (_, values) in ALL.items()}, 4)
    for feature in encoder.token_features:
        mine = encoded.tokens[:, feature.first_slot : feature.first_slot + feature.slots]
        last = feature.first_token + len(feature.vocabulary) - 1
        assert ((mine == 0) | ((mine >= feature.first_token) & (mine <= last))).all()
        assert mine.any()


def test_an_encoder_without_features_gives_rows_of_width_zero() -> None:
    encoder = fit({})
    encoded = encoder.encode({}, 3)
    assert encoded.tokens.shape == encoded.numeric.shape == (3, 0)
    assert encoder.vocabulary_size == 1


def test_a_feature_without_any_value_takes_no_slots() -> None:
    encoder = fit({"kind": ("categorical", [None, ""]), "made": ("categorical", ["x", None])})
    assert [feature.name for feature in encoder.token_features] == ["made"]


# --- vocabularies ---


def test_the_most_frequent_value_comes_first_and_ties_by_name() -> None:
    encoder = fit({"kind": ("categorical", ["b", "c", "a", "c"])})
    assert encoder.token_features[0].vocabulary == ("c", "a", "b")


def test_rare_values_get_no_token() -> None:
    values = ["a", "a", "b", "c", "c", "c"]
    assert fit({"k": ("categorical", values)}, min_count=2).token_features[0].vocabulary == (
        "c",
        "a",
    )
    assert fit({"k": ("categorical", values)}, min_count=4).token_features == ()


def test_a_value_counts_once_a_row() -> None:
    encoder = fit({"tags": ("multi_categorical", [["a", "a", "a"], ["b"], ["b"]])}, min_count=2)
    assert encoder.token_features[0].vocabulary == ("b",)


def test_only_the_most_frequent_values_are_kept() -> None:
    values = [str(n) for n in range(10) for _ in range(n)]
    encoder = fit({"k": ("categorical", values)}, max_vocabulary=3)
    assert encoder.token_features[0].vocabulary == ("9", "8", "7")


def test_the_same_value_of_two_features_has_two_tokens() -> None:
    encoder = fit({"a": ("categorical", ["x"]), "b": ("categorical", ["x"])})
    tokens = encoder.encode({"a": ["x"], "b": ["x"]}, 1).tokens[0]
    assert tokens.tolist() == [1, 2]


# --- tokens ---


def test_values_of_a_multi_valued_feature_share_a_weight_of_one() -> None:
    encoder = fit(ALL)
    encoded = encoder.encode({"tags": [["x", "y"], ["y"], []]}, 3)
    assert words_of(encoder, encoded, 0) == {"x": 0.5, "y": 0.5}
    assert words_of(encoder, encoded, 1) == {"y": 1.0}
    assert words_of(encoder, encoded, 2) == {}


def test_weights_are_one_a_feature_or_none() -> None:
    encoder = fit(ALL)
    encoded = encoder.encode({name: values for name, (_, values) in ALL.items()}, 4)
    for feature in encoder.token_features:
        total = encoded.weights[:, feature.first_slot : feature.first_slot + feature.slots].sum(1)
        assert np.isclose(total, 0).astype(int).sum() + np.isclose(total, 1).sum() == 4
    assert ((encoded.tokens > 0) == (encoded.weights > 0)).all()


def test_unknown_and_missing_values_are_nothing() -> None:
    encoder = fit(ALL)
    for value in ("never seen", None, ""):
        assert not encoder.encode({"kind": [value]}, 1).tokens.any()


def test_unknown_values_do_not_take_weight_from_known_ones() -> None:
    encoder = fit(ALL)
    encoded = encoder.encode({"tags": [["?", "x", "!"]]}, 1)
    assert words_of(encoder, encoded) == {"x": 1.0}


def test_a_repeated_value_takes_one_slot() -> None:
    encoder = fit(ALL)
    assert words_of(encoder, encoder.encode({"tags": [["x", "x", "y"]]}, 1)) == {"x": 0.5, "y": 0.5}


def test_values_beyond_the_slots_are_left_out() -> None:
    values = [f"tag-{n}" for n in range(30)]
    encoder = fit({"tags": ("multi_categorical", [values])})
    slots = encoder.token_features[0].slots
    words = words_of(encoder, encoder.encode({"tags": [values]}, 1))
    assert words == pytest.approx(dict.fromkeys(values[:slots], 1 / slots))


def test_a_feature_that_the_columns_lack_is_missing_in_every_row() -> None:
    encoded = fit(ALL).encode({}, 2)
    assert not encoded.tokens.any()
    assert not encoded.numeric.any()


def test_texts_are_split_into_words_of_two_letters_or_more() -> None:
    texts = ["The red LAMP, a bulb!", "lamp oil", "chair", "desk", "shelf", "sofa", "mat"]
    encoder = fit({"about": ("text", texts)})
    words = words_of(encoder, encoder.encode({"about": ["Red lamp a zebra"]}, 1))
    assert words == {"red": 0.5, "lamp": 0.5}


def test_words_of_nearly_every_text_say_nothing() -> None:
    texts = [f"the thing{n} of{n}" for n in range(10)]
    assert "the" not in fit({"about": ("title", texts)}).token_features[0].vocabulary


# --- places ---


def test_coordinates_become_a_small_and_a_large_cell() -> None:
    encoder = fit({"place": ("geo", [(10.2, 20.9), (-0.1, -179.9)])})
    near = encoder.encode({"place": [(10.1, 20.8), (10.2, 21.5), (-0.2, -179.8), (50.0, 50.0)]}, 4)
    assert words_of(encoder, near, 0) == {"cell:0.25:40:83": 0.5, "cell:2.0:5:10": 0.5}
    assert words_of(encoder, near, 1) == {"cell:2.0:5:10": 1.0}
    assert words_of(encoder, near, 2) == {"cell:0.25:-1:-720": 0.5, "cell:2.0:-1:-90": 0.5}
    assert words_of(encoder, near, 3) == {}


def test_coordinates_as_a_text_are_what_they_are_as_a_pair() -> None:
    encoder = fit({"place": ("geo", [(10.2, 20.9), (-33.75, 151.25), (None, None)])})
    for pair in [(10.2, 20.9), (-33.75, 151.25), (10.9, 20.1)]:
        as_pair = encoder.encode({"place": [pair]}, 1)
        as_text = encoder.encode_one({"place": f"{pair[0]},{pair[1]}"})
        assert as_pair.tokens.any()
        np.testing.assert_array_equal(as_text.tokens, as_pair.tokens)
        np.testing.assert_array_equal(as_text.weights, as_pair.weights)


@pytest.mark.parametrize("place", [(None, None), (None, 2.0), (math.nan, 2.0), (1.0, math.inf)])
def test_half_a_place_is_no_place(place: Any) -> None:
    encoder = fit({"place": ("geo", [(10.0, 20.0), place])})
    assert not encoder.encode({"place": [place]}, 1).tokens.any()


def test_a_place_may_be_a_name() -> None:
    encoder = fit({"country": ("geo", ["NZ", "NO", "NZ"])})
    assert words_of(encoder, encoder.encode_one({"country": "NZ"})) == {"NZ": 1.0}


# --- numbers ---


def test_numbers_are_standardised() -> None:
    values = [1.0, 2.0, 3.0, 4.0, None]
    encoded = fit({"price": ("numeric", values)}).encode({"price": values}, 5)
    known = np.array([1, 2, 3, 4])
    np.testing.assert_allclose(encoded.numeric[:4, 0], (known - 2.5) / known.std(), rtol=1e-6)
    assert encoded.numeric[4, 0] == 0


def test_skewed_numbers_are_taken_as_logarithms() -> None:
    values = [0.0, 1.0, 2.0, 3.0, 1000.0]
    encoder = fit({"views": ("numeric", values)})
    assert encoder.numeric_features[0].log
    logs = np.log1p(values)
    np.testing.assert_allclose(
        encoder.encode({"views": values}, 5).numeric[:, 0],
        (logs - logs.mean()) / logs.std(),
        rtol=1e-6,
    )
    # What was never negative in training may be so in a request.
    assert np.isfinite(encoder.encode({"views": [-5.0]}, 1).numeric).all()


def test_skewed_numbers_with_negative_ones_are_not_taken_as_logarithms() -> None:
    assert not fit({"delta": ("numeric", [-1.0, 0.0, 1.0, 1e6])}).numeric_features[0].log


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "12", "", ("1",), [1.0]])
def test_what_is_no_finite_number_is_missing(value: Any) -> None:
    encoder = fit({"price": ("numeric", [1.0, value, 3.0])})
    assert encoder.numeric_features[0].mean == 2.0
    assert encoder.encode_one({"price": value}).numeric.tolist() == [[0.0]]


def test_outliers_are_clipped() -> None:
    encoder = fit({"price": ("numeric", [1.0, 2.0, 3.0])})
    assert encoder.encode({"price": [1e300, -1e300]}, 2).numeric[:, 0].tolist() == [5.0, -5.0]


@pytest.mark.parametrize("values", [[None, None], [7.0, 7.0], [], [math.nan, 1.0]])
def test_a_number_that_never_varies_is_no_feature(values: list[Any]) -> None:
    assert fit({"price": ("numeric", values)}).numeric_features == ()


# --- requests ---


def test_names_that_the_encoder_does_not_know_are_ignored() -> None:
    encoded = fit(ALL).encode_one({"colour": "red", "kind": "a"})
    assert (encoded.tokens > 0).sum() == 1


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("value", ["x", 1.5, ("x", "y"), ("x", "y", "z"), (), ""])
def test_a_value_of_another_kind_than_the_features_is_harmless(name: str, value: Any) -> None:
    encoded = fit(ALL).encode_one({name: value})
    assert np.isfinite(encoded.weights).all()
    assert np.isfinite(encoded.numeric).all()


def test_the_name_of_a_place_may_be_given_as_a_list() -> None:
    encoder = fit({"country": ("geo", ["NZ", "NO"])})
    assert words_of(encoder, encoder.encode_one({"country": ("NZ", "NO")})) == {
        "NZ": 0.5,
        "NO": 0.5,
    }


# --- files ---


def test_a_saved_encoder_encodes_as_before(tmp_path: Path) -> None:
    columns = {name: values for name, (_, values) in ALL.items()} | {"kind": ["é", "a", "b", "ü"]}
    encoder = fit(ALL | {"kind": ("categorical", columns["kind"])})
    encoder.save(tmp_path / "features.json")
    loaded = FeatureEncoder.load(tmp_path / "features.json")
    assert loaded.token_features == encoder.token_features
    assert loaded.numeric_features == encoder.numeric_features
    before, after = encoder.encode(columns, 4), loaded.encode(columns, 4)
    for part in ("tokens", "weights", "numeric"):
        np.testing.assert_array_equal(getattr(before, part), getattr(after, part))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        '{"tokens": []}',
        '{"tokens": [{}], "numeric": []}',
        '{"tokens": [7], "numeric": []}',
        '{"tokens": [], "numeric": [{"name": "x"}]}',
        json.dumps({"tokens": [{"name": "k", "vocabulary": None}], "numeric": []}),
    ],
)
def test_a_file_that_is_no_encoder_is_corrupt_and_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "item_features.json"
    path.write_text(content)
    with pytest.raises(ArtifactCorrupt, match=r"item_features\.json"):
        FeatureEncoder.load(path)


def test_a_file_of_other_bytes_or_none_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "features.json"
    with pytest.raises(ArtifactCorrupt, match=r"features\.json"):
        FeatureEncoder.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactCorrupt, match=r"features\.json"):
        FeatureEncoder.load(path)
