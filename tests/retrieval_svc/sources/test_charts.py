"""`popular` and `trending`: the same for everybody."""

from __future__ import annotations

import numpy as np
import pytest

from shortlist.errors import ArtifactCorrupt
from tests.retrieval_svc.sources.views import ask, floats, open_source, view_of


def test_popular_proposes_everything_and_breaks_ties_by_row() -> None:
    source = open_source(view_of("popular", columns={"score": floats([1, 3, 0, 3, 2])}))
    assert list(ask(source)) == [1, 3, 4, 0, 2]
    assert list(ask(source, k=2)) == [1, 3]
    assert ask(source, k=2, exclude=[1, 4]) == {3: 3.0, 0: 1.0}


def test_trending_proposes_only_what_rises() -> None:
    source = open_source(view_of("trending", columns={"score": floats([1.5, -2, 0, 3, 0.5])}))
    assert ask(source) == {3: 3.0, 0: 1.5, 4: 0.5}
    assert ask(source, exclude=[0, 1]) == {3: 3.0, 4: 0.5}


@pytest.mark.parametrize("name", ["popular", "trending"])
@pytest.mark.parametrize("scores", [None, np.ones(3), np.ones((3, 1), np.float32)])
def test_scores_of_another_kind_are_refused_by_name(name: str, scores: object) -> None:
    columns = {} if scores is None else {"score": scores}
    with pytest.raises(ArtifactCorrupt, match=rf"{name}/score\.npy"):
        open_source(view_of(name, columns=columns))
