"""Orders candidates by the ranking tier; without it the order they came in stays."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from orchestrator.behind import behind, with_log
from orchestrator.budget import Deadline
from orchestrator.models import RankerModels
from orchestrator.releases import ReleaseLost
from orchestrator.replicas import Replicas
from orchestrator.stages import BLEND_ORDER, Counts, Draft
from shortlist.errors import ShortlistError, TierUnavailable, VersionNotServed
from shortlist.page import Degradation, DegradationReason
from shortlist.tiers import Ranker, ScoreQuery, Scores

__all__ = ["Rank"]

_log = logging.getLogger(__name__)


class Rank:
    """Asks one ranker for a score of every candidate, best first afterwards.

    An arm may want no ranker: then the order stays, and that is no degradation.
    """

    name = "rank"

    def __init__(self, rankers: Replicas[Ranker], models: RankerModels) -> None:
        self._rankers = rankers
        self._models = models

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        counts = Counts(items_in=len(draft.candidates), items_out=len(draft.candidates))
        sides = replace(draft.versions, arm=draft.ask.arm, release=draft.ask.side)
        draft = replace(draft, versions=sides)
        if draft.ask.ranker == BLEND_ORDER:
            versions = replace(draft.versions, ranker=BLEND_ORDER)
            return replace(draft, versions=versions), counts
        if not len(draft.candidates):
            return draft, counts
        try:
            scores = await self._score(draft)
        except VersionNotServed as error:
            if draft.ask.listing.ranking_version:
                raise VersionNotServed(f"{error}; start again without page_token") from None
            if draft.ask.release.ranking:
                raise ReleaseLost(str(error)) from None
            return _fallen_back(draft, str(error)), counts
        except ShortlistError as error:
            return _fallen_back(draft, str(error)), counts
        except Exception:
            _log.exception("the ranker failed")
            return _fallen_back(draft, "internal error"), counts
        return _ordered(draft, scores), counts

    async def _score(self, draft: Draft) -> Scores:
        """From the version of the listing or the release, else the current one. Rankers that lack
        that one have moved on since they were last asked what they serve."""
        deadline = draft.ask.budgets.ranking()
        named = draft.ask.listing.ranking_version or draft.ask.release.ranking
        current = self._models.current
        try:
            return await self._score_by(draft, named or current, deadline)
        except VersionNotServed:
            if named:
                raise
            async with deadline.enforced():
                await self._models.refresh()
            if self._models.current == current:
                raise
            return await self._score_by(draft, self._models.current, deadline)

    async def _score_by(self, draft: Draft, version: str, deadline: Deadline) -> Scores:
        query = ScoreQuery(
            request_id=draft.ask.request_id,
            user=draft.user,
            candidates=draft.candidates,
            model=draft.ask.ranker,
            model_version=version or None,
        )

        async def ask(ranker: Ranker) -> Scores:
            answer = await ranker.score(replace(query, deadline_ms=deadline.remaining_ms))
            _check(answer, len(draft.candidates), ranker.name)
            return answer

        return await self._rankers.call(ask, deadline)


def _check(answer: Scores, candidates: int, ranker: str) -> None:
    """Scores that cannot be sorted are a failure of the ranker, as if it had not answered."""
    if answer.scores.shape != (candidates,):
        raise TierUnavailable(f"{ranker} scored {answer.scores.shape}, asked for {candidates}")
    if bad := int(np.count_nonzero(~np.isfinite(answer.scores))):
        raise TierUnavailable(f"{ranker} answered {bad} of {candidates} scores not finite")


def _ordered(draft: Draft, answer: Scores) -> Draft:
    order = np.lexsort((draft.candidates.keys, -answer.scores))
    versions = replace(
        draft.versions, ranking=answer.model_version, ranker=answer.model or draft.ask.ranker
    )
    searched = draft.coverage is not None  # by shards, which have said what they know of the log
    return replace(
        draft,
        candidates=draft.candidates.take(order),
        scores=answer.scores[order],
        versions=versions if searched else with_log(versions, [answer.log]),
        degradations=(*draft.degradations, *behind("ranker", answer.log)),
    )


def _fallen_back(draft: Draft, detail: str) -> Draft:
    degradation = Degradation(
        reason=DegradationReason.RANKER_FALLBACK, stage="ranker", detail=detail
    )
    return replace(draft, degradations=(*draft.degradations, degradation))
