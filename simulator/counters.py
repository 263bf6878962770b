"""Random numbers that are addressed instead of drawn.

`RandomField(seed, "item price").uniform(index)` is the same number whenever, in whatever order and
beside whatever other indices it is asked for. This is what lets a world of ten million items be
used without being kept: every quantity of an item or a user is a function of the seed and its
index.

The generator is counter-based in the sense of Salmon et al., "Parallel random numbers: as easy as
1, 2, 3" (SC 2011), with the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014) as the mixing function. Philox would need a whole
block for one scattered item; this costs a few nanoseconds a number.
"""

from __future__ import annotations

import hashlib

import numpy as np

from simulator.arrays import Bits, Floats, Indices, Vectors

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_LANES_PER_WORD = 4  # 16-bit numbers in one 64-bit word


def mix64(words: Bits) -> Bits:
    """SplitMix64's finaliser: a bijection of 64-bit words that spreads every bit of the input."""
    mixed = words ^ (words >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def stream_key(seed: int, stream: str) -> int:
    """The 64-bit key of a named stream: streams of one seed are independent of each other."""
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class RandomField:
    """One named stream of numbers, addressed by an `index` (int64[n]) and a small `lane`."""

    def __init__(self, seed: int, stream: str) -> None:
        self._key = stream_key(seed, stream)

    def bits(self, index: Indices, lane: int = 0) -> Bits:
        """uint64[n], uniform."""
        offset = np.uint64((self._key + lane * _GOLDEN) & _MASK)
        scrambled = mix64(index.astype(np.uint64) * np.uint64(_GOLDEN) + offset)
        return mix64(scrambled ^ np.uint64(self._key))

    def uniform(self, index: Indices, lane: int = 0) -> Floats:
        """float64[n] in [0, 1)."""
        return (self.bits(index, lane) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, bound: int, index: Indices, lane: int = 0) -> Indices:
        """int64[n] in [0, bound)."""
        return (self.uniform(index, lane) * bound).astype(np.int64)

    def vectors(self, index: Indices, dims: int) -> Vectors:
        """float32[n, dims], uniform around zero; the squared norm of a row is one on average."""
        words = -(-dims // _LANES_PER_WORD)
        columns = np.stack([self.bits(index, lane) for lane in range(words)], axis=1)
        lanes = columns.view(np.uint16)[:, :dims].astype(np.float32)
        scale = np.float32(np.sqrt(12.0 / dims))
        return (lanes * np.float32(2.0**-16) - np.float32(0.5)) * scale


def unit_rows(vectors: Vectors) -> Vectors:
    """The rows of float32[n, dims], each scaled to length one."""
    # Not a matrix product: BLAS may round a row differently in another batch.
    norms = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    return vectors / np.maximum(norms, np.float32(1e-12))


def weighted_choice(weights: Floats, uniform: Floats) -> Indices:
    """int64[n]: the index into `weights` (float64[k]) that each `uniform` (in [0, 1)) selects."""
    edges = np.cumsum(weights)
    return np.searchsorted(edges[:-1] / edges[-1], uniform, side="right").astype(np.int64)
