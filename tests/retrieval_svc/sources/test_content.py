from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrieval_svc.sources import SliceView
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from tests.retrieval_svc.sources.views import KEYS, ask, floats, open_source, view_of

VECTORS = floats([[1, 0], [0, 1], [-1, 0], [0, 0], [0.6, 0.8], [0.8, 0.6]])


def content(**changes: Any) -> SliceView:
    columns = {"vectors": changes.pop("column", VECTORS)}
    arrays = {"keys": KEYS, "vectors": changes.pop("shared", VECTORS)}
    if "everybody" in changes:
        arrays["everybody"] = changes.pop("everybody")
    return view_of("content", columns=columns, arrays=arrays, **changes)


def test_scores_are_cosines_to_the_mean_of_the_history() -> None:
    taste = np.array([3.0, 1.0]) / np.sqrt(10)
    found = ask(open_source(content()), [(0, 3.0), (1, 1.0)])
    assert found == pytest.approx({row: VECTORS[row] @ taste for row in (5, 0, 4, 1, 2)}, abs=1e-6)


def test_newer_items_count_more() -> None:
    found = ask(open_source(content(half_life_events=1.0)), [1, 0])
    assert found[0] == pytest.approx(1 / np.sqrt(1.25))


def test_items_of_which_nothing_is_said_are_not_proposed_and_say_nothing() -> None:
    source = open_source(content())
    assert 3 not in ask(source, [0])
    assert ask(source, [3]) == {}
    assert ask(source, [3, 0]) == ask(source, [0])


def test_items_with_nothing_in_common_make_no_taste() -> None:
    assert ask(open_source(content()), [0, 2]) == {}


def test_whose_taste_is_not_known_is_taken_to_like_what_everybody_likes() -> None:
    source = open_source(content(everybody=floats([0, 1])))
    expected = pytest.approx({row: VECTORS[row, 1] for row in (1, 4, 5, 0, 2)}, abs=1e-6)
    assert ask(source, []) == ask(source, [3]) == ask(source, [0, 2]) == expected
    assert ask(source, [0])[0] == pytest.approx(1)


def test_a_slice_of_which_nothing_is_said_proposes_nothing() -> None:
    assert ask(open_source(content(column=np.zeros((3, 2), np.float32))), [0]) == {}


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(ArtifactRefused, match=r"content/vectors\.npy: row 1 has length 2"):
        open_source(content(column=VECTORS * floats([[1], [2], [1], [1], [1], [1]])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared": VECTORS[1:]}, "5 rows for 6 keys"),
        ({"column": VECTORS[:, :1]}, "1 dimensions, not the 2"),
        ({"column": VECTORS.astype(np.float64)}, "float64"),
    ],
)
def test_files_that_do_not_fit_together_are_refused_by_name(changes: Any, message: str) -> None:
    with pytest.raises(ArtifactCorrupt, match=rf"content/vectors\.npy: .*{message}"):
        open_source(content(**changes))


def test_a_taste_of_everybody_of_another_length_is_refused() -> None:
    with pytest.raises(ArtifactCorrupt, match=r"everybody\.npy: 3 dimensions, not the 2"):
        open_source(content(everybody=floats([0, 1, 0])))
