"""From a request to an `Ask`: checked, ids hashed, defaults filled in, times pinned."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import numpy as np

from orchestrator.budget import Budgets
from orchestrator.demands import Demands
from orchestrator.models import RankerModels
from orchestrator.rail import PopularRail
from orchestrator.stages import BLEND_ORDER, Ask, Person
from orchestrator.tokens import BadToken, Listing, PageToken
from orchestrator.validation import (
    DAY_MS,
    Limits,
    check_page_request,
    check_rank_request,
    check_similar_request,
    configuration_violations,
)
from orchestrator.versions import IndexVersionTracker
from shortlist import telemetry
from shortlist.config import Config
from shortlist.errors import InvalidField, InvalidRequest, NotImplementedYet
from shortlist.ids import keys_of
from shortlist.page import PageRequest, RankRequest, RecentEvent, SimilarRequest
from shortlist.schema import EventType
from shortlist.tiers import History

__all__ = ["RequestOpener", "fingerprint", "new_request_id", "recent_history"]

_SIMILAR_SOURCES = ("cooccurrence", "content", "mf", "two_tower")  # those that start from items
_SIMILAR_PER_PLACE = 5  # candidates of each source: sources that agree do so beyond the first ones
_LEAST_SIMILAR = 100


class RequestOpener:
    """Turns requests into asks. Never waits, so that a bad request is refused at once."""

    def __init__(
        self,
        config: Config,
        events: Mapping[str, EventType],
        versions: IndexVersionTracker,
        rail: PopularRail,
        models: RankerModels,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._events = events
        self._versions = versions
        self._rail = rail
        self._models = models
        self._clock = clock
        self._demands = Demands(config.serving.filter)

    def check_configuration(self) -> None:
        """Raises `InvalidRequest` for configured names that nothing has, as far as the items, the
        sources and the rankers are known: caps, minimums, arms."""
        violations = configuration_violations(
            self._config,
            cap_features=self._rail.group_features,
            sources=frozenset(self._offered_sources("")),
            rankers=self._models.offered,
        )
        if found := list(violations):
            raise InvalidRequest(found)

    def open_page(self, request: PageRequest, budgets: Budgets) -> Ask:
        """Raises `InvalidRequest` with every violation."""
        now_ms = self._now_ms()
        check_page_request(request, self._limits(now_ms))
        parameters = fingerprint(request)
        listing = self._listing(request, parameters, now_ms)
        person = self._person(request, now_ms)
        excluded = np.unique(keys_of(request.exclude_item_ids))
        return Ask(
            request_id=request.request_id or new_request_id(),
            person=person,
            budgets=budgets,
            listing=listing,
            index=self._versions.current,
            quotas=self._quotas(request, listing.retrieval_version),
            named=np.unique(np.concatenate([excluded, person.recent.keys])),
            excluded=excluded,
            exclude_seen=request.exclude_seen,
            filter=self._demands.text(
                request.filter, request.blocked, now_ms=request.time_ms or now_ms
            ),
            page_size=request.page_size or self._config.slate.page_size,
            diversity=(
                self._config.slate.diversity if request.diversity is None else request.diversity
            ),
            caps={**self._config.slate.caps, **request.caps},
            minimums=self._config.slate.minimums,
            arm=request.arm,
            ranker=self._ranker(request.arm),
            return_attributes=request.return_attributes,
            min_coverage=request.min_coverage,
            fingerprint=parameters,
        )

    def open_ranking(self, request: RankRequest, budgets: Budgets) -> Ask:
        """Raises `InvalidRequest` with every violation."""
        now_ms = self._now_ms()
        check_rank_request(request, self._limits(now_ms))
        return Ask(
            request_id=request.request_id or new_request_id(),
            person=self._person(request, now_ms),
            budgets=budgets,
            listing=Listing(as_of_ms=self._as_of(request.time_ms or now_ms)),
            index=self._versions.current,
            item_ids=request.item_ids,
            item_keys=keys_of(request.item_ids),
            arm=request.arm,
            ranker=self._ranker(request.arm),
        )

    def open_similar(self, request: SimilarRequest, budgets: Budgets) -> Ask:
        """An ask of somebody whose whole history is the item.

        Raises `InvalidRequest` with every violation, and `NotImplementedYet` where no source of
        similar items is on.
        """
        now_ms = self._now_ms()
        check_similar_request(request)
        as_of_ms = self._as_of(now_ms)
        seed = RecentEvent(item_id=request.item_id, time_ms=as_of_ms)
        history = recent_history((seed,), {}, as_of_ms)
        page_size = request.page_size or self._config.slate.page_size
        return Ask(
            request_id=request.request_id or new_request_id(),
            person=Person(user_id="", recent=history, attributes={}, context={}, time_ms=as_of_ms),
            budgets=budgets,
            listing=Listing(as_of_ms=as_of_ms),
            index=self._versions.current,
            item_ids=(request.item_id,),
            quotas=self._similar_quotas(page_size),
            named=history.keys,
            excluded=np.unique(keys_of(request.exclude_item_ids)),
            filter=self._demands.text(request.filter, now_ms=now_ms),
            page_size=page_size,
            return_attributes=request.return_attributes,
        )

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _limits(self, now_ms: int) -> Limits:
        return Limits(
            now_ms=now_ms,
            events=self._events,
            sources=frozenset(self._offered_sources("")),
            cap_features=self._rail.group_features,
            arms=frozenset(self._config.ranking.arms),
        )

    def _person(self, request: PageRequest | RankRequest, now_ms: int) -> Person:
        time_ms = request.time_ms or now_ms
        return Person(
            user_id=request.user_id,
            recent=recent_history(request.recent_events, self._events, time_ms),
            attributes=request.user_attributes,
            context=request.context,
            time_ms=time_ms,
            dated=bool(request.time_ms),
        )

    def _listing(self, request: PageRequest, parameters: int, now_ms: int) -> Listing:
        if not request.page_token:
            as_of_ms = self._as_of(request.time_ms or now_ms)
            return Listing(seed=secrets.randbits(32), as_of_ms=as_of_ms)
        try:
            token = PageToken.decode(request.page_token)
        except BadToken as error:
            raise InvalidField("page_token", str(error)) from None
        if token.fingerprint != parameters:
            raise InvalidField(
                "page_token", "belongs to a request with other parameters; start again without it"
            )
        return token.listing

    def _as_of(self, time_ms: int) -> int:
        """A model must not be asked about a moment far beyond its training data."""
        index, days = self._versions.current, self._config.serving.max_staleness_days
        if index is None or not index.watermark_ms or not days:
            return time_ms
        return min(time_ms, index.watermark_ms + int(days * DAY_MS))

    def _offered_sources(self, version: str) -> tuple[str, ...]:
        """What the index version offers ("" = the current one); all there are while no shard was
        reached."""
        index = self._versions.find(version) or self._versions.current
        return index.sources if index else tuple(self._config.retrieval.quotas)

    def _quotas(self, request: PageRequest, version: str) -> dict[str, int]:
        """A source that the configuration turns off is asked when the request names it."""
        retrieval = self._config.retrieval
        offered = self._offered_sources(version)
        configured = {s: quota for s, quota in retrieval.asked.items() if s in offered}
        asked = request.sources or dict.fromkeys((*configured, *request.quotas))
        return {
            source: request.quotas.get(source, configured.get(source, retrieval.candidates))
            for source in asked
        }

    def _similar_quotas(self, page_size: int) -> dict[str, int]:
        offered = self._offered_sources("")
        quota = max(_LEAST_SIMILAR, _SIMILAR_PER_PLACE * page_size)
        asked = self._config.retrieval.asked.keys() & offered
        quotas = {source: quota for source in _SIMILAR_SOURCES if source in asked}
        if not quotas:
            raise NotImplementedYet(
                f"no source of similar items is on; they are {', '.join(_SIMILAR_SOURCES)}"
            )
        return quotas

    def _ranker(self, arm: str) -> str:
        """An arm's ranker is named even if it has gone: a page of another one would spoil the
        experiment. The default one is only named where it is offered."""
        ranking, offered = self._config.ranking, self._models.offered
        if arm:
            return ranking.arms[arm].ranker
        known = ranking.default == BLEND_ORDER or (offered and ranking.default in offered)
        return ranking.default if known else ""


def new_request_id() -> str:
    """Inside a server the id that its errors and logs carry; else a fresh one."""
    return telemetry.request_id.get() or uuid.uuid4().hex


def recent_history(
    recent: Sequence[RecentEvent], events: Mapping[str, EventType], now_ms: int
) -> History:
    """The request's own events as a history; `events` gives the weights, as at import."""
    default = next(iter(events), "")
    times = np.array([event.time_ms or now_ms for event in recent], np.int64)
    order = np.argsort(times, kind="stable")
    kinds = [events.get(event.event_type or default, EventType()) for event in recent]
    weights = [kind.weight_of(event.value) for kind, event in zip(kinds, recent, strict=True)]
    return History(
        keys=keys_of(event.item_id for event in recent)[order],
        times_ms=times[order],
        weights=np.array(weights, np.float32)[order],
    )


def fingerprint(request: PageRequest) -> int:
    """uint64 over the parameters that all pages of a listing have to share.

    What may change from page to page stays out: the page's size, what is returned with it, and what
    the user did while reading.
    """
    parameters = [
        request.user_id,
        request.session_id,
        request.surface,
        sorted(request.exclude_item_ids),
        request.exclude_seen,
        sorted(request.user_attributes.items()),
        sorted(request.context.items()),
        request.diversity,
        sorted(request.caps.items()),
        sorted(request.sources),
        sorted(request.quotas.items()),
        request.filter,
        sorted((name, sorted(values)) for name, values in request.blocked.items()),
        request.time_ms,
        request.arm,
    ]
    digest = blake2b(json.dumps(parameters).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
