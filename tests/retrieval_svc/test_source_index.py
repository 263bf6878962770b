"""Indexes of vectors that are not unit vectors, and of which some are zero: factors, contents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval_svc.index import (
    BruteForceIndex,
    Index,
    IndexReport,
    SubsetIndex,
    build_source_index,
    load_source_index,
)
from retrieval_svc.rows import Allowed, RowMask
from shortlist.errors import ArtifactCorrupt
from tests.retrieval_svc.factory import Floats, clustered

ITEMS, DIM, K, TARGET = 24_000, 32, 500, 0.95


@pytest.fixture(scope="module")
def factors() -> Floats:
    """Lengths as alternating least squares makes them: a few long, most short, some zero."""
    rng = np.random.default_rng(1)
    vectors = clustered(ITEMS, DIM, seed=1, spread=0.8)
    vectors *= 0.1 * rng.lognormal(sigma=1.0, size=(ITEMS, 1)).astype(np.float32)
    vectors[rng.permutation(ITEMS)[:2000]] = 0
    return vectors


@pytest.fixture(scope="module")
def users(factors: Floats) -> Floats:
    """Sums of the factors of ten items each."""
    liked = np.random.default_rng(2).integers(ITEMS, size=(140, 10))
    return factors[liked].sum(axis=1)


@pytest.fixture(scope="module")
def built(
    factors: Floats, users: Floats, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, IndexReport]:
    folder = tmp_path_factory.mktemp("factors") / "index"
    options = {"exact_below": 0, "recall_target": TARGET, "k": K, "seed": 3}
    return folder, build_source_index(factors, folder, queries=users[:100], **options)


@pytest.fixture(scope="module")
def scann(built: tuple[Path, IndexReport], factors: Floats) -> Index:
    return load_source_index(built[0], factors)


def test_scann_finds_the_longest_projections_of_vectors_of_any_length(
    built: tuple[Path, IndexReport], scann: Index, factors: Floats, users: Floats
) -> None:
    assert built[1].kind == scann.kind == "scann"
    assert built[1].items == ITEMS - 2000
    exact = BruteForceIndex(factors)
    found = [
        np.intersect1d(scann.search(user, K)[0], exact.search(user, K)[0]).size
        for user in users[100:]
    ]
    assert np.mean(found) / K >= TARGET


@pytest.mark.parametrize("k", [10, K, ITEMS])
def test_hits_have_the_row_numbers_and_scores_of_the_slice(
    scann: Index, factors: Floats, users: Floats, k: int
) -> None:
    exclude = np.arange(0, ITEMS, 3)
    rows, scores = scann.search(users[0], k, Allowed(exclude=exclude))
    allowed = np.asarray(factors.any(axis=1))
    allowed[exclude] = False
    assert len(np.unique(rows)) == len(rows) == min(k, int(allowed.sum()))
    assert allowed[rows].all()
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_allclose(scores, factors[rows] @ users[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", [0.6, 0.1, 0.0005])
def test_a_mask_of_the_slice_holds_in_an_index_of_some_of_its_rows(
    scann: Index, factors: Floats, users: Floats, share: float
) -> None:
    passes = np.random.default_rng(7).random(ITEMS) < share
    passes |= ~factors.any(axis=1)  # rows that the index does not have may pass
    allowed = Allowed(exclude=np.arange(0, ITEMS, 50), mask=RowMask(passes))
    own = np.flatnonzero(factors.any(axis=1))
    wanted = own[allowed.keep(own)]
    for user in users[:3]:
        rows, scores = scann.search(user, K, allowed)
        assert np.isin(rows, wanted).all()
        assert len(np.unique(rows)) == min(K, len(wanted))
        best = np.sort(factors[wanted] @ user)[::-1][: len(rows)]
        assert np.mean(scores >= best[-1] - 1e-5) >= TARGET


def test_an_index_of_other_factors_is_refused(
    built: tuple[Path, IndexReport], factors: Floats
) -> None:
    with pytest.raises(ArtifactCorrupt, match="other vectors"):
        load_source_index(built[0], np.ascontiguousarray(factors[::-1]))
    with pytest.raises(ArtifactCorrupt, match="22000 x 32"):
        load_source_index(built[0], np.where(factors == 0, np.float32(1), factors))


def test_an_exact_index_of_some_rows_never_finds_the_zero_ones(tmp_path: Path) -> None:
    vectors = np.array([[0, 0], [-1, 0], [2, 0], [0, 0], [1, 1]], np.float32)
    options = {"exact_below": 100, "recall_target": 0.9, "k": 10, "seed": 0}
    report = build_source_index(vectors, tmp_path / "index", **options)
    assert (report.kind, report.items) == ("exact", 3)
    index = load_source_index(tmp_path / "index", vectors)
    query = np.array([1, 0], np.float32)
    assert isinstance(index, SubsetIndex)
    assert index.search(query, 10)[0].tolist() == [2, 4, 1]
    assert index.search(query, 10, Allowed(exclude=np.array([0, 2, 3])))[0].tolist() == [4, 1]
    assert len(index.search(query, 10, Allowed(exclude=np.arange(5)))[0]) == 0


@pytest.mark.parametrize("rows", [0, 4])
def test_nothing_but_zero_rows_is_an_empty_index(tmp_path: Path, rows: int) -> None:
    vectors = np.zeros((rows, 3), np.float32)
    options = {"exact_below": 0, "recall_target": 0.9, "k": 10, "seed": 0}
    assert build_source_index(vectors, tmp_path / "index", **options).items == 0
    index = load_source_index(tmp_path / "index", vectors)
    assert len(index.search(np.ones(3, np.float32), 10)[0]) == 0
