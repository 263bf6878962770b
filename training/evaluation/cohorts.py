"""Who is served how well: users by how much is known of them, items by how popular they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation.bootstrap import Resamples, mean_of
from training.evaluation.catalogue import Catalogue
from training.evaluation.hits import Hits
from training.evaluation.systems import PAGE

__all__ = ["cohorts_of"]

Booleans = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cohort:
    name: str
    kind: str  # users, items
    description: str
    users: Booleans | None = None  # mask over the users; None = all
    items: Booleans | None = None  # mask over the catalogue; None = all


def cohorts_of(
    hits: Mapping[str, Hits],
    known_events: Sequence[int],
    catalogue: Catalogue,
    resamples: Resamples,
) -> list[dict[str, Any]]:
    """All cohorts that have a user with a relevant item, in the order of the documentation."""
    every = [*_of_users(np.asarray(known_events)), *_of_items(catalogue)]
    measured = [_measure(cohort, hits, resamples) for cohort in every]
    return [one for one in measured if one["users"]]


def _of_users(events: npt.NDArray[np.int64]) -> Iterator[_Cohort]:
    yield _Cohort(
        name="no_history",
        kind="users",
        description="users of whom no event is known",
        users=events == 0,
    )
    if not (events > 0).any():
        return
    low, high = (
        int(end) for end in np.quantile(events[events > 0], (1 / 3, 2 / 3), method="lower")
    )
    ends = {"short": (0, low), "medium": (low, high), "long": (high, int(events.max()))}
    for name, (after, last) in ends.items():
        yield _Cohort(
            name=f"{name}_history",
            kind="users",
            description=f"users with {after + 1} to {last} known events",
            users=(events > after) & (events <= last),
        )


def _of_items(catalogue: Catalogue) -> Iterator[_Cohort]:
    masks = {
        "head_items": ("the 20 % of items with the most known interactions", catalogue.head),
        "tail_items": ("the other items", ~catalogue.head),
        "new_items": ("items without any known interaction", catalogue.cold),
    }
    for name, (description, items) in masks.items():
        yield _Cohort(name=name, kind="items", description=description, items=items)


def _measure(cohort: _Cohort, hits: Mapping[str, Hits], resamples: Resamples) -> dict[str, Any]:
    within = {
        name: one if cohort.items is None else one.among(cohort.items) for name, one in hits.items()
    }
    wanted = next(iter(within.values())).wanted
    counted = wanted > 0 if cohort.users is None else (wanted > 0) & cohort.users
    by_user = {name: _figures(one, counted) for name, one in within.items()}
    return {
        "name": cohort.name,
        "kind": cohort.kind,
        "description": cohort.description,
        "users": int(counted.sum()),
        "relevant": int(wanted[counted].sum()),
        "systems": {
            name: {figure: mean_of(values) for figure, values in figures.items()}
            for name, figures in by_user.items()
        },
        "ci": {
            name: {f"ndcg@{PAGE}": resamples.interval(figures[f"ndcg@{PAGE}"])}
            for name, figures in by_user.items()
        },
    }


def _figures(hits: Hits, counted: Booleans) -> dict[str, Doubles]:
    figures = {
        "recall@20": hits.recall(20),
        "recall@100": hits.recall(100),
        f"ndcg@{PAGE}": hits.ndcg(PAGE),
    }
    return {name: np.where(counted, values, np.nan) for name, values in figures.items()}
