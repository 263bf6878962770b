from __future__ import annotations

import numpy as np

from simulator.counters import RandomField, unit_rows, weighted_choice


def test_a_number_does_not_depend_on_the_numbers_asked_for_beside_it():
    field = RandomField(7, "a stream")
    together = field.uniform(np.arange(1_000))
    backwards = field.uniform(np.arange(999, -1, -1))
    alone = [field.uniform(np.array([i]))[0] for i in range(0, 1_000, 97)]
    assert (together == backwards[::-1]).all()
    assert (together[::97] == alone).all()


def test_streams_seeds_and_lanes_are_unrelated():
    index = np.arange(20_000)
    base = RandomField(7, "a stream").uniform(index)
    others = [
        RandomField(7, "a stream").uniform(index, lane=1),
        RandomField(7, "another").uniform(index),
        RandomField(8, "a stream").uniform(index),
        RandomField(7, "a stream").uniform(index + 1),
    ]
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.03


def test_uniform_numbers_fill_the_interval_evenly():
    numbers = RandomField(7, "a stream").uniform(np.arange(100_000))
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert (abs(counts - 5_000) < 350).all()  # five standard deviations


def test_vectors_are_centred_and_of_expected_length_one():
    vectors = RandomField(7, "vectors").vectors(np.arange(20_000), 10)
    assert vectors.shape == (20_000, 10)
    assert vectors.dtype == np.float32
    assert abs(vectors.mean(axis=0)).max() < 0.01
    assert abs((vectors**2).sum(axis=1).mean() - 1) < 0.01


def test_unit_rows_have_length_one_and_leave_a_zero_row_finite():
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


def test_weighted_choice_follows_the_weights_and_never_leaves_them():
    uniform = np.array([0.0, 0.249, 0.25, 0.999_999, np.nextafter(1.0, 0.0)])
    assert weighted_choice(np.array([1.0, 2.0, 1.0]), uniform).tolist() == [0, 0, 1, 2, 2]
    assert weighted_choice(np.array([0.1] * 10), uniform).max() == 9
    assert weighted_choice(np.array([5.0]), uniform).tolist() == [0] * 5
