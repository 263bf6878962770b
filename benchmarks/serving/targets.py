"""What we want to reach, beside what one run has measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Target", "targets_of"]

# distributed / bound, embedded / bound, by the ranker's form
_OF_BOUND = {"stacked": (0.75, 0.85), "fast": (0.55, 0.70)}
_TIMES_PEER = {"savedmodel": 2.2, "ray_serve": 4.0, "keras": 6.0}
_LEAST_RECALL = 0.97
_P99_MS = {"retrieval": 15.0, "ranking": 25.0, "page": 50.0}  # at 50 % of saturation
_ORCHESTRATOR_MS = 1.0  # of CPU a page


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One figure. Without a measurement it counts as missed."""

    name: str
    wanted: float
    at_most: bool = False  # else at least
    measured: float | None

    @property
    def met(self) -> bool:
        if self.measured is None or not math.isfinite(self.measured):
            return False
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted


def targets_of(forms: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`forms` is what the benchmark prints of each form; what it left out is no target."""
    found: list[Target] = []
    for form, result in forms.items():
        for kind, wanted in zip(("distributed", "embedded"), _OF_BOUND[form], strict=True):
            if kind in result:
                found.append(
                    Target(
                        name=f"{form}: {kind} / bound",
                        wanted=wanted,
                        measured=result[kind]["of_bound"],
                    )
                )
    found += _of_peers(list(forms.values()))
    for form, result in forms.items():
        if "distributed" in result:
            found += _of_pages(form, result["distributed"])
    return [{**asdict(one), "met": one.met} for one in found]


def _of_peers(forms: Sequence[Mapping[str, Any]]) -> list[Target]:
    """With the form that gains most; both serve the same model then."""
    return [
        Target(
            name=f"distributed / peer {peer}",
            wanted=wanted,
            measured=max(form["ratios"]["distributed"][peer]["median"] for form in with_peer),
        )
        for peer, wanted in _TIMES_PEER.items()
        if (with_peer := [one for one in forms if peer in one["ratios"].get("distributed", ())])
    ]


def _of_pages(form: str, figures: Mapping[str, Any]) -> list[Target]:
    return [
        Target(
            name=f"{form}: Recall@1000",
            wanted=_LEAST_RECALL,
            measured=figures["recall@1000"],
        ),
        *(
            Target(
                name=f"{form}: p99 ms of {stage}",
                wanted=wanted,
                at_most=True,
                measured=figures["p99_ms"][stage],
            )
            for stage, wanted in _P99_MS.items()
        ),
        Target(
            name=f"{form}: orchestrator's CPU ms a page",
            wanted=_ORCHESTRATOR_MS,
            at_most=True,
            measured=figures["orchestrator_cpu_ms"],
        ),
    ]
