from __future__ import annotations

import numpy as np
import pytest

from simulator.ranking import IndexPermutation, ZipfRanking


@pytest.mark.parametrize("size", [1, 2, 3, 10, 99, 100, 101, 12_345])
def test_a_permutation_reaches_every_position_once_and_inverts(size):
    permutation = IndexPermutation(size, seed=7, stream="test")
    index = np.arange(size)
    forward = permutation.forward(index)
    assert (np.sort(forward) == index).all()
    assert (permutation.inverse(forward) == index).all()


def test_a_permutation_scatters_neighbours():
    forward = IndexPermutation(10_000_000, seed=7, stream="test").forward(np.arange(1_000))
    assert abs(np.corrcoef(np.arange(1_000), forward)[0, 1]) < 0.15
    assert forward.max() > 9_000_000


def test_sampling_draws_in_proportion_to_the_weights():
    size, head, exponent = 50, 0.05, 0.8
    ranking = ZipfRanking(size, exponent=exponent, head=head, seed=7, stream="test")
    drawn = ranking.sample(np.random.default_rng(1), 200_000)
    weights = (ranking.quantile(np.arange(size)) + head) ** -exponent
    np.testing.assert_allclose(
        np.bincount(drawn, minlength=size) / len(drawn), weights / weights.sum(), rtol=0.08
    )


def test_standing_is_centred_and_has_a_long_upper_tail():
    ranking = ZipfRanking(1_000_000, exponent=0.9, head=0.002, seed=7, stream="test")
    standing = ranking.log_standing(np.arange(0, 1_000_000, 37))
    assert abs(standing.mean()) < 0.05
    assert abs(standing.std() - 1) < 0.05
    assert standing.max() > 4
    assert standing.min() > -1.1
