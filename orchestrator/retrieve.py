"""Asks the shards for candidates; when none answers, takes the cached popular items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.behind import behind, with_log
from orchestrator.fanout import Retrieved, ShardFanout
from orchestrator.filters import Filter, never_shown
from orchestrator.gone import UnavailableItems
from orchestrator.rail import PopularRail
from orchestrator.releases import ReleaseLost, check_not_lost
from orchestrator.stages import Counts, Draft
from shortlist import __version__
from shortlist.errors import CoverageTooLow, ItemNotFound, TierUnavailable, VersionNotServed
from shortlist.page import Coverage, Degradation, DegradationReason, Versions
from shortlist.tiers import RetrievedSlice, RetrieveQuery

__all__ = ["ItemKnown", "Retrieve"]


class Retrieve:
    """Fills `proposals` and settles the index version and the coverage of the answer."""

    name = "retrieve"

    def __init__(
        self,
        fanout: ShardFanout,
        rail: PopularRail,
        filters: Sequence[Filter],
        gone: UnavailableItems,
    ) -> None:
        self._fanout = fanout
        self._rail = rail
        self._filters = tuple(filters)
        self._gone = gone

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        if draft.fallback:
            return self._popular(draft)
        found = await self._ask_shards(draft)
        _check_coverage(found.coverage, draft.ask.min_coverage)
        draft = replace(
            draft, coverage=found.coverage, degradations=draft.degradations + found.failures
        )
        if found.index is None or not found.slices:
            return self._popular(draft)
        versions = Versions(
            retrieval=found.index.version,
            retrieval_watermark_ms=found.index.watermark_ms,
            software=__version__,
        )
        late = [lag for one in found.slices for lag in behind(f"shard/{one.shard}", one.log)]
        draft = replace(
            draft,
            proposals=found.sources,
            versions=with_log(versions, (one.log for one in found.slices)),
            unknown_items=sum(one.unknown for one in found.slices),
            degradations=(*draft.degradations, *late),
        )
        return draft, _counts(draft, found.coverage.items_searched, found.slices)

    async def _ask_shards(self, draft: Draft) -> Retrieved:
        ask = draft.ask
        pinned, named = ask.listing.retrieval_version, ask.release.retrieval
        query = RetrieveQuery(
            request_id=ask.request_id,
            user=draft.user,
            quotas=ask.quotas,
            exclude=never_shown(draft, self._filters),
            check=ask.named,
            filter=ask.filter,
            index_version=pinned or named or None,
        )
        try:
            found = await self._fanout.retrieve(query, ask.budgets.retrieval())
        except VersionNotServed as error:
            if pinned:
                raise VersionNotServed(f"{error}; start again without page_token") from None
            raise ReleaseLost(str(error)) from None
        if named and not pinned:
            check_not_lost(found.failures)
        return found

    def _popular(self, draft: Draft) -> tuple[Draft, Counts]:
        """The cached popular items instead; coverage 0, and the filters still apply.

        Only shards know who matches a filter: without them there is no page for one, unless it is
        the one that the items were copied with.
        """
        if draft.ask.filter != self._rail.filter:
            raise TierUnavailable("no shard answers, and only they know what matches the filter")
        index, popular, cards = self._rail.index, self._rail.popular, self._rail.cards
        if index is None or popular is None or cards is None:
            raise TierUnavailable("no shard answers, and no popular items are cached yet")
        coverage = Coverage(
            shards_answered=0,
            shards_total=index.shards,
            items_searched=0,
            items_total=index.items_total,
        )
        _check_coverage(coverage, draft.ask.min_coverage)
        degradation = Degradation(
            reason=DegradationReason.POPULARITY_FALLBACK,
            stage="retrieve",
            detail="no shard answered; these are cached popular items",
        )
        draft = replace(
            draft,
            fallback=True,
            proposals=(popular,),
            cards=cards,
            coverage=coverage,
            versions=with_log(
                Versions(
                    retrieval=index.version,
                    retrieval_watermark_ms=index.watermark_ms,
                    software=__version__,
                ),
                [self._gone.position],
            ),
            degradations=(*draft.degradations, degradation),
        )
        return draft, _counts(draft, len(popular.keys), ())


class ItemKnown:
    """Ends a request about an item that its shard does not know.

    While that shard is away nobody can tell, and the request goes on with what the others know.
    """

    name = "item"

    def __init__(self, gone: UnavailableItems) -> None:
        self._gone = gone

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        if draft.unknown_items or self._gone.among(draft.ask.named).any():
            [item_id] = draft.ask.item_ids
            text = f"no item {item_id!r} in index version {draft.versions.retrieval}"
            raise ItemNotFound("item_id", text)
        proposed = sum(len(one.keys) for one in draft.proposals)
        return draft, Counts(items_in=proposed, items_out=proposed)


def _check_coverage(coverage: Coverage, least: float) -> None:
    if coverage.share < least:
        raise CoverageTooLow(
            f"{coverage.share:.3f} of the items were searched, min_coverage asks for {least:.3f}"
        )


def _counts(draft: Draft, searched: int, slices: Sequence[RetrievedSlice]) -> Counts:
    by_source = {one.source: len(one.keys) for one in draft.proposals}
    dropped: Counter[str] = Counter()
    for one in slices:
        dropped.update(one.dropped)
    return Counts(
        items_in=searched,
        items_out=sum(by_source.values()),
        dropped=dict(dropped),
        by_source=by_source,
    )
