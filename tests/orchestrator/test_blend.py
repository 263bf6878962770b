from __future__ import annotations

import numpy as np
import pytest

from orchestrator.blend import blend, fused_scores
from shortlist.tiers import SourceCandidates


def a_source(name: str, keys: list[int]) -> SourceCandidates:
    return SourceCandidates(
        source=name,
        keys=np.array(keys, np.uint64),
        scores=np.linspace(1, 0.5, len(keys), dtype=np.float32),
    )


def test_an_item_of_two_sources_comes_once_with_both() -> None:
    united, found = blend([a_source("a", [1, 2, 3]), a_source("b", [3, 4])], limit=10)
    assert united == len(found) == 4
    assert found.keys.tolist() == [3, 1, 2, 4]  # 3: ranks 2 and 0; then 1/61, 1/62, 1/62
    row = found.keys.tolist().index(3)
    assert found.sources[row] == 0b11
    assert found.ranks[:, row].tolist() == [2, 0]
    assert found.scores[:, row].tolist() == [0.5, 1.0]


def test_what_a_source_did_not_propose_has_no_score_and_no_rank() -> None:
    _, found = blend([a_source("a", [1]), a_source("b", [2])], limit=10)
    row = found.keys.tolist().index(2)
    assert np.isnan(found.scores[0, row])
    assert found.ranks[0, row] == -1
    assert found.sources[row] == 0b10


def test_the_order_is_reciprocal_rank_fusion() -> None:
    _, found = blend([a_source("a", list(range(1, 60))), a_source("b", [50, 1, 7])], limit=100)
    expected: dict[int, float] = {}
    for source in ([*range(1, 60)], [50, 1, 7]):
        for rank, key in enumerate(source, start=1):
            expected[key] = expected.get(key, 0) + 1 / (60 + rank)
    assert found.keys.tolist() == sorted(expected, key=lambda key: (-expected[key], key))
    np.testing.assert_allclose(
        fused_scores(found.ranks), sorted(expected.values(), reverse=True), rtol=1e-6
    )


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_below_the_limit_and_the_limit_holds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sources = [
        a_source(name, rng.permutation(400)[: rng.integers(1, 300)].tolist()) for name in "abc"
    ]
    everything = set(np.concatenate([one.keys for one in sources]).tolist())
    united, found = blend(sources, limit=1000)
    assert set(found.keys.tolist()) == everything
    assert united == len(everything)
    _, cut = blend(sources, limit=50)
    assert len(cut) == 50
    assert len(set(cut.keys.tolist())) == 50
    fused = fused_scores(cut.ranks)
    assert (fused[:-1] >= fused[1:]).all()


def test_every_source_keeps_its_guaranteed_share() -> None:
    # `a` and `b` agree on everything, so their items beat every item of `lonely`.
    agreed = list(range(1, 200))
    sources = [a_source("a", agreed), a_source("b", agreed), a_source("lonely", [*range(900, 950)])]
    _, found = blend(sources, limit=120)
    kept = [key for key in found.keys.tolist() if key >= 900]
    assert kept[:10] == list(range(900, 910))  # 120 / (4 * 3)


def test_the_order_of_the_sources_changes_bits_but_not_the_result() -> None:
    a, b = a_source("a", [5, 1, 9]), a_source("b", [9, 2])
    _, one = blend([a, b], limit=10)
    _, other = blend([b, a], limit=10)
    assert one.keys.tolist() == other.keys.tolist()
    assert one.source_names == tuple(reversed(other.source_names))


@pytest.mark.parametrize(
    "sources", [[], [a_source("a", [])], [a_source("a", []), a_source("b", [])]]
)
def test_no_proposals_make_no_candidates(sources: list[SourceCandidates]) -> None:
    united, found = blend(sources, limit=10)
    assert united == len(found) == 0
    assert found.scores.shape == (len(sources), 0)
