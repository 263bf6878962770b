from __future__ import annotations

import numpy as np
import pytest

from ranking_svc.models import Outputs, Worth, combine
from shortlist.errors import InvalidField

HEADS = ("click", "purchase")
LOGITS = np.array([[-1.0, -5.0], [-3.0, -2.0]], np.float32)


def test_a_score_is_the_log_of_the_odds_weighted_by_what_each_head_is_worth() -> None:
    worth = Worth(heads={"click": 1.0, "purchase": 10.0})
    expected = np.log(np.exp(LOGITS[:, 0]) + 10 * np.exp(LOGITS[:, 1]))
    scores = combine(Outputs(logits=LOGITS), HEADS, worth)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert scores.dtype == np.float32


def test_a_single_head_of_weight_one_scores_with_its_log_odds() -> None:
    scores = combine(Outputs(logits=LOGITS[:, :1]), ("click",), Worth(heads={"click": 1.0}))
    np.testing.assert_array_equal(scores, LOGITS[:, 0])


def test_a_head_that_is_worth_nothing_says_nothing() -> None:
    worth = Worth(heads={"click": 0.0, "purchase": 1.0})
    scores = combine(Outputs(logits=LOGITS), HEADS, worth)
    np.testing.assert_array_equal(scores, LOGITS[:, 1])


def test_predicted_values_count_by_their_weight_where_a_model_has_them() -> None:
    values = np.array([1.0, -1.0], np.float32)
    worth = Worth(heads={"click": 1.0, "purchase": 1.0}, value=0.5)
    without = combine(Outputs(logits=LOGITS), HEADS, worth)
    scores = combine(Outputs(logits=LOGITS, values=values), HEADS, worth)
    np.testing.assert_allclose(scores - without, [0.5, -0.5], atol=1e-6)


def test_what_is_not_finite_stays_so() -> None:
    logits = np.array([[np.nan, 0.0], [np.inf, 0.0], [0.0, 0.0]], np.float32)
    scores = combine(Outputs(logits=logits), HEADS, Worth())
    np.testing.assert_array_equal(np.isfinite(scores), [False, False, True])


def test_outputs_are_columns_and_columns_are_outputs() -> None:
    columns = np.arange(6, dtype=np.float32).reshape(2, 3)
    outputs = Outputs.of_columns(columns, 2)
    np.testing.assert_array_equal(outputs.logits, columns[:, :2])
    np.testing.assert_array_equal(outputs.values, columns[:, 2])
    np.testing.assert_array_equal(outputs.columns, columns)
    assert Outputs.of_columns(columns, 3).values is None
    np.testing.assert_array_equal(Outputs.of_columns(columns, 3).columns, columns)


def test_a_declaration_changes_what_it_names_and_nothing_else() -> None:
    worth = Worth(heads={"click": 1.0, "purchase": 4.0}).declared({"click": 2.0}, 0.25)
    assert worth == Worth(heads={"click": 2.0, "purchase": 4.0}, value=0.25)


def test_a_declaration_for_a_head_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidField, match="no such head; there are: click, purchase"):
        Worth(heads={"click": 1.0, "purchase": 4.0}).declared({"refund": 2.0}, 0.0)
