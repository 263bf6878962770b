from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval_svc.rows import Allowed
from retrieval_svc.source_data import PostingLists, SharedData, SourceData
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from shortlist.ids import shard_of
from tests.retrieval_svc.factory import random_lists

N = 60
KEYS = np.sort(np.random.default_rng(0).integers(1, 2**63, N).astype(np.uint64))


def some_data(seed: int = 0) -> SourceData:
    rng = np.random.default_rng(seed)
    return SourceData(
        columns={"score": rng.random(N), "vectors": rng.random((N, 3)).astype(np.float32)},
        lists={
            "similar": random_lists(KEYS, N, 7, rng),
            "popular": random_lists(KEYS[:4], N, 30, rng),
        },
    )


def assert_same(one: SourceData, other: SourceData) -> None:
    assert one.columns.keys() == other.columns.keys()
    assert one.lists.keys() == other.lists.keys()
    for name, column in one.columns.items():
        np.testing.assert_array_equal(column, other.columns[name])
    for name, lists in one.lists.items():
        for part in ("terms", "starts", "rows", "weights"):
            found = getattr(other.lists[name], part)
            np.testing.assert_array_equal(getattr(lists, part), found)
            assert getattr(lists, part).dtype == found.dtype


# --- posting lists ---


@pytest.mark.parametrize("spread", [1, 10_000], ids=["dense", "sparse"])
def test_sums_over_lists_are_those_of_a_dense_matrix(spread: int) -> None:
    lists = random_lists(KEYS, N, 7, np.random.default_rng(3))
    wide = PostingLists(
        terms=lists.terms, starts=lists.starts, rows=lists.rows * spread, weights=lists.weights
    )
    matrix = np.zeros((N, N))
    matrix[np.repeat(np.arange(N), np.diff(lists.starts)), lists.rows] = lists.weights
    terms = np.array([KEYS[4], 5, KEYS[9], KEYS[50]], np.uint64)
    strengths = np.array([0.5, 9.0, 2.0, 0.0])
    rows, sums = wide.add_up(terms, strengths)
    expected = 0.5 * matrix[4] + 2 * matrix[9]
    on_a_list = np.flatnonzero(matrix[[4, 9, 50]].any(axis=0))
    assert rows.tolist() == (on_a_list * spread).tolist()
    np.testing.assert_allclose(sums, expected[on_a_list], rtol=1e-6)
    assert (rows.dtype, sums.dtype) == (np.int64, np.float32)


def test_terms_without_lists_and_empty_lists_give_nothing() -> None:
    empty = PostingLists.of(np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.float32))
    hollow = PostingLists(
        terms=KEYS[:2],
        starts=np.array([0, 0, 1]),
        rows=np.array([3], np.int32),
        weights=np.ones(1, np.float32),
    )
    for lists, terms in ((empty, KEYS[:3]), (hollow, KEYS[:1]), (hollow, KEYS[:0])):
        rows, sums = lists.best(terms, np.ones(len(terms)), 5, Allowed(exclude=np.array([1, 3])))
        assert (len(rows), len(sums)) == (0, 0)
    assert hollow.add_up(KEYS[:2], np.array([5.0, 2.0]))[1].tolist() == [2.0]


def test_the_best_come_first_without_the_excluded_and_ties_go_by_row() -> None:
    lists = PostingLists.of(
        np.repeat(KEYS[:1], 5),
        np.array([9, 1, 4, 7, 2], np.int32),
        np.array([1, 3, 2, 2, 2], np.float32),
    )
    rows, sums = lists.best(KEYS[:1], np.ones(1), 3, Allowed(exclude=np.array([0, 1, 8])))
    assert rows.tolist() == [2, 4, 7]
    assert sums.tolist() == [2, 2, 2]


# --- cutting and joining ---


@pytest.mark.parametrize("shards", [1, 2, 5, 90])
def test_slices_put_together_are_the_whole(shards: int) -> None:
    data = some_data()
    owner = shard_of(KEYS, shards)
    places = [np.flatnonzero(owner == shard) for shard in range(shards)]
    parts = [data.take(mine, N) for mine in places]
    assert_same(SourceData.join(parts, places), data)


def test_a_slice_has_the_postings_of_its_rows_renumbered() -> None:
    lists = some_data().lists["similar"]
    mine = np.array([3, 10, 44])
    part = lists.take(mine, N)
    rows, sums = part.add_up(KEYS, np.ones(N))
    whole_rows, whole_sums = lists.add_up(KEYS, np.ones(N))
    kept = np.isin(whole_rows, mine)
    assert mine[rows].tolist() == whole_rows[kept].tolist()
    assert sums.tolist() == whole_sums[kept].tolist()
    assert (np.diff(part.starts) > 0).all()


# --- files ---


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    some_data().save(tmp_path)
    assert_same(SourceData.load(tmp_path, N), some_data())


def test_an_empty_slice_is_saved_and_loaded(tmp_path: Path) -> None:
    nothing = some_data().take(np.empty(0, np.int64), N)
    nothing.save(tmp_path)
    assert_same(SourceData.load(tmp_path, 0), nothing)


def test_shared_arrays_are_mapped_and_settings_kept(tmp_path: Path) -> None:
    SharedData(arrays={"keys": KEYS}, settings={"after_ms": 3, "features": ["a"]}).save(tmp_path)
    found = SharedData.load(tmp_path)
    np.testing.assert_array_equal(found.arrays["keys"], KEYS)
    assert isinstance(found.arrays["keys"], np.memmap)
    assert found.settings == {"after_ms": 3, "features": ["a"]}


def change(part: str, how: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / f"similar.{part}.npy"
        np.save(path, how(np.load(path)))

    return damage


def put(place: int, value: float) -> Callable[[Any], Any]:
    def how(array: Any) -> Any:
        array[place] = value
        return array

    return how


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "terms out of order": change("terms", lambda a: a[::-1]),
    "a term twice": change("terms", lambda a: np.repeat(a[:1], len(a))),
    "signed terms": change("terms", lambda a: a.astype(np.int64)),
    "too few terms": change("terms", lambda a: a[1:]),
    "starts not from 0": change("starts", put(0, 1)),
    "starts that fall": change("starts", put(3, 10_000)),
    "starts beyond the end": change("starts", put(-1, 10_000)),
    "no starts": change("starts", lambda a: a[:0]),
    "a negative row": change("rows", put(5, -1)),
    "a row beyond the slice": change("rows", put(5, N)),
    "a row twice in a list": change("rows", lambda a: np.zeros_like(a)),
    "rows in two dimensions": change("rows", lambda a: a[:, None]),
    "long rows": change("rows", lambda a: a.astype(np.int64)),
    "too few rows": change("rows", lambda a: a[1:]),
    "too few weights": change("weights", lambda a: a[1:]),
    "double weights": change("weights", lambda a: a.astype(np.float64)),
    "weights of NaN": change("weights", put(2, np.nan)),
    "weights of Inf": change("weights", put(2, np.inf)),
    "no weights": lambda folder: (folder / "similar.weights.npy").unlink(),
    "an empty file": lambda folder: (folder / "similar.rows.npy").write_bytes(b""),
    "half a file": lambda folder: (folder / "similar.rows.npy").write_bytes(
        (folder / "similar.rows.npy").read_bytes()[:-9]
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_lists_are_refused_by_name(tmp_path: Path, case: str) -> None:
    some_data().save(tmp_path)
    DAMAGES[case](tmp_path)
    with pytest.raises((ArtifactCorrupt, ArtifactRefused), match="similar"):
        SourceData.load(tmp_path, N)


@pytest.mark.parametrize("column", [np.ones(N - 1), np.float32(3), np.ones((1, N))])
def test_a_column_of_other_items_is_refused_by_name(tmp_path: Path, column: Any) -> None:
    np.save(tmp_path / "score.npy", column)
    with pytest.raises(ArtifactCorrupt, match=r"score\.npy has shape"):
        SourceData.load(tmp_path, N)


def test_a_pickled_column_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "score.npy", np.array([{}] * N), allow_pickle=True)
    with pytest.raises(ArtifactCorrupt, match=r"score\.npy is unreadable"):
        SourceData.load(tmp_path, N)


@pytest.mark.parametrize("content", ["", "[]", "3", "{"])
def test_settings_that_are_no_mapping_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(ArtifactCorrupt, match=r"settings\.json"):
        SharedData.load(tmp_path)


def test_shared_arrays_of_nan_are_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({}))
    np.save(tmp_path / "factors.npy", np.full(3, np.nan, np.float32))
    with pytest.raises(ArtifactRefused, match=r"factors\.npy holds NaN"):
        SharedData.load(tmp_path)
