from __future__ import annotations

import pytest

from shortlist.errors import ArtifactCorrupt
from tests.retrieval_svc.sources.views import KEYS, ask, lists_of, open_source, view_of

SIMILAR = lists_of(
    {
        int(KEYS[0]): {1: 0.5, 2: 0.4, 3: 0.1},
        int(KEYS[1]): {0: 0.5, 3: 0.6},
        int(KEYS[5]): {2: 0.8},
    }
)


def test_scores_are_means_of_the_similarities_to_the_history() -> None:
    source = open_source(view_of("cooccurrence", lists={"similar": SIMILAR}))
    assert ask(source, [(0, 1.0), (1, 3.0)]) == pytest.approx(
        {3: (0.1 + 3 * 0.6) / 4, 0: 3 * 0.5 / 4, 1: 0.5 / 4, 2: 0.4 / 4}
    )


def test_newer_items_count_more() -> None:
    view = view_of("cooccurrence", lists={"similar": SIMILAR}, half_life_events=1.0)
    assert ask(open_source(view), [0, 5]) == pytest.approx(
        {2: (0.8 + 0.5 * 0.4) / 1.5, 1: 0.5 * 0.5 / 1.5, 3: 0.5 * 0.1 / 1.5}
    )


def test_an_item_that_only_other_shards_know_counts_in_the_mean() -> None:
    source = open_source(view_of("cooccurrence", lists={"similar": SIMILAR}))
    assert ask(source, [4, 5]) == pytest.approx({2: 0.4})


def test_a_version_without_lists_is_refused() -> None:
    with pytest.raises(ArtifactCorrupt, match=r"cooccurrence/similar\.terms\.npy: missing"):
        open_source(view_of("cooccurrence"))
