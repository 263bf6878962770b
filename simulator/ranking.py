"""Popularity over any number of things, without a table of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from simulator.arrays import Bits, Floats, Indices
from simulator.counters import mix64, stream_key

_ROUNDS = 4


class IndexPermutation:
    """A pseudo-random permutation of [0, size) and its inverse, in constant memory.

    A Feistel network over the smallest square grid that holds the range, walking the cycle of a
    value until it falls inside (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA
    2002).
    """

    def __init__(self, size: int, seed: int, stream: str) -> None:
        self.size = size
        self._side = np.uint64(math.isqrt(size - 1) + 1)
        self._keys = [np.uint64(stream_key(seed, f"{stream}/{i}")) for i in range(_ROUNDS)]

    def forward(self, index: Indices) -> Indices:
        """int64[n] in [0, size) -> int64[n] in [0, size)."""
        return self._walk(index, self._encrypt)

    def inverse(self, position: Indices) -> Indices:
        """The index that `forward` maps to `position`."""
        return self._walk(position, self._decrypt)

    def _walk(self, start: Indices, step: Callable[[Bits], Bits]) -> Indices:
        values = step(start.astype(np.uint64))
        outside = values >= self.size
        while outside.any():
            values[outside] = step(values[outside])
            outside = values >= self.size
        return values.astype(np.int64)

    def _encrypt(self, values: Bits) -> Bits:
        left, right = values // self._side, values % self._side
        for key in self._keys:
            left, right = right, (left + mix64(right + key) % self._side) % self._side
        return left * self._side + right

    def _decrypt(self, values: Bits) -> Bits:
        left, right = values // self._side, values % self._side
        for key in reversed(self._keys):
            shift = mix64(left + key) % self._side
            left, right = (right + self._side - shift) % self._side, left
        return left * self._side + right


class ZipfRanking:
    """Ranks [0, size) at random; rank r weighs ((r + 1/2) / size + head) ** -exponent.

    This is the law of Zipf and Mandelbrot; `head` flattens the top: the most popular thing weighs
    as much as if a share `head` of all things stood above it. `exponent` is in [0, 1). Sampling
    inverts the law's integral, so it needs no table (exact up to the rounding of a rank).
    """

    def __init__(self, size: int, *, exponent: float, head: float, seed: int, stream: str) -> None:
        self._permutation = IndexPermutation(size, seed, stream)
        self._size = size
        self._power = 1.0 - exponent
        self._head = head

    def quantile(self, index: Indices) -> Floats:
        """float64[n] in (0, 1): near 0 for the highest ranked."""
        return (self._permutation.forward(index) + 0.5) / self._size

    def log_standing(self, index: Indices) -> Floats:
        """float64[n]: -log(quantile + head) - 1, about exponential with mean 0 and deviation 1."""
        return -np.log(self.quantile(index) + self._head) - 1.0

    def sample(self, rng: np.random.Generator, shape: int | tuple[int, ...]) -> Indices:
        """int64[shape] indices, drawn with replacement in proportion to their weight."""
        low, high = self._head**self._power, (1.0 + self._head) ** self._power
        quantiles = (low + rng.random(shape) * (high - low)) ** (1.0 / self._power) - self._head
        ranks = np.clip(quantiles * self._size, 0, self._size - 1).astype(np.int64)
        return self._permutation.inverse(ranks.ravel()).reshape(ranks.shape)
