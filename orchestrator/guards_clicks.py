"""Is a canary clicked less? A test that may be looked at after every page.

It is the mixture sequential probability ratio test (Robbins, Ann. Math. Statist. 1970; for online
experiments Johari, Pekelis & Walsh, "Always valid inference", Operations Research 2022, section 4):
the likelihood of the difference seen, averaged over the differences that would matter, against its
likelihood without a difference. That ratio is at least 1 / alpha with a chance of at most alpha,
however often it is looked at. Two things differ from the textbook.

- Only a worse canary is of interest, so the mixture is the half of a normal distribution that lies
  there.
- Users are drawn, not pages, and the pages of a user are alike: somebody who clicks a lot does so
  again and again. Users are therefore counted in groups, by a hash, and the variance is the one
  between groups (a ratio of sums, linearised: Deng, Knoblich & Lu, KDD 2018). It is estimated, so
  the guarantee is asymptotic: the first pages are not judged. `tests/orchestrator/test_guards.py`
  holds it in a world where users differ a lot.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["ClickTest"]

Floats = npt.NDArray[np.float64]

_GROUPS = 1024  # of users; 16 kB a side
_SIDES = {True: 0, False: 1}  # canary, others
_TYPICAL = 0.15  # standard deviation of the differences that would matter, as a share of the rate
_LEAST_CLICKS = 50  # of either side; with fewer, rates are no normal variables yet
_LEAST_GROUPS = 50  # of either side that have pages
_REMEMBERED = 1 << 14  # clicks; one that comes again so soon is not counted again


class ClickTest:
    """Clicks per page of a canary's users against those of the others."""

    def __init__(self) -> None:
        self._pages = np.zeros((2, _GROUPS))
        self._clicks = np.zeros((2, _GROUPS))
        self._counted = np.zeros(_REMEMBERED, np.uint64)

    def show(self, user: int, *, canary: bool) -> None:
        """A page of that user (a hash, uint64)."""
        self._pages[_SIDES[canary], user % _GROUPS] += 1

    def click(self, user: int, item: int, *, canary: bool) -> bool:
        """A click of that user; `item` (a hash, uint64) stands for the item on that page. False for
        one that was counted before."""
        slot = item % _REMEMBERED
        if self._counted[slot] == item:
            return False
        self._counted[slot] = item
        self._clicks[_SIDES[canary], user % _GROUPS] += 1
        return True

    def pages(self, *, canary: bool) -> int:
        return int(self._pages[_SIDES[canary]].sum())

    def clicks(self, *, canary: bool) -> int:
        return int(self._clicks[_SIDES[canary]].sum())

    def rate(self, *, canary: bool) -> float:
        """Clicks per page."""
        return self.clicks(canary=canary) / max(1, self.pages(canary=canary))

    def evidence(self) -> float:
        """How many times likelier what was seen is with a worse canary than without; 0 while there
        is too little to tell. A chance of alpha that it ever reaches 1 / alpha for no reason."""
        pages, clicks = self._pages.sum(axis=1), self._clicks.sum(axis=1)
        groups = np.count_nonzero(self._pages, axis=1)
        # Clicks of a canary that gets none still have to be missed: count what it should have.
        expected = pages * (clicks.sum() / max(1.0, pages.sum()))
        if groups.min() < _LEAST_GROUPS or expected.min() < _LEAST_CLICKS:
            return 0.0
        rate = float(clicks.sum() / pages.sum())
        loss = float(clicks[1] / pages[1] - clicks[0] / pages[0])
        variance = sum(
            _variance(self._pages[side], self._clicks[side], rate) for side in _SIDES.values()
        )
        return _mixture_ratio(loss, variance, (_TYPICAL * rate) ** 2)


def _variance(pages: Floats, clicks: Floats, rate: float) -> float:
    """Of one side's clicks per page; never less than if clicks were independent."""
    shown = pages > 0
    total, groups = pages.sum(), np.count_nonzero(shown)
    rest = (clicks - pages * (clicks.sum() / total))[shown]
    between = float((rest**2).sum()) / total**2 * groups / (groups - 1)
    return max(between, rate * max(0.1, 1.0 - rate) / total)


def _mixture_ratio(loss: float, variance: float, spread: float) -> float:
    """Density of `loss` ~ N(true loss, `variance`), the true loss averaged over the positive half
    of N(0, `spread`), as a multiple of its density with a true loss of 0."""
    both = variance + spread
    exponent = spread * loss**2 / (2.0 * variance * both)
    likelier = loss * math.sqrt(spread / (variance * both))
    weight = math.erfc(-likelier / math.sqrt(2.0))  # 2 * the normal distribution function
    return math.sqrt(variance / both) * weight * math.exp(min(700.0, exponent))
