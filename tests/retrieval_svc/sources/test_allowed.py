"""What filters leave of a slice: every source proposes the best of it, and never too few."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval_svc.generation import Generation
from retrieval_svc.rows import Allowed, RowMask, Rows
from retrieval_svc.slice_files import RetrievalMeta
from retrieval_svc.sources import SOURCES, Source, SourceQuery
from shortlist.tiers import UserContext
from tests.retrieval_svc.factory import (
    PARIS,
    Catalogue,
    meta_of,
    query,
    user_who_liked,
    write_files,
)

ITEMS = 3000
CATALOGUE = Catalogue.random(ITEMS)


@pytest.fixture(scope="module", params=[0, 100_000], ids=["scann", "exact"])
def generation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generation:
    folder = tmp_path_factory.mktemp("allowed")
    write_files(folder, CATALOGUE, shards=1, exact_below=request.param, k=100)
    meta = RetrievalMeta.read(meta_of(CATALOGUE, 1), folder)
    return Generation.open_folder(folder, meta, 0, version="v")


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, generation: Generation) -> Source:
    return generation.sources[request.param]


def somebody() -> UserContext:
    keys = [int(CATALOGUE.keys[row]) for row in (3, 200, 77, 31, 77, 1500)]
    return user_who_liked(*keys, country="FR", home=PARIS)


def everything(source: Source) -> dict[int, float]:
    """All that the source would propose, exactly: row -> score, best first."""
    rows, scores = source.propose(SourceQuery(user=somebody()), ITEMS)
    return dict(zip(rows.tolist(), scores.tolist(), strict=True))


def a_mask(rng: np.random.Generator, share: float) -> RowMask:
    return RowMask(rng.random(ITEMS) < share)


def some_rows(rng: np.random.Generator, most: int) -> Rows:
    return np.unique(rng.integers(ITEMS, size=int(rng.integers(most + 1))))


@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.1, 0.01, 0.001, 0.0])
def test_what_is_allowed_is_proposed_as_brute_force_would(source: Source, share: float) -> None:
    rng = np.random.default_rng(int(share * 1000))
    whole = everything(source)
    for k in (1, 20, 100, ITEMS):
        allowed = Allowed(exclude=some_rows(rng, 100), mask=a_mask(rng, share))
        own = allowed.keep(np.array(list(whole), np.int64))
        expected = [row for row, keep in zip(whole, own, strict=True) if keep][:k]
        rows, scores = source.propose(SourceQuery(user=somebody(), allowed=allowed), k)
        assert allowed.keep(rows).all()
        assert len(rows) == len(set(rows.tolist())) == len(expected)  # never too few
        assert np.isin(rows, expected).sum() >= 0.9 * len(expected)
        np.testing.assert_allclose(scores, [whole[row] for row in rows.tolist()], rtol=1e-4)


def test_only_the_last_of_everything_is_found(source: Source) -> None:
    """The mask and the order have nothing in common."""
    whole = list(everything(source))
    passes = np.zeros(ITEMS, np.bool_)
    passes[whole[-3:]] = True
    allowed = Allowed(exclude=np.array([whole[-2]]), mask=RowMask(passes))
    rows, _ = source.propose(SourceQuery(user=somebody(), allowed=allowed), 10)
    assert rows.tolist() == [whole[-3], whole[-1]]


def test_a_filter_of_the_query_reaches_every_source(generation: Generation) -> None:
    asked = query(
        somebody(), quotas=dict.fromkeys(SOURCES, 50), filter='genre = "genre-3" AND price > 100'
    )
    found = generation.retrieve(asked)
    assert not found.failures
    rows = np.arange(101, ITEMS)  # row r costs r
    rows = rows[rows % 7 == 3]
    assert found.dropped == {"filtered": ITEMS - len(rows)}
    allowed = set(CATALOGUE.keys[rows].tolist())
    for one in found.sources:
        assert len(one.keys), one.source
        assert set(one.keys.tolist()) <= allowed
