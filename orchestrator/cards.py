"""Looks up what the slate and the page need to know of the best candidates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from orchestrator.fanout import DescribedItems, ShardFanout, join_cards
from orchestrator.filters import contains
from orchestrator.gone import UnavailableItems
from orchestrator.minimums import with_enough_of
from orchestrator.releases import check_not_lost
from orchestrator.stages import Counts, Draft
from shortlist.errors import TierUnavailable
from shortlist.page import Degradation, DegradationReason, Versions
from shortlist.tiers import Candidates

__all__ = ["CardsLost", "Describe", "LookUp", "without_cards"]


class CardsLost(TierUnavailable):
    """Every shard that had candidates went away before it described them."""


class Describe:
    """Fetches the cards of the best `pool` candidates and of those that the page's minimums need;
    the slate asks for more if need be."""

    name = "describe"

    def __init__(self, fanout: ShardFanout, pool: int) -> None:
        self._fanout = fanout
        self._pool = pool

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        head = max(self._pool, draft.ask.page_size)
        draft, until = with_enough_of(replace(draft, head=head))
        draft = await self._describe(draft, until)
        return draft, Counts(
            items_in=draft.described,
            items_out=len(draft.cards.keys) if draft.cards else 0,
            dropped={"no_card": without_cards(draft)},
        )

    async def more(self, draft: Draft) -> Draft:
        """Cards of twice as many candidates as before. Raises `CardsLost` when there are none."""
        return await self._describe(draft, 2 * draft.described)

    async def _describe(self, draft: Draft, until: int) -> Draft:
        if draft.fallback and draft.cards is not None:
            cards = join_cards(draft.candidates.keys, [draft.cards])
            return replace(draft, cards=cards, described=len(draft.candidates))
        until = min(len(draft.candidates), until)
        keys = draft.candidates.keys[draft.described : until]
        if not len(keys):
            return draft
        found = await self._fanout.describe(
            keys,
            draft.ask.return_attributes,
            draft.versions.retrieval,
            draft.ask.budgets.describe(),
            groups=bool(draft.ask.caps),
        )
        parts = [cards for cards in (draft.cards, found.cards) if cards is not None]
        if not parts and found.failures:
            raise CardsLost("no shard describes its candidates")
        return replace(
            draft,
            cards=join_cards(draft.candidates.keys[:until], parts) if parts else None,
            described=until,
            degradations=draft.degradations + _incomplete(found),
        )


class LookUp:
    """Makes candidates of the caller's own items; those that do not exist, or do not any more, are
    counted."""

    name = "lookup"

    def __init__(self, fanout: ShardFanout, gone: UnavailableItems) -> None:
        self._fanout = fanout
        self._gone = gone

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        ask = draft.ask
        draft = replace(draft, versions=_versions(draft))
        found = await self._fanout.describe(
            ask.item_keys, (), draft.versions.retrieval, ask.budgets.describe(), groups=False
        )
        if ask.release.retrieval:
            check_not_lost(found.failures)
        known = contains(found.unreached, ask.item_keys) | contains(
            found.cards.keys if found.cards else ask.item_keys[:0], ask.item_keys
        )
        keys = ask.item_keys[known & ~self._gone.among(ask.item_keys)]
        unknown = len(ask.item_keys) - len(keys)
        draft = replace(
            draft,
            candidates=Candidates(
                keys=keys,
                source_names=(),
                sources=np.zeros(len(keys), np.uint32),
                scores=np.empty((0, len(keys)), np.float32),
                ranks=np.empty((0, len(keys)), np.int32),
                fused=np.zeros(len(keys), np.float32),
            ),
            scores=-np.arange(len(keys), dtype=np.float32),  # the caller's order
            cards=found.cards,
            unknown_items=unknown,
            degradations=draft.degradations + found.failures + _incomplete(found),
        )
        counts = Counts(
            items_in=len(ask.item_keys), items_out=len(keys), dropped={"unknown": unknown}
        )
        return draft, counts


def without_cards(draft: Draft) -> int:
    """Of the candidates whose cards were asked for, those that have none."""
    return draft.described - (len(draft.cards.keys) if draft.cards else 0)


def _incomplete(found: DescribedItems) -> tuple[Degradation, ...]:
    return tuple(
        Degradation(reason=DegradationReason.CARDS_INCOMPLETE, stage=one.stage, detail=one.detail)
        for one in found.failures
    )


def _versions(draft: Draft) -> Versions:
    index = draft.ask.index
    if index is None:
        return draft.versions
    return replace(
        draft.versions, retrieval=index.version, retrieval_watermark_ms=index.watermark_ms
    )
