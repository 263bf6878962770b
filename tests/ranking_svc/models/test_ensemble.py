from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ranking_svc.models import Outputs
from ranking_svc.models.ensemble import Ensemble, Mixture
from shortlist.errors import ArtifactCorrupt, ArtifactRefused

HEADS = ("click", "purchase")


class Fixed:
    """A model that always says the same."""

    def __init__(
        self, name: str, logit: float, value: float | None = None, heads: tuple[str, ...] = HEADS
    ) -> None:
        self.name, self.heads, self._logit, self._value = name, heads, logit, value

    def score(self, rows: Any) -> Outputs:
        values = None if self._value is None else np.full(3, self._value, np.float32)
        return Outputs(logits=np.full((3, len(self.heads)), self._logit, np.float32), values=values)


def mixture(**weights: float) -> Mixture:
    return Mixture(weights=weights, biases={"click": 0.5, "purchase": -0.5})


def test_log_odds_are_added_by_weight_and_values_averaged_over_those_that_have_them() -> None:
    models = {"a": Fixed("a", 1.0, value=2.0), "b": Fixed("b", 3.0), "c": Fixed("c", 0.0, 5.0)}
    outputs = Ensemble(mixture(a=0.5, b=2.0, c=1.0), models).score(None)  # type: ignore[arg-type]
    np.testing.assert_allclose(outputs.logits, [[7.0, 6.0]] * 3)
    np.testing.assert_allclose(outputs.values, [4.0] * 3)


def test_the_blend_has_a_say_of_its_own_in_every_head() -> None:
    rows: Any = SimpleNamespace(numeric=np.array([[0, -1], [0, -2], [0, -4]], np.float32))
    one = Ensemble(mixture(a=1.0, blend=0.5), {"a": Fixed("a", 1.0)}, fused=1)
    for same in (one, one.over({"a": Fixed("a", 1.0)})):
        np.testing.assert_allclose(
            same.score(rows).logits, [[1.0, 0.0], [0.5, -0.5], [-0.5, -1.5]], atol=1e-6
        )


def test_without_any_values_there_are_none() -> None:
    outputs = Ensemble(mixture(a=1.0), {"a": Fixed("a", 1.0)}).score(None)  # type: ignore[arg-type]
    assert outputs.values is None


def test_a_model_that_does_not_count_is_not_asked() -> None:
    models = {"a": Fixed("a", 1.0), "b": Fixed("b", np.nan)}
    outputs = Ensemble(mixture(a=1.0, b=0.0), models).score(None)  # type: ignore[arg-type]
    assert np.isfinite(outputs.logits).all()


def test_strangers_have_a_mixture_of_their_own() -> None:
    models = {"a": Fixed("a", 1.0), "b": Fixed("b", 3.0)}
    both = replace(mixture(a=1.0), strangers=mixture(b=2.0, blend=0.5))
    one = Ensemble(both, models, fused=1, events=0)
    known: Any = SimpleNamespace(numeric=np.array([[2, -1]] * 3, np.float32))
    stranger: Any = SimpleNamespace(numeric=np.array([[0, -2]] * 3, np.float32))
    for same in (one, one.over(models)):
        np.testing.assert_allclose(same.score(known).logits, [[1.5, 0.5]] * 3)
        np.testing.assert_allclose(same.score(stranger).logits, [[5.5, 4.5]] * 3)
    nobody = Ensemble(both, models, fused=1)  # features do not tell who is one
    np.testing.assert_allclose(nobody.score(stranger).logits, [[1.5, 0.5]] * 3)


def test_strangers_have_values_though_models_that_predict_them_do_not_count() -> None:
    models = {"a": Fixed("a", 1.0, value=2.0), "b": Fixed("b", 3.0), "c": Fixed("c", 0.0, 5.0)}
    both = replace(mixture(a=1.0, b=1.0, c=2.0), strangers=mixture(b=2.0))
    one = Ensemble(both, models, events=0)
    for events, value in ((1, 4.0), (0, 3.5)):
        rows: Any = SimpleNamespace(numeric=np.full((3, 1), events, np.float32))
        np.testing.assert_allclose(one.score(rows).values, [value] * 3)


def test_what_only_strangers_count_on_has_to_be_there() -> None:
    both = replace(mixture(a=1.0), strangers=mixture(b=2.0, blend=0.5))
    with pytest.raises(ArtifactCorrupt, match="'b', which is not there"):
        Ensemble(both, {"a": Fixed("a", 1.0)}, fused=0)
    with pytest.raises(ArtifactCorrupt, match="the blend, which is no feature"):
        Ensemble(both, {"a": Fixed("a", 1.0), "b": Fixed("b", 1.0)})


@pytest.mark.parametrize("strangers", [None, mixture(b=1.0)])
def test_a_saved_mixture_is_read_back(tmp_path: Path, strangers: Mixture | None) -> None:
    saved = replace(mixture(a=0.25, b=1.0), strangers=strangers)
    saved.save(tmp_path / "ensemble.json")
    assert Mixture.load(tmp_path / "ensemble.json") == saved


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"weights": {"a": "much"}, "biases": {}}',
        '{"weights": 1, "biases": {}}',
        '{"weights": {"a": 1}, "biases": {}, "strangers": {"weights": {"a": 1}}}',
        '{"weights": {"a": 1}, "biases": {}, "strangers": 1}',
    ],
)
def test_a_file_that_is_no_mixture_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ensemble.json").write_text(text)
    with pytest.raises(ArtifactCorrupt, match=r"ensemble\.json"):
        Mixture.load(tmp_path / "ensemble.json")


@pytest.mark.parametrize(
    "weights",
    [
        '{"a": NaN}',
        '{"a": -1}',
        '{"a": 0}',
        "{}",
        '{"a": 1}, "strangers": {"weights": {"a": -1}, "biases": {}}',
    ],
)
def test_weights_that_make_no_mixture_are_refused(tmp_path: Path, weights: str) -> None:
    (tmp_path / "ensemble.json").write_text(f'{{"weights": {weights}, "biases": {{}}}}')
    with pytest.raises(ArtifactRefused, match="weights"):
        Mixture.load(tmp_path / "ensemble.json")


def test_a_mixture_of_models_that_are_not_there_or_differ_in_heads_is_refused() -> None:
    with pytest.raises(ArtifactCorrupt, match="the blend, which is no feature"):
        Ensemble(mixture(a=1.0, blend=0.5), {"a": Fixed("a", 1.0)})
    with pytest.raises(ArtifactCorrupt, match="no model"):
        Ensemble(mixture(blend=0.5), {"a": Fixed("a", 1.0)}, fused=0)
    with pytest.raises(ArtifactCorrupt, match="'b', which is not there"):
        Ensemble(mixture(a=1.0, b=1.0), {"a": Fixed("a", 1.0)})
    models = {"a": Fixed("a", 1.0), "b": Fixed("b", 1.0, heads=("click",))}
    with pytest.raises(ArtifactCorrupt, match="same heads"):
        Ensemble(mixture(a=1.0, b=1.0), models)
