from __future__ import annotations

import numpy as np
import pytest

from shortlist.errors import InvalidField
from shortlist.ids import (
    KeyCollision,
    check_collisions,
    key_of,
    keys_of,
    shard_of,
    shard_quota,
)


def test_keys_never_change() -> None:
    # Artifacts hold these numbers: another value here makes every published artifact unreadable.
    assert key_of("0002844") == 16545164172694134349
    assert key_of("Fantômas") == 17865012439693329181


def test_keys_of_many_are_the_keys_of_each() -> None:
    ids = ["a", "b", "Fantômas", "0002844"]
    keys = keys_of(ids)
    assert keys.dtype == np.uint64
    assert keys.tolist() == [key_of(id) for id in ids]
    assert len(keys_of([])) == 0


def test_leading_zeros_make_another_key() -> None:
    assert key_of("0002844") != key_of("2844")


def test_the_empty_id_is_refused() -> None:
    with pytest.raises(InvalidField, match="empty"):
        key_of("")
    with pytest.raises(InvalidField, match="empty"):
        keys_of(["a", ""])


@pytest.mark.parametrize("keys", [keys_of(map(str, range(20_000))), np.arange(20_000)])
def test_every_shard_gets_its_share(keys: np.ndarray) -> None:
    shards = shard_of(keys, 7)
    assert shards.dtype == np.int32
    counts = np.bincount(shards, minlength=7)
    assert counts.min() > 0.9 * 20_000 / 7
    assert counts.max() < 1.1 * 20_000 / 7


def test_a_shard_depends_on_the_key_alone() -> None:
    keys = keys_of(["a", "b", "c"])
    assert shard_of(keys, 5)[1] == shard_of(keys[1:2], 5)[0]
    assert (shard_of(keys, 1) == 0).all()


def test_no_shards_are_refused() -> None:
    with pytest.raises(InvalidField, match="shards"):
        shard_of(keys_of(["a"]), 0)


@pytest.mark.parametrize("shards", [2, 3, 8, 100])
@pytest.mark.parametrize("k", [20, 300, 1000])
def test_the_best_of_all_are_among_what_the_shards_offer(k: int, shards: int) -> None:
    quota = shard_quota(k, shards)
    rng = np.random.default_rng(k + shards)
    for _ in range(1000):  # any k items are the best for somebody
        best = rng.integers(0, 2**63, k, dtype=np.uint64)
        assert np.bincount(shard_of(best, shards)).max() <= quota


def test_shards_offer_little_more_than_their_share() -> None:
    assert shard_quota(1000, 1) == 1000
    assert shard_quota(5, 100) == 5
    assert 500 < shard_quota(1000, 2) < 600
    assert shard_quota(1000, 100) < 30


def test_a_collision_names_both_ids() -> None:
    keys = np.array([7, 9, 7], dtype=np.uint64)
    with pytest.raises(KeyCollision, match=r"'a'.*'c'") as refused:
        check_collisions(["a", "b", "c"], keys)
    assert (refused.value.first, refused.value.second) == ("a", "c")


def test_the_same_id_twice_is_no_collision() -> None:
    check_collisions(["a", "b", "a"], keys_of(["a", "b", "a"]))
