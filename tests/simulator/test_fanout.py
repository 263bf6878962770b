from __future__ import annotations

import numpy as np
import pytest

from simulator.fanout import Hedging, Observed, Plant, simulate


def observed(*shard_ms: float, client_ms: float = 0.0) -> Observed:
    return Observed(shard_ms=np.array(shard_ms, float), client_ms=client_ms)


def test_a_single_queue_waits_as_long_as_the_theory_says() -> None:
    work = np.random.default_rng(1).exponential(1.0, 100_000)
    seen = Observed(shard_ms=work, client_ms=0.0)
    outcome = simulate(Plant(shards=1), seen, rps=500, requests=60_000)
    # M/M/1 at half load: 1 / (1 - 0.5) ms on average, and the 99th percentile is ln(100) of those.
    assert outcome.latency_ms.mean() == pytest.approx(2.0, rel=0.05)
    assert outcome.percentile(99) == pytest.approx(2.0 * np.log(100), rel=0.1)
    assert outcome.busy == pytest.approx(0.5, rel=0.03)


def test_idle_shards_answer_as_the_slowest_of_them_does() -> None:
    work = np.random.default_rng(2).uniform(0, 1, 100_000)
    seen = Observed(shard_ms=work, client_ms=0.0)
    outcome = simulate(Plant(shards=100), seen, rps=0.001, requests=4000)
    # The largest of 100 uniform numbers is below x with probability x^100.
    assert outcome.percentile(50) == pytest.approx(0.5 ** (1 / 100), abs=0.001)


def test_calls_are_sent_one_after_the_other() -> None:
    seen = observed(2.0, client_ms=0.5)
    direct = simulate(Plant(shards=100), seen, rps=0.001, requests=20)
    # The last is on its way after 100 x 0.25 ms, but all answers take 100 x 0.5 ms to read.
    assert direct.percentile(50) == pytest.approx(50.0)
    tree = simulate(Plant(shards=100, fan_out=10), seen, rps=0.001, requests=20)
    assert tree.percentile(50) == pytest.approx(2.5 + 2.5 + 2.0 + 0.25)


def test_shards_of_a_host_share_its_cores() -> None:
    plant = Plant(shards=8, shards_per_host=8, cores_per_host=2)
    outcome = simulate(plant, observed(1.0), rps=0.001, requests=20)
    assert outcome.percentile(50) == pytest.approx(4.0)


def test_whoever_asks_takes_the_cores_of_the_shards_where_they_share_them() -> None:
    plant = Plant(shards=8, shards_per_host=8, cores_per_host=2, asker_on_host=True)
    outcome = simulate(plant, observed(1.0, client_ms=0.5), rps=0.001, requests=20)
    assert outcome.percentile(50) == pytest.approx(6.0)


def test_hedging_cuts_the_tail_and_keeps_to_its_budget() -> None:
    work = np.ones(1000)
    work[:5] = 50.0  # one call in 200 stalls
    seen = Observed(shard_ms=work, client_ms=0.0)
    plant = Plant(shards=50, replicas=2)
    plain = simulate(plant, seen, rps=50, requests=4000)
    hedged = simulate(plant, seen, rps=50, requests=4000, hedging=Hedging(delay_ms=3.0))
    assert plain.percentile(99) >= 50
    assert hedged.percentile(90) < 10
    assert 0 < hedged.hedged <= 0.05
    frugal = simulate(
        plant, seen, rps=50, requests=4000, hedging=Hedging(delay_ms=3.0, budget=0.001)
    )
    assert frugal.hedged <= 0.001
    assert frugal.percentile(90) > hedged.percentile(90)


def test_longer_searches_leave_what_makes_calls_slow_as_it_is() -> None:
    seen = observed(1.0, 50.0)
    assert seen.longer_by(2.0).shard_ms.tolist() == [3.0, 52.0]
    assert seen.scaled(2.0).shard_ms.tolist() == [2.0, 100.0]


def test_the_same_seed_gives_the_same_answer() -> None:
    plant, seen = Plant(shards=10, replicas=2), observed(1.0, 2.0, 3.0)
    first, second = (
        simulate(plant, seen, rps=100, requests=200, hedging=Hedging(delay_ms=2.0), seed=3)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.latency_ms, second.latency_ms)


def test_what_cannot_be_hedged_is_refused() -> None:
    with pytest.raises(ValueError, match="replicas"):
        simulate(Plant(shards=2), observed(1.0), rps=1, requests=1, hedging=Hedging(delay_ms=1.0))
    with pytest.raises(ValueError, match="fill"):
        Plant(shards=3, shards_per_host=2)
