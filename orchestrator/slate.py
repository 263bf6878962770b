"""Makes the page of the ranked candidates: varied by MMR, within caps, full if at all possible.

MMR is maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998): each place goes to the item
with the best `(1 - strength) * relevance - strength * similarity to the nearest item chosen`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from orchestrator.cards import Describe, without_cards
from orchestrator.filters import contains
from orchestrator.stages import Counts, Draft
from shortlist.page import Degradation, DegradationReason
from shortlist.tiers import Floats, ItemCards

__all__ = ["Slate", "choose", "take_cards"]


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
) -> list[int]:
    """Rows of `cards`, at most `size`, in page order.

    `relevance` is float32 [n], descending and aligned with the cards. No more than `caps[feature]`
    chosen items share a value of that feature.
    """
    total = len(relevance)
    gain = (1.0 - strength) * _scaled(relevance)
    similarity = cards.vectors @ cards.vectors.T if strength else None
    nearest = np.full(total, -1.0, np.float32)  # cosine to the nearest chosen item
    open_rows = np.ones(total, np.bool_)
    capped = _CappedValues(cards, caps)
    chosen: list[int] = []
    while len(chosen) < size and open_rows.any():
        worth = gain - strength * nearest if chosen else gain
        row = int(np.argmax(np.where(open_rows, worth, -np.inf)))  # ties go to the better ranked
        chosen.append(row)
        open_rows[row] = False
        open_rows[capped.closed_by(row)] = False
        if similarity is not None:
            np.maximum(nearest, similarity[row], out=nearest)
    return chosen


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


def _scaled(relevance: Floats) -> Floats:
    """To 0 .. 1, so that a strength means the same for every ranker."""
    if not len(relevance):
        return relevance
    low, high = relevance.min(), relevance.max()
    return (relevance - low) / (high - low) if high > low else np.zeros_like(relevance)


def _choose(draft: Draft) -> list[int]:
    if draft.cards is None:
        return []
    return choose(
        draft.scores[_carded(draft, draft.cards)],
        draft.cards,
        draft.ask.page_size,
        strength=draft.ask.diversity,
        caps=draft.ask.caps,
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
