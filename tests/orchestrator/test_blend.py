from __future__ import annotations

import numpy as np
import pytest

from orchestrator.blend import blend
from shortlist.tiers import SourceCandidates


def a_source(
    name: str, keys: list[int], *, weight: float = 1.0, offset: float = 60.0
) -> SourceCandidates:
    return SourceCandidates(
        source=name,
        keys=np.array(keys, np.uint64),
        scores=np.linspace(1, 0.5, len(keys), dtype=np.float32),
        weight=weight,
        offset=offset,
    )


def test_an_item_of_two_sources_comes_once_with_both() -> None:
    united, found = blend(
        [a_source("a", [1, 2, 3]), a_source("b", [3, 4])], limit=10, guaranteed={}
    )
    assert united == len(found) == 4
    assert found.keys.tolist() == [3, 1, 2, 4]  # 3: ranks 2 and 0; then 1/61, 1/62, 1/62
    row = found.keys.tolist().index(3)
    assert found.sources[row] == 0b11
    assert found.ranks[:, row].tolist() == [2, 0]
    assert found.scores[:, row].tolist() == [0.5, 1.0]


def test_what_a_source_did_not_propose_has_no_score_and_no_rank() -> None:
    _, found = blend([a_source("a", [1]), a_source("b", [2])], limit=10, guaranteed={})
    row = found.keys.tolist().index(2)
    assert np.isnan(found.scores[0, row])
    assert found.ranks[0, row] == -1
    assert found.sources[row] == 0b10


def test_the_order_is_reciprocal_rank_fusion() -> None:
    _, found = blend(
        [a_source("a", list(range(1, 60))), a_source("b", [50, 1, 7])], limit=100, guaranteed={}
    )
    expected: dict[int, float] = {}
    for source in ([*range(1, 60)], [50, 1, 7]):
        for rank, key in enumerate(source, start=1):
            expected[key] = expected.get(key, 0) + 1 / (60 + rank)
    assert found.keys.tolist() == sorted(expected, key=lambda key: (-expected[key], key))
    np.testing.assert_allclose(found.fused, sorted(expected.values(), reverse=True), rtol=1e-6)


def test_what_a_rank_is_worth_comes_with_the_source() -> None:
    sources = [a_source("a", [1, 2], weight=0.5, offset=0), a_source("b", [2, 3], offset=9)]
    _, found = blend(sources, limit=10, guaranteed={})
    assert found.keys.tolist() == [1, 2, 3]
    np.testing.assert_allclose(found.fused, [0.5, 0.25 + 0.1, 1 / 11], rtol=1e-6)


def test_a_source_of_weight_zero_only_has_its_guaranteed_places() -> None:
    sources = [a_source("a", [*range(1, 60)]), a_source("idle", [*range(900, 960)], weight=0)]
    _, found = blend(sources, limit=40, guaranteed={"idle": 3})
    assert found.keys.tolist()[-4:] == [37, 900, 901, 902]
    assert found.fused.tolist()[-3:] == [0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_below_the_limit_and_the_limit_holds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sources = [
        a_source(name, rng.permutation(400)[: rng.integers(1, 300)].tolist()) for name in "abc"
    ]
    everything = set(np.concatenate([one.keys for one in sources]).tolist())
    united, found = blend(sources, limit=1000, guaranteed={})
    assert set(found.keys.tolist()) == everything
    assert united == len(everything)
    _, cut = blend(sources, limit=50, guaranteed={})
    assert len(cut) == 50
    assert len(set(cut.keys.tolist())) == 50
    assert (cut.fused[:-1] >= cut.fused[1:]).all()


def test_sources_without_weight_keep_their_order_where_they_are_alone() -> None:
    sources = [a_source("a", [5, 3, 9], weight=0), a_source("b", [9], weight=0)]
    assert blend(sources[:1], 10, {})[1].keys.tolist() == [5, 3, 9]
    assert blend(sources, 10, {})[1].keys.tolist() == [9, 5, 3]


def lonely_beside_two_that_agree() -> list[SourceCandidates]:
    """`a` and `b` agree on everything, so their items beat every item of `lonely`."""
    agreed = list(range(1, 200))
    lonely = a_source("lonely", [*range(900, 950)], weight=0.1)
    return [a_source("a", agreed), a_source("b", agreed), lonely]


@pytest.mark.parametrize("guaranteed", [0, 1, 10, 60])
def test_the_first_of_a_source_are_in_as_guaranteed(guaranteed: int) -> None:
    found = blend(lonely_beside_two_that_agree(), limit=120, guaranteed={"lonely": guaranteed})[1]
    kept = [key for key in found.keys.tolist() if key >= 900]
    assert kept == list(range(900, 900 + min(50, guaranteed)))
    assert len(found) == 120


def test_guarantees_never_take_more_than_half_and_shrink_alike() -> None:
    sources = [*lonely_beside_two_that_agree(), a_source("other", [*range(800, 850)])]
    _, found = blend(sources, limit=60, guaranteed={"lonely": 50, "other": 25})
    keys = np.array(found.keys.tolist())
    assert len(found) == 60
    assert np.count_nonzero(keys >= 900) == 20
    assert np.count_nonzero((keys >= 800) & (keys < 900)) == 10


def test_a_guarantee_that_a_source_cannot_use_is_free_for_the_others() -> None:
    sources = [*lonely_beside_two_that_agree(), a_source("short", [800])]
    _, found = blend(sources, limit=60, guaranteed={"lonely": 20, "short": 500, "absent": 500})
    assert np.count_nonzero(found.keys >= 900) == 20
    assert 800 in found.keys.tolist()


def test_candidates_keep_every_sources_score_and_rank_when_the_limit_cuts() -> None:
    rng = np.random.default_rng(0)
    sources = [a_source(name, rng.permutation(80)[:50].tolist()) for name in "abcd"]
    _, found = blend(sources, limit=30, guaranteed={"b": 5})
    for bit, one in enumerate(sources):
        rank_of = {key: rank for rank, key in enumerate(one.keys.tolist())}
        for row, key in enumerate(found.keys.tolist()):
            rank = rank_of.get(key, -1)
            assert found.ranks[bit, row] == rank
            assert bool(found.sources[row] >> bit & 1) == (rank >= 0)
            score = found.scores[bit, row]
            assert score == one.scores[rank] if rank >= 0 else np.isnan(score)


def test_the_order_of_the_sources_changes_bits_but_not_the_result() -> None:
    a, b = a_source("a", [5, 1, 9]), a_source("b", [9, 2])
    _, one = blend([a, b], limit=10, guaranteed={})
    _, other = blend([b, a], limit=10, guaranteed={})
    assert one.keys.tolist() == other.keys.tolist()
    assert one.source_names == tuple(reversed(other.source_names))


@pytest.mark.parametrize("apart", [1, 2**17, 2**40])
def test_keys_that_are_alike_in_their_last_bits_are_told_apart(apart: int) -> None:
    first = [key * apart for key in range(1, 80)]
    second = [key * apart for key in range(40, 120)]
    united, found = blend([a_source("a", first), a_source("b", second)], 500, {})
    assert united == 119
    assert sorted(found.keys.tolist()) == sorted({*first, *second})
    both = found.keys[found.sources == 3]
    assert sorted(both.tolist()) == sorted({*first} & {*second})
    np.testing.assert_array_equal((found.ranks >= 0).sum(axis=0) == 2, found.sources == 3)


@pytest.mark.parametrize(
    "sources", [[], [a_source("a", [])], [a_source("a", []), a_source("b", [])]]
)
def test_no_proposals_make_no_candidates(sources: list[SourceCandidates]) -> None:
    united, found = blend(sources, limit=10, guaranteed={})
    assert united == len(found) == 0
    assert found.scores.shape == (len(sources), 0)
