"""What every source does, whatever it knows. Each test runs over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from retrieval_svc.brute_force import Hits
from retrieval_svc.generation import Generation
from retrieval_svc.rows import NO_ROWS, Allowed, Rows
from retrieval_svc.slice_files import RetrievalMeta
from retrieval_svc.sources import SOURCES, Source, SourceQuery
from shortlist.ids import keys_of
from shortlist.tiers import History, UserContext
from tests.retrieval_svc.factory import PARIS, Catalogue, meta_of, user_who_liked, write_files

CATALOGUE = Catalogue.random(400)
# The others answer from a history, or from where the user is.
FOR_ANYBODY = {"two_tower", "popular", "trending", "fresh"}
Slices = Callable[[int], Sequence[Generation]]


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Slices:
    """The same catalogue over any number of shards."""

    @cache
    def of(shards: int) -> list[Generation]:
        return written(tmp_path_factory.mktemp(f"over-{shards}"), CATALOGUE, shards)

    return of


def written(folder: Path, catalogue: Catalogue, shards: int) -> list[Generation]:
    write_files(folder, catalogue, shards=shards, exact_below=20_000, k=100)
    meta = RetrievalMeta.read(meta_of(catalogue, shards), folder)
    return [Generation.open_folder(folder, meta, shard, version="v") for shard in range(shards)]


@pytest.fixture(params=SOURCES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def source(slices: Slices, name: str) -> Source:
    return slices(1)[0].sources[name]


def somebody() -> UserContext:
    keys = [int(CATALOGUE.keys[row]) for row in (3, 200, 77, 31, 77)]
    return user_who_liked(*keys, country="FR", home=PARIS)


def ask(source: Source, user: UserContext, k: int, exclude: Rows = NO_ROWS) -> Hits:
    rows, scores = source.propose(SourceQuery(user=user, allowed=Allowed(exclude=exclude)), k)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    assert len(rows) == len(scores) == len(np.unique(rows)) <= k
    assert np.isfinite(scores).all()
    assert (np.diff(scores) <= 0).all()
    return rows, scores


@pytest.mark.parametrize("k", [1, 7, 100, 400, 5000])
def test_it_proposes_at_most_k_different_items_best_first(source: Source, k: int) -> None:
    rows, _ = ask(source, somebody(), k)
    assert len(rows) >= 1
    assert ((rows >= 0) & (rows < len(CATALOGUE.keys))).all()


@pytest.mark.parametrize("k", [1, 7, 100])
def test_fewer_are_the_first_of_more(source: Source, k: int) -> None:
    all_rows, all_scores = ask(source, somebody(), 400)
    rows, scores = ask(source, somebody(), k)
    assert rows.tolist() == all_rows[:k].tolist()
    np.testing.assert_allclose(scores, all_scores[:k], rtol=1e-6)


def test_excluded_items_are_replaced_by_the_next_best(source: Source) -> None:
    all_rows, _ = ask(source, somebody(), 400)
    exclude = np.sort(np.concatenate([all_rows[:5], all_rows[8:11]]))
    rows, _ = ask(source, somebody(), 20, exclude)
    assert rows.tolist() == all_rows[~np.isin(all_rows, exclude)][:20].tolist()


def test_when_everything_is_excluded_nothing_is_proposed(source: Source) -> None:
    rows, _ = ask(source, somebody(), 10, np.arange(len(CATALOGUE.keys)))
    assert len(rows) == 0


@pytest.mark.parametrize("shards", [2, 5])
def test_shards_together_propose_what_one_does(slices: Slices, name: str, shards: int) -> None:
    for user in (somebody(), user_who_liked(), user_who_liked(int(CATALOGUE.keys[9]))):
        keys, scores = merged(slices(1), name, user)
        other_keys, other_scores = merged(slices(shards), name, user)
        np.testing.assert_allclose(scores, other_scores, rtol=1e-5, atol=1e-6)
        assert keys.tolist() == other_keys.tolist()


def merged(
    generations: Sequence[Generation], name: str, user: UserContext, k: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """The best 40 of all shards by (score, key), as the orchestrator merges."""
    exclude = np.sort(CATALOGUE.keys[::17])
    parts = []
    for one in generations:
        own = np.flatnonzero(np.isin(one.keys, exclude))
        rows, scores = ask(one.sources[name], user, k, own)
        parts.append((one.keys[rows], scores))
    keys, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((keys, -scores))[:k]
    return keys[order], scores[order]


def test_somebody_of_whom_nothing_is_known_gets_what_there_is_for_anybody(
    source: Source, name: str
) -> None:
    rows, _ = ask(source, user_who_liked(), 10)
    assert bool(len(rows)) == (name in FOR_ANYBODY)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_history_of_disliked_or_unknown_items_is_like_none(source: Source, weight: float) -> None:
    keys = CATALOGUE.keys[:5] if weight == 0 else keys_of(["stranger", "foreigner"])
    history = History(
        keys=keys,
        times_ms=np.zeros(len(keys), np.int64),
        weights=np.full(len(keys), weight, np.float32),
    )
    rows, scores = ask(source, replace(user_who_liked(), history=history), 10)
    expected, its_scores = ask(source, user_who_liked(), 10)
    assert rows.tolist() == expected.tolist()
    assert scores.tolist() == its_scores.tolist()


@pytest.mark.parametrize("weight", [1e-45, 1e-30, 1e30, 3e38])
def test_weights_of_any_size_give_finite_scores(source: Source, weight: float) -> None:
    user = somebody()
    weights = np.full(len(user.history), weight, np.float32)
    ask(source, replace(user, history=replace(user.history, weights=weights)), 400)


def test_a_long_history_is_answered(source: Source) -> None:
    keys = [int(key) for key in np.random.default_rng(0).permutation(CATALOGUE.keys)]
    rows, _ = ask(source, user_who_liked(*keys, *keys, country="NZ"), 10)
    assert len(rows)


def test_one_item_is_a_history(source: Source, name: str) -> None:
    rows, _ = ask(source, user_who_liked(int(CATALOGUE.keys[30])), 10)
    assert bool(len(rows)) == (name != "geographic")


def test_an_empty_slice_proposes_nothing(name: str, tmp_path: Path) -> None:
    catalogue = Catalogue.random(3)
    user = user_who_liked(int(catalogue.keys[0]), country="FR")
    empty = [one for one in written(tmp_path, catalogue, 8) if not len(one.keys)]
    assert empty
    for one in empty:
        assert len(ask(one.sources[name], user, 10)[0]) == 0


@pytest.mark.parametrize("place", ["91,0", "48.86,999", "nan,nan", "inf,2", ",", "", "Atlantis"])
def test_places_that_are_not_on_earth_are_like_none(source: Source, place: str) -> None:
    rows, _ = ask(source, user_who_liked(home=place), 10)
    assert rows.tolist() == ask(source, user_who_liked(), 10)[0].tolist()
