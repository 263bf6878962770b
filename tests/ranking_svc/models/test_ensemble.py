from __future__ import annotations

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


def test_a_saved_mixture_is_read_back(tmp_path: Path) -> None:
    saved = mixture(a=0.25, b=1.0)
    saved.save(tmp_path / "ensemble.json")
    assert Mixture.load(tmp_path / "ensemble.json") == saved


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weights": {"a": "much"}, "biases": {}}', '{"weights": 1, "biases": {}}'],
)
def test_a_file_that_is_no_mixture_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ensemble.json").write_text(text)
    with pytest.raises(ArtifactCorrupt, match=r"ensemble\.json"):
        Mixture.load(tmp_path / "ensemble.json")


@pytest.mark.parametrize("weights", ['{"a": NaN}', '{"a": -1}', '{"a": 0}', "{}"])
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
