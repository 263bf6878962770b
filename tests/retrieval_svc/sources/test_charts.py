"""`popular` and `trending`: the same for everybody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from retrieval_svc.sources import SliceView
from retrieval_svc.sources.counters import NEVER
from shortlist.errors import ArtifactCorrupt
from tests.retrieval_svc.sources.views import WATERMARK_MS, ask, open_source, view_of


def popular(scores: Sequence[float], **columns: Any) -> SliceView:
    """Nothing fades and nothing is expected: counts are scores."""
    n = len(scores)
    counted = {
        "count": np.array(scores, np.float64),
        "always": np.zeros(n),
        "since_ms": np.full(n, NEVER),
        "prior": np.zeros(n),
    }
    return view_of(
        "popular",
        columns={name: each for name, each in (counted | columns).items() if each is not None},
        arrays={"groups": np.empty(0, np.uint64), "rates": np.empty(0)},
        as_of_ms=WATERMARK_MS,
        begin_ms=0,
        half_life_ms=None,
        trust=0.0,
        mean_rate=0.0,
        prior_features=[],
    )


def trending(likes: Sequence[float], **columns: Any) -> SliceView:
    """Nobody liked anything before."""
    counted = {
        "recent": np.array(likes, np.float64),
        "past": np.array(likes, np.float64),
        "since_ms": np.full(len(likes), NEVER),
    }
    return view_of(
        "trending",
        columns={name: each for name, each in (counted | columns).items() if each is not None},
        as_of_ms=WATERMARK_MS,
        begin_ms=0,
        recent_half_life_ms=1e4,
        past_half_life_ms=1e5,
        usual_weight=1.0,
        rate_of_all=1e-4,
    )


def test_popular_proposes_everything_and_breaks_ties_by_row() -> None:
    source = open_source(popular([1, 3, 0, 3, 2]))
    assert list(ask(source)) == [1, 3, 4, 0, 2]
    assert list(ask(source, k=2)) == [1, 3]
    assert ask(source, k=2, exclude=[1, 4]) == {3: 3.0, 0: 1.0}


def test_trending_proposes_only_what_rises() -> None:
    """One was to be expected of each; what nobody liked falls."""
    source = open_source(trending([3, 0, 0.1, 5, 2]))
    assert list(ask(source)) == [3, 0, 4]
    assert list(ask(source, exclude=[0, 1])) == [3, 4]


@pytest.mark.parametrize(
    ("name", "column"),
    [("popular", "count"), ("popular", "since_ms"), ("trending", "recent"), ("trending", "past")],
)
@pytest.mark.parametrize("counts", [None, np.ones(3, np.float32), np.ones((3, 1))])
def test_counts_of_another_kind_are_refused_by_name(name: str, column: str, counts: object) -> None:
    view = {"popular": popular, "trending": trending}[name]([1, 2, 3], **{column: counts})
    with pytest.raises(ArtifactCorrupt, match=rf"{name}/{column}\.npy"):
        open_source(view)
