"""A weighted sum of other models' log odds, and of what retrieval thought of the candidates.

Stacked generalisation (Wolpert 1992) with weights that are not negative (Breiman 1996).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ranking_svc.features import FeatureRows
from ranking_svc.models.arrays import load_json
from ranking_svc.models.base import Model, Outputs
from shortlist.errors import ArtifactCorrupt, ArtifactRefused

__all__ = ["BLEND", "Ensemble", "Mixture", "blend_outputs", "mix"]

Floats = npt.NDArray[np.float32]

MIXTURE_FILE = "ensemble.json"
BLEND = "blend"  # the member that is no model: the logarithm of the blend's fused score


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """How much each model counts, and what is added to each head."""

    weights: Mapping[str, float]  # model, or `BLEND` -> at least 0
    biases: Mapping[str, float]  # head -> log odds
    strangers: Mixture | None = None  # for users without a history; None: the same

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self._document(), indent=2), "utf-8")

    def of(self, *, stranger: bool) -> Mixture:
        """The mixture for a user with a history, or without one."""
        return self.strangers if stranger and self.strangers else self

    @property
    def members(self) -> frozenset[str]:
        """What counts, for users with a history."""
        return frozenset(name for name, weight in self.weights.items() if weight > 0)

    @staticmethod
    def load(path: Path) -> Mixture:
        """Raises `ArtifactCorrupt` or `ArtifactRefused`."""
        try:
            mixture = Mixture._of_document(load_json(path))
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise ArtifactCorrupt(f"{path.name} is no mixture of models: {error!r}") from None
        mixture.check()
        return mixture

    def _document(self) -> dict[str, Any]:
        mine: dict[str, Any] = {"weights": dict(self.weights), "biases": dict(self.biases)}
        return mine | {"strangers": self.strangers._document()} if self.strangers else mine

    @staticmethod
    def _of_document(content: Mapping[str, Any]) -> Mixture:
        strangers = content.get("strangers")
        return Mixture(
            weights={str(name): float(one) for name, one in content["weights"].items()},
            biases={str(name): float(one) for name, one in content["biases"].items()},
            strangers=None if strangers is None else Mixture._of_document(strangers),
        )

    def check(self) -> None:
        weights, biases = list(self.weights.values()), list(self.biases.values())
        if not np.isfinite(weights + biases).all():
            raise ArtifactRefused("the ensemble's weights hold NaN or Inf")
        if min(weights, default=0) < 0 or not any(weights):
            raise ArtifactRefused(f"the ensemble's weights are {weights}")
        if self.strangers:
            self.strangers.check()


def mix(mixture: Mixture, heads: tuple[str, ...], outputs: Mapping[str, Outputs]) -> Outputs:
    """The mixture of the models' outputs. Values are averaged over the models that have them: by
    their weights, or evenly where none of them counts otherwise."""
    weight = {name: mixture.weights.get(name, 0.0) for name in outputs}
    logits = np.array([mixture.biases[head] for head in heads])
    logits = logits + sum(
        weight[name] * one.logits for name, one in outputs.items() if weight[name]
    )
    valued = {name: one.values for name, one in outputs.items() if one.values is not None}
    trust = {name: weight[name] for name in valued}
    if not any(trust.values()):
        trust = dict.fromkeys(valued, 1.0)
    values = sum(trust[name] * value for name, value in valued.items())
    return Outputs(
        logits=logits.astype(np.float32),
        values=np.asarray(values / sum(trust.values()), np.float32) if valued else None,
    )


def blend_outputs(fused: Floats, heads: int) -> Outputs:
    """What the blend says, the same of all heads, of float32 [n] logarithms of fused scores."""
    return Outputs(logits=np.repeat(fused[:, None], heads, axis=1))


class Ensemble:
    """A mixture of loaded models behind `ranking_svc.models.base.Model`."""

    name = "ensemble"

    def __init__(
        self,
        mixture: Mixture,
        models: Mapping[str, Model],
        *,
        fused: int | None = None,
        events: int | None = None,
    ) -> None:
        """Of the columns of `FeatureRows.numeric`, `fused` has the logarithm of the fused score,
        and `events` how much is known of the user; without it nobody is taken for a stranger.

        Raises `ArtifactCorrupt` for members that are not there or have other heads.
        """
        mixtures = [mixture.of(stranger=stranger) for stranger in (False, True)]
        members = {name for one in mixtures for name in one.members}
        self._fused = fused if BLEND in members else None
        self._events = events if mixture.strangers else None
        if BLEND in members and fused is None:
            raise ArtifactCorrupt("the ensemble counts on the blend, which is no feature")
        members -= {BLEND}
        if not members:
            raise ArtifactCorrupt("the ensemble has no model")
        if missing := members - models.keys():
            raise ArtifactCorrupt(f"the ensemble counts on {min(missing)!r}, which is not there")
        self._mixture = mixture
        self._members = {name: models[name] for name in sorted(members)}
        self.heads = next(iter(self._members.values())).heads
        if any(one.heads != self.heads for one in self._members.values()) or any(
            set(self.heads) - set(one.biases) for one in mixtures
        ):
            raise ArtifactCorrupt("the models of the ensemble do not have the same heads")

    def score(self, rows: FeatureRows) -> Outputs:
        mixture = self._mixture.of(stranger=self._of_stranger(rows))
        outputs = {name: model.score(rows) for name, model in self._members.items()}
        if self._fused is not None:
            outputs[BLEND] = blend_outputs(rows.numeric[:, self._fused], len(self.heads))
        return mix(mixture, self.heads, outputs)

    def _of_stranger(self, rows: FeatureRows) -> bool:
        """Whether nothing is known of the user, who is one: all rows are of one request."""
        return self._events is not None and not rows.numeric[:, self._events].any()

    def over(self, models: Mapping[str, Model]) -> Ensemble:
        """The same mixture of other instances of its members."""
        return Ensemble(self._mixture, models, fused=self._fused, events=self._events)

    def refresh(self, items: npt.NDArray[np.int64]) -> None: ...  # its members do so themselves
