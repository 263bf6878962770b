"""What the logging system showed: the policy whose pages the event log records.

A page mixes popular, recent, random and personalised items, like the traffic of a running product:
popular items are shown more than they deserve, good new ones are missed, and the order of a page
follows an estimate that is wrong by some noise. All of it is drawn from samples of candidates, so
the cost of a page does not depend on the size of the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import Bits, Floats, Indices, Mask
from simulator.catalogue import Catalogue
from simulator.clicks import ClickModel
from simulator.config import MS_PER_DAY, ExposureMix
from simulator.counters import RandomField, mix64
from simulator.population import Viewers

_BITS_PER_PAIR = 32
_PROBES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Pages:
    """The impressions of some pages, page by page and from the top; arrays are aligned."""

    row: Indices  # [n]: whose page, as a row of the viewers
    item: Indices  # [n]
    position: Indices  # [n], 0 is the top
    appeal: Floats  # [n], logits of the click model
    affinity: Floats  # [n]
    quality: Floats  # [n]


class ConsumedPairs:
    """Which user has consumed which item, in bounded memory.

    A Bloom filter: a pair that was never added is taken for consumed in at most 0.4 % of cases.
    """

    def __init__(self, expected_pairs: int, seed: int) -> None:
        bits = max(16, (expected_pairs * _BITS_PER_PAIR - 1).bit_length())
        self._shift = np.uint64(64 - bits)
        self._bytes = np.zeros(2 ** (bits - 3), dtype=np.uint8)
        self._field = RandomField(seed, "consumed pairs")

    def add(self, users: Indices, items: Indices) -> None:
        for where in self._probes(users, items):
            byte, mask = where >> np.uint64(3), _bit_of(where)
            np.bitwise_or.at(self._bytes, byte, mask)

    def contains(self, users: Indices, items: Indices) -> Mask:
        """bool[n]: True for every added pair, and seldom for another."""
        found = np.ones(len(users), dtype=np.bool_)
        for where in self._probes(users, items):
            found &= (self._bytes[where >> np.uint64(3)] & _bit_of(where)) != 0
        return found

    def _probes(self, users: Indices, items: Indices) -> list[Bits]:
        pair = self._field.bits(users) ^ mix64(items.astype(np.uint64))
        return [mix64(pair + np.uint64(probe)) >> self._shift for probe in range(_PROBES)]


class LoggingPolicy:
    """Composes pages for viewers. See `ExposureMix` for the proportions."""

    def __init__(self, mix: ExposureMix, catalogue: Catalogue, clicks: ClickModel) -> None:
        self._mix = mix
        self._catalogue = catalogue
        self._clicks = clicks

    def pages(
        self,
        rng: np.random.Generator,
        users: Indices,
        viewers: Viewers,
        consumed: ConsumedPairs,
    ) -> Pages:
        """One page for each of the users int64[n], who are the rows of `viewers`.

        A page may have fewer items than slots.
        """
        candidates = self._candidates(rng, viewers)  # [n, candidates]
        count, width = candidates.shape
        rows = np.repeat(np.arange(count), width)
        flat = candidates.ravel()
        items = self._catalogue.items(flat)
        appeal = self._clicks.appeal(viewers, rows, items)
        usable = np.isfinite(appeal) & ~consumed.contains(users[rows], flat)
        usable &= ~_repeats_in_row(candidates).ravel()
        noise = rng.normal(0.0, self._mix.estimate_noise, len(flat))
        estimate = np.where(usable, appeal + noise, -np.inf).reshape(count, width)
        shown, position = self._arrange(estimate)
        return Pages(
            row=rows[shown],
            item=flat[shown],
            position=position,
            appeal=appeal[shown],
            affinity=self._clicks.affinity(viewers, rows[shown], items.take(shown)),
            quality=items.quality[shown],
        )

    def _candidates(self, rng: np.random.Generator, viewers: Viewers) -> Indices:
        """int64[n, candidates]: popular, recent, random, of favourite creators; in this order."""
        mix, count = self._mix, len(viewers.time_ms)
        published = self._catalogue.published_by(viewers.time_ms)[:, None]
        before = viewers.time_ms - int(mix.recent_days * MS_PER_DAY)
        recently = self._catalogue.published_by(before)[:, None]
        favourites = viewers.favourite_creators
        picked = rng.integers(favourites.shape[1], size=(count, mix.creator_candidates))
        creators = np.take_along_axis(favourites, picked, axis=1)
        return np.concatenate(
            [
                self._catalogue.sample_popular(rng, (count, mix.popular_candidates)),
                _integers(rng, recently, published, mix.recent_candidates),
                _integers(rng, np.zeros_like(published), published, mix.random_candidates),
                self._catalogue.sample_of_creators(rng, creators.ravel()).reshape(creators.shape),
            ],
            axis=1,
        )

    def _arrange(self, estimate: Floats) -> tuple[Indices, Indices]:
        """What is shown, page by page from the top, and at which position.

        `estimate` is float64[n, candidates]; the first result indexes its flat form.
        """
        chosen = self._given_slots(np.isfinite(estimate))
        rest = np.where(chosen, -np.inf, estimate)
        best = np.argsort(-rest, axis=1, kind="stable")[:, : self._mix.personalised_slots]
        np.put_along_axis(chosen, best, True, axis=1)
        on_page = np.where(chosen, estimate, -np.inf)
        order = np.argsort(-on_page, axis=1, kind="stable")[:, : self._mix.page_size]
        shown = np.isfinite(np.take_along_axis(on_page, order, axis=1))
        row, position = np.nonzero(shown)
        return row * estimate.shape[1] + order[row, position], position

    def _given_slots(self, usable: Mask) -> Mask:
        """The first usable candidates of each kind that has slots of its own."""
        mix = self._mix
        chosen = np.zeros_like(usable)
        start = 0
        for candidates, slots in (
            (mix.popular_candidates, mix.popular_slots),
            (mix.recent_candidates, mix.recent_slots),
            (mix.random_candidates, mix.random_slots),
        ):
            part = usable[:, start : start + candidates]
            chosen[:, start : start + candidates] = part & (part.cumsum(axis=1) <= slots)
            start += candidates
        return chosen


def _bit_of(where: Bits) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.left_shift(np.uint8(1), (where & np.uint64(7)).astype(np.uint8))


def _integers(rng: np.random.Generator, low: Indices, high: Indices, width: int) -> Indices:
    """int64[n, width] in [low, high), both int64[n, 1]; where that is empty, `high - 1`."""
    span = np.maximum(high - low, 1)
    drawn = low + (rng.random((len(low), width)) * span).astype(np.int64)
    return np.clip(drawn, 0, np.maximum(high - 1, 0))


def _repeats_in_row(values: Indices) -> Mask:
    """bool[n, width]: True where a value stands further left in its row already."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    repeats = np.zeros(values.shape, dtype=np.bool_)
    repeats[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    marked = np.empty_like(repeats)
    np.put_along_axis(marked, order, repeats, axis=1)
    return marked
