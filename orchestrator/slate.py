"""Makes the page of the ranked candidates: varied by MMR, within caps, full if at all possible,
and with the places that the configuration keeps for a source (`slate.minimums`).

MMR is maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998): each place goes to the item
with the best `(1 - strength) * relevance - strength * similarity to the nearest item chosen`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from orchestrator.cards import Describe, without_cards
from orchestrator.filters import contains
from orchestrator.minimums import proposed_by
from orchestrator.stages import Counts, Draft
from shortlist.page import Degradation, DegradationReason
from shortlist.tiers import Floats, ItemCards

__all__ = ["Minimum", "Slate", "choose", "take_cards"]


class Slate:
    """Cuts candidates, scores and cards down to the page, aligned and in page order."""

    name = "slate"

    def __init__(self, describe: Describe) -> None:
        self._describe = describe

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        chosen = _choose(draft)
        # Caps and missing cards bite late: fill up from the next ranked ones.
        while len(chosen) < draft.ask.page_size and draft.described < len(draft.candidates):
            draft = await self._describe.more(draft)
            chosen = _choose(draft)
        offered = len(draft.cards.keys) if draft.cards else 0
        counts = Counts(
            items_in=offered,
            items_out=len(chosen),
            dropped={"not_chosen": offered - len(chosen)},
        )
        return _cut(draft, chosen), counts


def choose(
    relevance: Floats,
    cards: ItemCards,
    size: int,
    *,
    strength: float,
    caps: Mapping[str, int],
    head: int | None = None,
    minimums: Sequence[Minimum] = (),
) -> list[int]:
    """Rows of `cards`, at most `size`, in page order.

    `relevance` is float32 [n], aligned with the cards, the better ranked first. Its first `head`
    values (None = all) set the scale, so that a few far worse rows do not weaken it. No more than
    `caps[feature]` chosen items share a value of that feature. Of each minimum's rows at least so
    many are chosen, as far as there are so many that caps allow and that fit on the page: the
    last places are kept for those that did not earn one.
    """
    gain = (1.0 - strength) * _scaled(relevance, head)
    similarity = strength * (cards.vectors @ cards.vectors.T) if strength else None
    chosen = _fill(size, gain, similarity, _CappedValues(cards, caps), _KeptPlaces(minimums))
    if unmet := _unmet(minimums, chosen):
        # What came first may have used up the caps of the rows that were needed: those go first.
        kept = _KeptPlaces(minimums, first=True)
        other = sorted(_fill(size, gain, similarity, _CappedValues(cards, caps), kept))
        return other if _unmet(minimums, other) < unmet else chosen
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimum:
    """At least `least` of `rows` (bool [n], aligned with the cards) belong on the page."""

    least: int
    rows: npt.NDArray[np.bool_]


def _fill(
    size: int,
    gain: Floats,
    similarity: Floats | None,
    capped: _CappedValues,
    kept: _KeptPlaces,
) -> list[int]:
    """Chooses row by row; `gain` and `similarity` are already weighed against each other."""
    cost = np.full(len(gain), -np.inf, np.float32)  # similarity to the nearest chosen row
    open_rows = np.ones(len(gain), np.bool_)
    chosen: list[int] = []
    while len(chosen) < size and open_rows.any():
        worth = gain if similarity is None or not chosen else gain - cost
        allowed = kept.allowed(open_rows, size - len(chosen))
        row = int(np.argmax(np.where(allowed, worth, -np.inf)))  # ties go to the better ranked
        chosen.append(row)
        kept.count(row)
        open_rows[row] = False
        open_rows[capped.closed_by(row)] = False
        if similarity is not None:
            np.maximum(cost, similarity[row], out=cost)
    return chosen


def _unmet(minimums: Sequence[Minimum], chosen: Sequence[int]) -> int:
    """How many places the minimums lack that their rows could have filled."""
    found = [int(np.count_nonzero(one.rows[list(chosen)])) for one in minimums]
    return sum(
        max(0, min(one.least, int(np.count_nonzero(one.rows))) - count)
        for one, count in zip(minimums, found, strict=True)
    )


class _KeptPlaces:
    """Says when only rows may be chosen that a minimum still needs: for the last places, or for
    the first ones."""

    def __init__(self, minimums: Sequence[Minimum], *, first: bool = False) -> None:
        self._missing = [one.least for one in minimums]
        self._rows = [one.rows for one in minimums]
        self._first = first

    def allowed(self, open_rows: npt.NDArray[np.bool_], places: int) -> npt.NDArray[np.bool_]:
        """Of the open rows those that may have the next of `places` places."""
        needed = np.zeros_like(open_rows)
        wanted = 0
        for missing, rows in zip(self._missing, self._rows, strict=True):
            candidates = open_rows & rows
            reachable = min(missing, int(np.count_nonzero(candidates)))
            if reachable > 0:
                wanted += reachable
                needed |= candidates
        return needed if wanted >= (1 if self._first else places) else open_rows

    def count(self, row: int) -> None:
        """`row` is on the page."""
        for at, rows in enumerate(self._rows):
            self._missing[at] -= int(rows[row])


class _CappedValues:
    """Counts the values of capped features over the chosen rows."""

    def __init__(self, cards: ItemCards, caps: Mapping[str, int]) -> None:
        self._left: Counter[tuple[str, str]] = Counter()
        self._rows: dict[tuple[str, str], list[int]] = {}
        self._values: list[list[tuple[str, str]]] = [[] for _ in cards.keys]
        for feature, cap in caps.items():
            for row, values in enumerate(cards.groups.get(feature, ())):
                for value in values:
                    self._left[feature, value] = cap
                    self._rows.setdefault((feature, value), []).append(row)
                    self._values[row].append((feature, value))

    def closed_by(self, row: int) -> list[int]:
        """Rows that may not be chosen any more, now that `row` is."""
        closed: list[int] = []
        for value in self._values[row]:
            self._left[value] -= 1
            if self._left[value] == 0:
                closed.extend(self._rows[value])
        return closed


def take_cards(cards: ItemCards, rows: Sequence[int]) -> ItemCards:
    """The cards of `rows`, in that order."""
    return ItemCards(
        index_version=cards.index_version,
        keys=cards.keys[list(rows)],
        ids=tuple(cards.ids[row] for row in rows),
        titles=tuple(cards.titles[row] for row in rows),
        vectors=cards.vectors[list(rows)],
        groups={
            feature: tuple(values[row] for row in rows) for feature, values in cards.groups.items()
        },
        attributes=tuple(cards.attributes[row] for row in rows),
    )


def _scaled(relevance: Floats, head: int | None) -> Floats:
    """The head to 0 .. 1, so that a strength means the same for every ranker."""
    best = relevance[:head]
    if not len(best):
        return np.zeros_like(relevance)
    low, high = best.min(), best.max()
    return (relevance - low) / (high - low) if high > low else np.zeros_like(relevance)


def _choose(draft: Draft) -> list[int]:
    if draft.cards is None:
        return []
    carded = _carded(draft, draft.cards)
    return choose(
        draft.scores[carded],
        draft.cards,
        draft.ask.page_size,
        strength=draft.ask.diversity,
        caps=draft.ask.caps,
        head=int(np.count_nonzero(carded < draft.head)),
        minimums=[
            Minimum(least=draft.ask.minimums[source], rows=proposed[carded])
            for source, proposed in proposed_by(draft.candidates, draft.ask.minimums).items()
        ],
    )


def _carded(draft: Draft, cards: ItemCards) -> npt.NDArray[np.intp]:
    """Rows of the candidates that have a card, aligned with the cards."""
    return np.flatnonzero(contains(cards.keys, draft.candidates.keys[: draft.described]))


def _cut(draft: Draft, chosen: list[int]) -> Draft:
    missing = draft.ask.page_size - len(chosen)
    if draft.cards is None:
        rows, cards = np.empty(0, np.intp), None
    else:
        rows, cards = _carded(draft, draft.cards)[chosen], take_cards(draft.cards, chosen)
    return replace(
        draft,
        candidates=draft.candidates.take(rows),
        scores=draft.scores[rows],
        cards=cards,
        more=not missing and len(draft.candidates) - without_cards(draft) > len(chosen),
        degradations=draft.degradations + ((_underfilled(missing),) if missing else ()),
    )


def _underfilled(missing: int) -> Degradation:
    return Degradation(
        reason=DegradationReason.PAGE_UNDERFILLED,
        stage="slate",
        detail=f"{missing} items fewer than asked for: no other candidate may be shown",
    )
