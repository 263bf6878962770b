from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrieval_svc.sources import SliceView
from retrieval_svc.sources.history import Recency
from retrieval_svc.sources.mf import FoldIn
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from tests.retrieval_svc.sources.views import KEYS, ask, floats, history_of, open_source, view_of

DIM, CONFIDENCE, REGULARISATION = 4, 7.0, 0.3
FACTORS = floats(np.random.default_rng(5).normal(size=(len(KEYS), DIM)))
FACTORS[4] = 0  # nobody liked it
GRAM = FACTORS.T @ FACTORS + REGULARISATION * np.eye(DIM, dtype=np.float32)


def mf(**changes: Any) -> SliceView:
    arrays = {"keys": KEYS, "factors": FACTORS, "gram": GRAM}
    arrays |= {name: changes.pop(name) for name in list(changes) if name in arrays}
    vectors = changes.pop("vectors", FACTORS)
    settings = {"confidence": CONFIDENCE, "history": 50} | changes
    return view_of("mf", columns={"vectors": vectors}, arrays=arrays, **settings)


def factor_of(*events: tuple[int, float]) -> Any:
    history = history_of([(int(KEYS[row]), weight) for row, weight in events])
    liked = Recency(events=None, half_life_events=None).liked(history)
    return FoldIn.open(mf()).factor(liked)


def test_the_users_factor_minimises_the_loss_that_training_minimises() -> None:
    """Sum over all items of (1 + c_i) (p_i - x y_i)^2 + regularisation |x|^2 is at its lowest."""
    factor = factor_of((0, 1.0), (2, 0.5), (2, 1.5), (5, 3.0)).astype(np.float64)
    liked = np.array([1.0, 0, 2.0, 0, 0, 3.0])
    errors = (liked > 0) - FACTORS @ factor
    gradient = -((1 + CONFIDENCE * liked) * errors) @ FACTORS + REGULARISATION * factor
    np.testing.assert_allclose(gradient, 0, atol=1e-4)


def test_scores_are_dot_products_and_items_without_a_factor_are_not_proposed() -> None:
    factor = factor_of((0, 1.0), (2, 1.0))
    found = ask(open_source(mf()), [0, 2])
    assert found == pytest.approx({row: FACTORS[row] @ factor for row in (0, 1, 2, 3, 5)}, abs=1e-5)
    assert 4 not in ask(open_source(mf()), [0, 2], exclude=[0, 1])


def test_a_history_of_items_without_factors_finds_nothing() -> None:
    assert ask(open_source(mf()), [4]) == {}


def test_items_of_other_shards_count() -> None:
    here = mf(vectors=FACTORS[:2])
    assert set(ask(open_source(here), [5])) == {0, 1}
    assert ask(open_source(here), [5])[1] == pytest.approx(ask(open_source(mf()), [5])[1])


def test_nearly_dependent_factors_give_a_finite_factor() -> None:
    factors = floats(np.ones((len(KEYS), DIM)) * 1e3)
    gram = factors.T @ factors + np.eye(DIM, dtype=np.float32)
    view = mf(factors=factors, vectors=factors, gram=gram)
    assert np.isfinite(list(ask(open_source(view), [(0, 1e30), (1, 1e-30)]).values())).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gram": -GRAM}, r"gram\.npy: is not positive definite"),
        ({"gram": GRAM + floats(np.triu(np.ones((DIM, DIM)), 1))}, r"gram\.npy: is not symmetric"),
    ],
)
def test_a_matrix_that_cannot_be_solved_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(ArtifactRefused, match=message):
        open_source(mf(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gram": GRAM[:3]}, r"gram\.npy: has shape \(3, 4\)"),
        ({"gram": GRAM.astype(np.float64)}, r"gram\.npy: holds float64"),
        ({"factors": FACTORS[1:]}, r"factors\.npy: 5 rows for 6 keys"),
        ({"keys": KEYS[::-1]}, r"keys\.npy: does not ascend"),
        ({"vectors": FACTORS[:, 1:].copy()}, r"vectors\.npy: 3 dimensions"),
        ({"vectors": FACTORS[:, 0]}, r"vectors\.npy: holds float32 \(6,\)"),
        ({"confidence": None}, r"settings\.json: has no 'confidence'"),
        ({"confidence": -1}, r"settings\.json: confidence -1"),
    ],
)
def test_files_that_do_not_fit_together_are_refused_by_name(changes: Any, message: str) -> None:
    with pytest.raises(ArtifactCorrupt, match=message):
        open_source(mf(**changes))
