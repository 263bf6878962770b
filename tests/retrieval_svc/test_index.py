from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retrieval_svc.index import (
    BruteForceIndex,
    Index,
    IndexReport,
    ScannIndex,
    build_index,
    load_index,
)
from retrieval_svc.rows import Allowed, RowMask
from shortlist.errors import ArtifactCorrupt, ArtifactRefused, InvalidField
from tests.retrieval_svc.factory import Floats, clustered, unit

DIM, K, TARGET = 32, 1000, 0.95


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return clustered(30_000, DIM, seed=1)


@pytest.fixture(scope="module")
def queries(vectors: Floats) -> Floats:
    """Users between three items each: the tuner never sees such."""
    rng = np.random.default_rng(2)
    return unit(vectors[rng.integers(len(vectors), size=(40, 3))].sum(axis=1))


@pytest.fixture(scope="module")
def built(vectors: Floats, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, IndexReport]:
    folder = tmp_path_factory.mktemp("scann") / "index"
    report = build_index(vectors, folder, exact_below=0, recall_target=TARGET, k=K, seed=3)
    return folder, report


@pytest.fixture(scope="module")
def scann(built: tuple[Path, IndexReport], vectors: Floats) -> Index:
    return load_index(built[0], vectors)


def test_scann_finds_what_brute_force_finds(scann: Index, vectors: Floats, queries: Floats) -> None:
    exact = BruteForceIndex(vectors)
    found = [
        np.intersect1d(scann.search(query, K)[0], exact.search(query, K)[0]).size
        for query in queries
    ]
    assert np.mean(found) / K >= TARGET


def test_the_report_holds_what_was_measured_and_chosen(built: tuple[Path, IndexReport]) -> None:
    folder, report = built
    assert report.kind == "scann"
    assert TARGET <= report.recall <= 1
    assert report.leaves_to_search <= report.leaves
    assert json.loads((folder / "index.json").read_text())["reorder"] == report.reorder


@pytest.mark.parametrize("k", [1, 10, 1000, 5000, 50_000])
def test_scores_are_exact_and_descending_for_any_k(
    scann: Index, vectors: Floats, queries: Floats, k: int
) -> None:
    rows, scores = scann.search(queries[0], k)
    assert len(rows) == min(k, len(vectors)) == np.unique(rows).size
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_allclose(scores, vectors[rows] @ queries[0], atol=1e-6)


@pytest.mark.parametrize("excluded", [1, 300, 5000])
def test_excluded_rows_never_come_back_and_are_replaced(
    scann: Index, vectors: Floats, queries: Floats, excluded: int
) -> None:
    best, _ = BruteForceIndex(vectors).search(queries[1], excluded)
    rows, _ = scann.search(queries[1], K, Allowed(exclude=np.sort(best)))
    assert len(rows) == K
    assert not np.isin(rows, best).any()


def test_an_underfilled_search_falls_back_to_the_exact_one(
    scann: ScannIndex, vectors: Floats, queries: Floats
) -> None:
    keep = np.arange(0, len(vectors), 3000)  # ten rows, most of them in leaves far away
    exclude = np.setdiff1d(np.arange(len(vectors)), keep)
    rows, _ = scann.search(queries[2], 10, Allowed(exclude=exclude))
    assert sorted(rows.tolist()) == keep.tolist()


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.05, 0.001])
def test_a_masked_search_finds_as_much_as_an_open_one(
    scann: Index, vectors: Floats, queries: Floats, share: float
) -> None:
    rng = np.random.default_rng(5)
    exact, found = BruteForceIndex(vectors), []
    for query in queries[:10]:
        seen, _ = exact.search(query, 200)
        mask = RowMask(rng.random(len(vectors)) < share)
        allowed = Allowed(exclude=np.sort(seen), mask=mask)
        truth, rows = exact.search(query, K, allowed)[0], scann.search(query, K, allowed)[0]
        assert len(truth) == len(rows) == min(K, allowed.count(len(vectors)))
        assert allowed.keep(rows).all()
        found.append(np.isin(truth, rows).mean())
    assert np.mean(found) >= TARGET


def test_an_exact_search_of_few_rows_is_that_of_all_without_the_others(
    vectors: Floats, queries: Floats
) -> None:
    """Rows are gathered, in pieces, or all are scored; the hits are the same."""
    rng = np.random.default_rng(6)
    exact = BruteForceIndex(vectors)
    for share in (0.5, 0.31, 0.29, 0.2, 0.0):
        passes = rng.random(len(vectors)) < share
        allowed = Allowed(exclude=np.array([7, 100, 8000]), mask=RowMask(passes.copy()))
        passes[[7, 100, 8000]] = False
        rows, scores = exact.search(queries[3], 5000, allowed)
        expected = np.where(passes, vectors @ queries[3], -np.inf)
        order = np.argsort(-expected, kind="stable")[: min(5000, passes.sum())]
        assert rows.tolist() == order.tolist()
        np.testing.assert_allclose(scores, expected[order], atol=1e-6)


def test_a_mask_that_leaves_out_the_neighbourhood_is_searched_exactly(
    scann: Index, vectors: Floats, queries: Floats
) -> None:
    """Half of the items are allowed, and they are the far half."""
    exact = BruteForceIndex(vectors)
    near, _ = exact.search(queries[4], len(vectors) // 2)
    passes = np.ones(len(vectors), np.bool_)
    passes[near] = False
    allowed = Allowed(mask=RowMask(passes))
    rows, _ = scann.search(queries[4], K, allowed)
    assert rows.tolist() == exact.search(queries[4], K, allowed)[0].tolist()


def test_an_index_loads_from_a_moved_folder(
    built: tuple[Path, IndexReport], scann: Index, vectors: Floats, queries: Floats, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in built[0].iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    rows, _ = load_index(moved, vectors).search(queries[0], K)
    assert rows.tolist() == scann.search(queries[0], K)[0].tolist()


def test_an_index_holds_no_pickle(built: tuple[Path, IndexReport]) -> None:
    names = {file.name for file in built[0].iterdir()}
    assert not any("pkl" in name for name in names)
    for name in names:
        if name.endswith(".npy"):
            np.load(built[0] / name, allow_pickle=False)


def test_document_ids_beside_an_index_are_refused(
    built: tuple[Path, IndexReport], vectors: Floats, tmp_path: Path
) -> None:
    copy = _copy(built[0], tmp_path / "copy")
    (copy / "scann_docids.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(ArtifactRefused, match=r"scann_docids\.pkl"):
        load_index(copy, vectors)


@pytest.mark.parametrize("path", ["../vectors.npy", "/etc/passwd", "absent.npy", "..", ""])
def test_assets_outside_the_folder_are_refused(
    built: tuple[Path, IndexReport], vectors: Floats, tmp_path: Path, path: str
) -> None:
    copy = _copy(built[0], tmp_path / "copy")
    assets = copy / "scann_assets.pbtxt"
    assets.write_text(assets.read_text().replace("hashed_dataset.npy", path))
    with pytest.raises(ArtifactRefused, match="not a file of its folder"):
        load_index(copy, vectors)


def test_an_index_of_other_vectors_is_refused(
    built: tuple[Path, IndexReport], vectors: Floats
) -> None:
    with pytest.raises(ArtifactCorrupt, match="other vectors"):
        load_index(built[0], np.ascontiguousarray(vectors[::-1]))
    with pytest.raises(ArtifactCorrupt, match="30000 x 32"):
        load_index(built[0], vectors[1:])


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 2}'])
def test_damaged_settings_are_refused(
    built: tuple[Path, IndexReport], vectors: Floats, tmp_path: Path, content: str
) -> None:
    copy = _copy(built[0], tmp_path / "copy")
    (copy / "index.json").write_text(content)
    with pytest.raises(ArtifactCorrupt, match=r"index\.json"):
        load_index(copy, vectors)


def test_a_target_that_scann_does_not_reach_makes_an_exact_index(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(2000, 64)))
    report = build_index(vectors, tmp_path / "i", exact_below=0, recall_target=1.0, k=150, seed=0)
    assert (report.kind, report.recall) == ("exact", 1.0)
    assert "below 1.0" in report.reason
    assert isinstance(load_index(tmp_path / "i", vectors), BruteForceIndex)


def test_real_queries_may_be_given_to_tune_with(tmp_path: Path) -> None:
    vectors = clustered(3000, 16, seed=4)
    report = build_index(
        vectors,
        tmp_path / "i",
        exact_below=0,
        recall_target=0.8,
        k=50,
        seed=0,
        queries=vectors[:20],
    )
    assert report.kind == "scann"


def test_identical_items_do_not_break_an_index(tmp_path: Path) -> None:
    vectors = np.tile(np.eye(1, 8, dtype=np.float32), (2000, 1))
    build_index(vectors, tmp_path / "i", exact_below=0, recall_target=0.9, k=100, seed=0)
    rows, scores = load_index(tmp_path / "i", vectors).search(vectors[0], 100)
    assert np.unique(rows).size == 100
    assert (scores == 1).all()


def test_brute_force_breaks_ties_by_row() -> None:
    vectors = unit(np.array([[1, 0], [0, 1], [1, 0], [1, 0], [-1, 0]]))
    rows, scores = BruteForceIndex(vectors).search(vectors[0], 2)
    assert rows.tolist() == [0, 2]
    assert scores.tolist() == [1, 1]


def test_brute_force_agrees_with_a_full_sort(vectors: Floats, queries: Floats) -> None:
    for query in queries[:5]:
        expected = np.argsort(-(vectors @ query), kind="stable")
        rows, _ = BruteForceIndex(vectors).search(query, 200)
        assert rows.tolist() == expected[:200].tolist()


@pytest.mark.parametrize("index_of", ["scann", "exact"])
@pytest.mark.parametrize(
    "query",
    [
        pytest.param(np.full(DIM, np.nan, np.float32), id="nan"),
        pytest.param(np.full(DIM, np.inf, np.float32), id="inf"),
        pytest.param(np.ones(DIM - 1, np.float32), id="short"),
        pytest.param(np.ones((1, DIM), np.float32), id="matrix"),
    ],
)
def test_a_bad_query_vector_is_refused(
    scann: Index, vectors: Floats, index_of: str, query: Floats
) -> None:
    index = scann if index_of == "scann" else BruteForceIndex(vectors)
    with pytest.raises(InvalidField, match="vector"):
        index.search(query, 10)


def test_scann_is_imported_without_tensorflow(tmp_path: Path, checkout: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np;"
        "from retrieval_svc.index import build_index, load_index;"
        "v = np.random.default_rng(0).normal(size=(1500, 8)).astype(np.float32);"
        "r = build_index(v, Path(sys.argv[1]), exact_below=0, recall_target=.5, k=10, seed=0);"
        "load_index(Path(sys.argv[1]), v); assert r.kind == 'scann';"
        "assert 'tensorflow' not in sys.modules; import importlib.util as u;"
        "u.find_spec('tensorflow')"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "i")],
        check=True,
        cwd=checkout,
        capture_output=True,
    )


def _copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to
