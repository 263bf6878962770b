from __future__ import annotations

import numpy as np

from tests.training.tiny import tiny_dataset
from training.dataset import Dataset
from training.encoding import context_columns, entity_columns, fit_encoders
from training.histories import user_attributes
from training.profiles import profiles_of


def shop() -> Dataset:
    return tiny_dataset(
        [0, 1, 0, 1],
        [0, 1, 2, 0],
        item_features={
            "name": ("title", ["Red lamp", "Desk", None]),
            "where": ("geo", [(10.5, 20.0), (None, None), (-33.75, 151.25)]),
            "tags": ("multi_categorical", [["a", "b"], [], None]),
            "price": ("numeric", [1.5, None, 3.0]),
        },
        user_features={"country": ("geo", ["NZ", "NO"])},
        context={"device": ["phone", None, "desk", "phone"]},
        published_ms=[1, 2, None],
    )


def test_columns_hold_a_value_a_row_and_none_where_it_is_missing() -> None:
    dataset = shop()
    columns = entity_columns(dataset.items, dataset.schema.item_features)
    assert columns == {
        "name": ["Red lamp", "Desk", None],
        "where": [(10.5, 20.0), (None, None), (-33.75, 151.25)],
        "tags": [["a", "b"], [], None],
        "price": [1.5, None, 3.0],
    }
    assert entity_columns(dataset.users, dataset.schema.user_features) == {"country": ["NZ", "NO"]}


def test_context_columns_follow_the_rows_asked_for() -> None:
    columns = context_columns(shop(), np.array([3, 1, 2]))
    assert columns == {"device": ["phone", None, "desk"]}


def test_encoders_learn_contexts_of_the_given_rows_only() -> None:
    encoders = fit_encoders(shop(), np.array([0, 1, 3]))  # one desk is not among them
    assert [feature.vocabulary for feature in encoders.context.token_features] == [("phone",)]


def test_a_side_without_features_has_an_empty_encoder() -> None:
    encoders = fit_encoders(tiny_dataset([0], [0]), np.array([0]))
    for encoder in (encoders.item, encoders.user, encoders.context):
        assert encoder.slots == 0
        assert encoder.vocabulary_size == 1


def test_what_is_learned_of_users_is_encoded_alike_from_tables_and_from_profiles() -> None:
    """Training must not see what serving does not."""
    dataset = tiny_dataset(
        [0, 1, 2],
        [0, 0, 0],
        users=4,
        user_features={
            "home": ("geo", [(48.86, 2.35), (48.8, 2.4), (49.9, 3.9), (None, 1.0)]),
            "country": ("geo", ["NZ", "NZ", "NO", None]),
            "age": ("numeric", [20.0, None, 40.0, 30.0]),
        },
    )
    encoder = fit_encoders(dataset, np.arange(3)).user
    features = [*encoder.token_features, *encoder.numeric_features]
    assert [feature.name for feature in features] == ["home", "country", "age"]
    table = encoder.encode(entity_columns(dataset.users, dataset.schema.user_features), 4)
    profiles = [profile.attributes for _, profile in profiles_of(dataset, history_length=5)]
    assert profiles == user_attributes(dataset, range(4))
    assert profiles[0] == {"home": "48.86,2.35", "country": "NZ", "age": 20.0}
    assert profiles[3] == {"age": 30.0}
    for row, profile in enumerate(profiles):
        served = encoder.encode_one(profile)
        np.testing.assert_array_equal(served.tokens[0], table.tokens[row])
        np.testing.assert_array_equal(served.weights[0], table.weights[row])
        np.testing.assert_array_equal(served.numeric[0], table.numeric[row])
    assert (table.tokens[:, :2] > 0).sum(axis=1).tolist() == [2, 2, 1, 0]
