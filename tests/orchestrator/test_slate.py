from __future__ import annotations

import numpy as np
import pytest

from orchestrator.slate import choose
from shortlist.tiers import Floats, ItemCards


def cards(vectors: Floats, **groups: list[tuple[str, ...]]) -> ItemCards:
    size = len(vectors)
    return ItemCards(
        index_version="v1",
        keys=np.arange(size, dtype=np.uint64),
        ids=tuple(map(str, range(size))),
        titles=("",) * size,
        vectors=vectors,
        groups={name: tuple(values) for name, values in groups.items()},
        attributes=({},) * size,
    )


def random_pool(size: int, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(size, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.sort(rng.normal(size=size).astype(np.float32))[::-1], vectors


def mean_similarity(vectors: Floats) -> float:
    similarity = vectors @ vectors.T
    return float(similarity[~np.eye(len(vectors), dtype=bool)].mean())


@pytest.mark.parametrize("seed", range(5))
def test_strength_0_is_the_ranking(seed: int) -> None:
    relevance, vectors = random_pool(60, seed)
    assert choose(relevance, cards(vectors), 20, strength=0.0, caps={}) == list(range(20))


@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_fast_loop_is_mmr_as_the_paper_writes_it(seed: int, strength: float) -> None:
    relevance, vectors = random_pool(40, seed)
    scaled = (relevance - relevance.min()) / (relevance.max() - relevance.min())
    chosen = [0]
    while len(chosen) < 15:
        rest = [row for row in range(40) if row not in chosen]
        worth = {
            row: (1 - strength) * scaled[row]
            - strength * max(float(vectors[row] @ vectors[other]) for other in chosen)
            for row in rest
        }
        chosen.append(max(rest, key=lambda row: worth[row]))
    assert choose(relevance, cards(vectors), 15, strength=strength, caps={}) == chosen


def test_more_strength_makes_a_more_varied_page() -> None:
    relevance, vectors = random_pool(60, seed=1)
    pages = [
        choose(relevance, cards(vectors), 20, strength=strength, caps={})
        for strength in (0.0, 0.5, 1.0)
    ]
    spread = [mean_similarity(vectors[page]) for page in pages]
    assert spread[0] > spread[1] > spread[2]


def test_of_two_equal_items_the_second_has_to_wait() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    relevance = np.array([1.0, 0.99, 0.5], np.float32)
    assert choose(relevance, cards(vectors), 2, strength=0.5, caps={}) == [0, 2]


@pytest.mark.parametrize("seed", range(5))
def test_no_cap_is_ever_exceeded(seed: int) -> None:
    rng = np.random.default_rng(seed)
    relevance, vectors = random_pool(60, seed)
    genres = [tuple({f"g{n}" for n in rng.integers(0, 6, rng.integers(0, 3))}) for _ in range(60)]
    creators: list[tuple[str, ...]] = [(f"c{n}",) for n in rng.integers(0, 30, 60)]
    pool = cards(vectors, genre=genres, creator=creators)
    rows = choose(relevance, pool, 20, strength=0.1, caps={"genre": 3, "creator": 1})
    assert len(set(rows)) == len(rows) > 0
    for column, cap in ((genres, 3), (creators, 1)):
        values = [value for row in rows for value in column[row]]
        assert all(values.count(value) <= cap for value in values)


def test_items_without_a_value_are_not_capped() -> None:
    relevance, vectors = random_pool(10, seed=0)
    pool = cards(vectors, genre=[()] * 10)
    assert len(choose(relevance, pool, 10, strength=0.0, caps={"genre": 1})) == 10


def test_a_pool_smaller_than_the_page_is_used_up() -> None:
    relevance, vectors = random_pool(3, seed=0)
    assert sorted(choose(relevance, cards(vectors), 20, strength=0.3, caps={})) == [0, 1, 2]


def test_an_empty_pool_makes_an_empty_page() -> None:
    empty = np.empty((0, 8), np.float32)
    assert choose(np.empty(0, np.float32), cards(empty), 20, strength=0.3, caps={}) == []


def test_equal_scores_keep_the_ranked_order() -> None:
    vectors = np.eye(6, dtype=np.float32)
    assert choose(np.ones(6, np.float32), cards(vectors), 6, strength=0.2, caps={}) == [*range(6)]
