"""Strings outside, `uint64` keys inside: the one function from id to key, and from key to shard.

The trainer, the shards, the orchestrator and the tests all call these functions, so they never
disagree about where an item lives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from shortlist.errors import InvalidField, ShortlistError

__all__ = ["KeyCollision", "check_collisions", "key_of", "keys_of", "shard_of", "shard_quota"]

Keys = npt.NDArray[np.uint64]

_KEY_BYTES = 8
# How many more of the best a shard may have than its share: 5 standard deviations, and 3 for where
# the distribution is too skew for that to mean much. One query in a million misses an item.
_DEVIATIONS = 5.0
_SKEW = 3


class KeyCollision(ShortlistError):
    """Two different ids hash to the same key; one of them has to be renamed."""

    status_name = "INVALID_ARGUMENT"

    def __init__(self, first: str, second: str, key: int) -> None:
        self.first, self.second, self.key = first, second, key
        super().__init__(
            f"ids {first!r} and {second!r} have the same key {key}; rename one of them"
        )


def key_of(id: str) -> int:
    """The key of one id: 64 bits of BLAKE2b over its UTF-8 bytes, stable for ever.

    Raises `InvalidField` for the empty id.
    """
    return int.from_bytes(_digest(id), "little")


def keys_of(ids: Iterable[str]) -> Keys:
    """`key_of` for many ids: uint64 [n], in the order of `ids`."""
    return np.frombuffer(b"".join(map(_digest, ids)), dtype="<u8").astype(np.uint64, copy=False)


def shard_of(keys: Keys, shards: int) -> npt.NDArray[np.int32]:
    """The shard that owns each key: int32 [n] in 0 .. shards - 1, by key and shards alone."""
    if shards < 1:
        raise InvalidField("shards", f"must be at least 1, got {shards}")
    return (_mix(np.asarray(keys, dtype=np.uint64)) % np.uint64(shards)).astype(np.int32)


def shard_quota(k: int, shards: int) -> int:
    """How many of its best items each shard has to offer so that the best `k` of all are found.

    Where an item is has nothing to do with how good it is, so of the best k a shard has as many as
    k coins show that fall on one of `shards` sides: k / shards on average, and hardly ever many
    more. Two shards offer 583 each for the best 1000, a hundred shards 29.
    """
    share = 1 / shards
    deviation = math.sqrt(k * share * (1 - share))
    return min(k, math.ceil(k * share + _DEVIATIONS * deviation) + _SKEW)


def check_collisions(ids: Sequence[str], keys: Keys) -> None:
    """Raise `KeyCollision` when two different ids share a key. `ids` and `keys` are aligned."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    for at in np.flatnonzero(ordered[1:] == ordered[:-1]):
        first, second = ids[order[at]], ids[order[at + 1]]
        if first != second:
            raise KeyCollision(first, second, int(ordered[at]))


def _digest(id: str) -> bytes:
    if not id:
        raise InvalidField("id", "is empty")
    return blake2b(id.encode(), digest_size=_KEY_BYTES).digest()


def _mix(keys: Keys) -> Keys:
    """The splitmix64 finaliser: neighbouring keys land on unrelated shards.

    Keys made by `key_of` are mixed already; keys that a caller brings along may be 0, 1, 2, ...
    """
    mixed = keys ^ (keys >> np.uint64(30))
    mixed = mixed * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
