"""Writes the answer: items as callers know them, versions, and the tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from orchestrator.stages import Counts, Draft
from orchestrator.tokens import MAX_SHOWN, Attribution, PageToken
from shortlist import __version__
from shortlist.page import Coverage, Item, Page, Ranking, SimilarItems
from shortlist.tiers import Candidates

__all__ = ["Respond", "RespondRanking", "RespondSimilar"]

_NO_COVERAGE = Coverage(shards_answered=0, shards_total=0, items_searched=0, items_total=0)


class Respond:
    """The page of what the slate left."""

    name = "respond"

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        page = Page(
            request_id=draft.ask.request_id,
            items=_items(draft),
            attribution_token=_attribution(draft),
            next_page_token=_next_page(draft),
            coverage=draft.coverage or _NO_COVERAGE,
            degradations=tuple(dict.fromkeys(draft.degradations)),
            versions=draft.versions,
            unknown_items=draft.unknown_items,
            cold_start=draft.cold_start,
        )
        return replace(draft, answer=page), Counts(
            items_in=len(draft.candidates), items_out=len(page.items)
        )


class RespondRanking:
    """The caller's items in ranking order."""

    name = "respond"

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        id_of = dict(zip(draft.ask.item_keys.tolist(), draft.ask.item_ids, strict=True))
        cards = draft.cards
        title_of = dict(zip(cards.keys.tolist(), cards.titles, strict=True)) if cards else {}
        items = tuple(
            Item(id=id_of[key], score=score, rank=rank, title=title_of.get(key, ""))
            for rank, (key, score) in enumerate(
                zip(draft.candidates.keys.tolist(), draft.scores.tolist(), strict=True)
            )
        )
        ranking = Ranking(
            request_id=draft.ask.request_id,
            items=items,
            unknown_items=draft.unknown_items,
            degradations=tuple(dict.fromkeys(draft.degradations)),
            versions=replace(draft.versions, software=__version__),
        )
        return replace(draft, answer=ranking), Counts(items_in=len(items), items_out=len(items))


class RespondSimilar:
    """The items of what the slate left; there is no next page and nobody to attribute it to."""

    name = "respond"

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        similar = SimilarItems(
            request_id=draft.ask.request_id,
            items=_items(draft),
            coverage=draft.coverage or _NO_COVERAGE,
            degradations=tuple(dict.fromkeys(draft.degradations)),
            versions=draft.versions,
        )
        return replace(draft, answer=similar), Counts(
            items_in=len(draft.candidates), items_out=len(similar.items)
        )


def _items(draft: Draft) -> tuple[Item, ...]:
    cards, candidates = draft.cards, draft.candidates
    if cards is None:
        return ()
    return tuple(
        Item(
            id=cards.ids[row],
            score=score,
            rank=draft.ask.listing.offset + row,
            sources=_names(candidates, mask),
            title=cards.titles[row],
            attributes=cards.attributes[row],
        )
        for row, (score, mask) in enumerate(
            zip(draft.scores.tolist(), candidates.sources.tolist(), strict=True)
        )
    )


def _names(candidates: Candidates, mask: int) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(candidates.source_names) if mask >> bit & 1)


def _attribution(draft: Draft) -> str:
    return Attribution(
        request_id=draft.ask.request_id,
        user_key=draft.user.user_key,
        time_ms=draft.ask.person.time_ms,
        retrieval_version=draft.versions.retrieval,
        ranking_version=draft.versions.ranking,
        ranker=draft.versions.ranker,
        arm=draft.versions.arm,
        release=draft.versions.release,
        source_names=draft.candidates.source_names,
        offset=draft.ask.listing.offset,
        keys=draft.candidates.keys,
        sources=draft.candidates.sources,
    ).encode()


def _next_page(draft: Draft) -> str:
    """Empty when nothing is left, or the listing has become too long to remember."""
    listing = draft.ask.listing
    shown = np.concatenate([listing.shown, draft.candidates.keys])
    if not draft.more or len(shown) > MAX_SHOWN:
        return ""
    return PageToken(
        fingerprint=draft.ask.fingerprint,
        listing=replace(
            listing,
            # A tier that did not take part in this page does not loosen the pin.
            retrieval_version=listing.retrieval_version or draft.versions.retrieval,
            ranking_version=listing.ranking_version or draft.versions.ranking,
            release=draft.versions.release,
            arm=draft.versions.arm,
            shown=shown,
        ),
    ).encode()
