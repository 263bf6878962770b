from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrieval_svc.sources import SliceView
from shortlist.errors import ArtifactCorrupt
from tests.retrieval_svc.sources.views import KEYS, ask, lists_of, open_source, view_of

ANN, BOB = 11, 22
ITEMS = lists_of({ANN: {0: 1.0, 1: 3.0, 2: 2.0}, BOB: {2: 2.0, 3: 1.5}})
OWNED = KEYS[[0, 2, 3]]
STARTS = np.array([0, 1, 3, 4])
CREATORS = np.array([ANN, ANN, BOB, BOB], np.uint64)


def creator(**changes: Any) -> SliceView:
    arrays = {"keys": OWNED, "starts": STARTS, "creators": CREATORS}
    arrays |= {name: changes.pop(name) for name in list(changes) if name in arrays}
    return view_of("creator", lists={"items": ITEMS}, arrays=arrays, **changes)


def test_more_of_the_creators_of_the_history_is_proposed() -> None:
    assert ask(open_source(creator()), [0]) == {1: 3.0, 2: 2.0, 0: 1.0}
    assert ask(open_source(creator()), [3]) == {2: 2.0, 3: 1.5}


def test_an_item_of_two_creators_speaks_for_both() -> None:
    assert ask(open_source(creator()), [2]) == {2: 4.0, 1: 3.0, 3: 1.5, 0: 1.0}


def test_creators_count_by_what_was_liked_of_them_newer_items_more() -> None:
    view = creator(half_life_events=1.0)
    assert ask(open_source(view), [3, 0]) == pytest.approx(
        {1: 3 * 2 / 3, 2: 2 * 2 / 3 + 2 / 3, 0: 2 / 3, 3: 1.5 / 3}
    )


def test_items_without_creators_find_nothing() -> None:
    assert ask(open_source(creator()), [1, 4]) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": STARTS[:-1]}, r"starts\.npy: does not fit"),
        ({"starts": np.array([0, 1, 3, 9])}, r"starts\.npy: does not fit"),
        ({"starts": np.array([0, 3, 1, 4])}, r"starts\.npy: does not fit"),
        ({"starts": np.array([1, 1, 3, 4])}, r"starts\.npy: does not fit"),
        ({"keys": OWNED[::-1]}, r"keys\.npy: does not ascend"),
        ({"creators": CREATORS.astype(np.int64)}, r"creators\.npy: holds int64"),
    ],
)
def test_files_that_do_not_fit_together_are_refused_by_name(changes: Any, message: str) -> None:
    with pytest.raises(ArtifactCorrupt, match=message):
        open_source(creator(**changes))
