"""What is tuned: the parts, their parameters, where to look, and their share of the time.

A tuned parameter is a path into `shortlist.config.Config`. The lists are short on purpose: random
search finds a good point among few parameters that matter, and none among many that do not
(Bergstra & Bengio, JMLR 2012).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shortlist.config import Config

__all__ = [
    "PARTS",
    "Among",
    "Between",
    "Parameter",
    "Part",
    "Values",
    "current_values",
    "parts_of",
    "seconds_of",
    "with_values",
]

Values = Mapping[str, Any]
"""Value by a parameter's name in a part."""


@dataclass(frozen=True, slots=True)
class Among:
    """One of a few values, each as likely."""

    options: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """A positive number; each factor is as likely as the next (log-uniform)."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A field of the configuration, and where to look for a good value."""

    path: tuple[str, ...]
    domain: Among | Between

    @property
    def name(self) -> str:
        return self.path[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A source or a ranker that is tuned alone."""

    name: str
    tier: str  # retrieval or ranking
    share: float  # of the time of its tier: what is slow to train gets more
    parameters: tuple[Parameter, ...]


def _part(tier: str, name: str, share: float, **domains: Among | Between) -> Part:
    return Part(
        name=name,
        tier=tier,
        share=share,
        parameters=tuple(
            Parameter(path=(tier, name, field), domain=domain) for field, domain in domains.items()
        ),
    )


PARTS: tuple[Part, ...] = (
    _part(
        "retrieval",
        "cooccurrence",
        0.20,
        weighting=Among(("cosine", "bm25", "rp3beta")),
        alpha=Between(0.2, 1.5),
        beta=Between(0.05, 1.0),
        half_life_events=Between(2, 500),
    ),
    _part(
        "retrieval",
        "mf",
        0.30,
        dim=Among((32, 64, 128, 256)),
        regularization=Between(0.05, 200),
        confidence=Between(0.5, 100),
    ),
    _part(
        "retrieval",
        "two_tower",
        0.40,
        dim=Among((32, 64, 128)),
        learning_rate=Between(0.005, 0.5),
        set_learning_rate=Between(0.0005, 0.02),
        temperature=Between(0.02, 0.3),
        epochs=Among((3, 6, 12, 24)),
    ),
    Part(
        name="popular",
        tier="retrieval",
        share=0.10,
        parameters=(Parameter(path=("retrieval", "half_life_days"), domain=Between(0.25, 5_000)),),
    ),
    _part(
        "ranking",
        "dcn",
        0.65,
        structure=Among(("parallel", "stacked")),
        cross_layers=Among((1, 2, 3)),
        projection_dim=Among((0, 8, 32)),
        hidden=Among(((64,), (128, 64), (256, 128))),
        weight_decay=Between(1e-4, 0.3),
    ),
    _part(
        "ranking",
        "gbdt",
        0.35,
        leaves=Among((7, 15, 31, 63)),
        trees=Among((300, 1000)),
        learning_rate=Between(0.02, 0.2),
    ),
)
_OF_ORDERED_DATA = ("half_life_events", "learning_rate", "half_life_days")
_OF_SETS = ("set_learning_rate",)
_TIER_SHARES = {"retrieval": 0.6, "ranking": 0.4}


def parts_of(tier: str, config: Config, *, has_time: bool) -> tuple[Part, ...]:
    """The parts of a tier, or of `all`, that the configuration has on.

    What is read of data with times, or without, is left out for the other.
    """
    on = {*config.retrieval.asked, *config.ranking.models}
    chosen = (part for part in PARTS if part.name in on and tier in (part.tier, "all"))
    unread = _OF_SETS if has_time else _OF_ORDERED_DATA
    parts = [
        replace(
            part,
            parameters=tuple(
                one
                for one in part.parameters
                if part.tier == "ranking" or one.path[-1] not in unread
            ),
        )
        for part in chosen
    ]
    return tuple(part for part in parts if part.parameters)


def seconds_of(parts: Sequence[Part], minutes: float) -> dict[str, float]:
    """How long each part may take: the whole time, divided by the shares of the parts."""
    weights = {part.name: part.share * _TIER_SHARES[part.tier] for part in parts}
    return {name: 60 * minutes * weight / sum(weights.values()) for name, weight in weights.items()}


def current_values(part: Part, config: Config) -> dict[str, Any]:
    """What the configuration says now."""
    values = {}
    for parameter in part.parameters:
        value: Any = config
        for name in parameter.path:
            value = getattr(value, name)
        values[parameter.name] = value
    return values


def with_values(part: Part, config: Config, values: Values) -> Config:
    """The configuration with other values of a part. Raises pydantic's `ValidationError`."""
    document = config.model_dump()
    for parameter in part.parameters:
        section = document
        for name in parameter.path[:-1]:
            section = section[name]
        section[parameter.name] = values[parameter.name]
    return Config.model_validate(document)
