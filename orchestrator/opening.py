"""From a request to an `Ask`: checked, ids hashed, defaults filled in, times pinned."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b

import numpy as np

from orchestrator.budget import Budgets
from orchestrator.demands import Demands
from orchestrator.models import RankerModels
from orchestrator.rail import PopularRail
from orchestrator.releases import ArmShares, Release
from orchestrator.rollout import Rollout
from orchestrator.stages import BLEND_ORDER, Ask, Person
from orchestrator.tokens import BadToken, Listing, PageToken
from orchestrator.validation import (
    Limits,
    check_page_request,
    check_rank_request,
    check_similar_request,
    configuration_violations,
)
from orchestrator.versions import IndexVersionTracker, ServedIndex
from shortlist import telemetry
from shortlist.config import ArmConfig, Config
from shortlist.errors import InvalidField, InvalidRequest, NotImplementedYet
from shortlist.ids import keys_of
from shortlist.page import PageRequest, RankRequest, RecentEvent, SimilarRequest
from shortlist.schema import EventType
from shortlist.staleness import believed_ms
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
        rollout: Rollout,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._events = events
        self._versions = versions
        self._rail = rail
        self._models = models
        self._rollout = rollout
        self._arms = ArmShares(config.ranking.arms)
        self._clock = clock
        self._demands = Demands(config.serving.filter)

    def check_configuration(self) -> None:
        """Raises `InvalidRequest` for configured names that nothing has, as far as the items, the
        sources and the rankers are known: caps, minimums, arms."""
        violations = configuration_violations(
            self._config,
            cap_features=self._rail.group_features,
            sources=frozenset(self._offered_sources(self._versions.current)),
            rankers=self._models.offered,
        )
        if found := list(violations):
            raise InvalidRequest(found)

    def open_page(self, request: PageRequest, budgets: Budgets) -> Ask:
        """Raises `InvalidRequest` with every violation."""
        now_ms = self._now_ms()
        check_page_request(request, self._limits(now_ms))
        parameters = fingerprint(request)
        request_id = request.request_id or new_request_id()
        begun = self._begun(request, parameters)
        who = _who(request, request_id)
        assigned = self._rollout.resume(begun.release) if begun else self._rollout.assign(who)
        arm = request.arm or (begun.arm if begun else self._arms.of(who))
        index = self._index(begun.retrieval_version if begun else "", assigned.release)
        listing = begun or Listing(
            seed=secrets.randbits(32), as_of_ms=self._as_of(request.time_ms or now_ms, index)
        )
        person = self._person(request, now_ms)
        excluded = np.unique(keys_of(request.exclude_item_ids))
        policy = self._policy(arm)
        slate = self._config.slate
        return Ask(
            request_id=request_id,
            person=person,
            budgets=budgets,
            listing=listing,
            release=assigned.release,
            side=assigned.side,
            index=index,
            quotas=self._quotas(request, policy, index),
            weights=policy.weights,
            multipliers=policy.multipliers,
            named=np.unique(np.concatenate([excluded, person.recent.keys])),
            excluded=excluded,
            exclude_seen=request.exclude_seen,
            filter=self._demands.text(
                request.filter, request.blocked, now_ms=request.time_ms or now_ms
            ),
            page_size=request.page_size or slate.page_size,
            diversity=_first(request.diversity, policy.diversity, slate.diversity),
            caps={**slate.caps, **policy.caps, **request.caps},
            minimums=_positive({**slate.minimums, **policy.minimums}),
            arm=arm,
            ranker=self._ranker(policy, listing.ranking_version or assigned.release.ranking),
            return_attributes=request.return_attributes,
            min_coverage=request.min_coverage,
            fingerprint=parameters,
        )

    def open_ranking(self, request: RankRequest, budgets: Budgets) -> Ask:
        """Raises `InvalidRequest` with every violation."""
        now_ms = self._now_ms()
        check_rank_request(request, self._limits(now_ms))
        request_id = request.request_id or new_request_id()
        who = _who(request, request_id)
        assigned = self._rollout.assign(who)
        arm = request.arm or self._arms.of(who)
        index = self._index("", assigned.release)
        return Ask(
            request_id=request_id,
            person=self._person(request, now_ms),
            budgets=budgets,
            listing=Listing(as_of_ms=self._as_of(request.time_ms or now_ms, index)),
            release=assigned.release,
            side=assigned.side,
            index=index,
            item_ids=request.item_ids,
            item_keys=keys_of(request.item_ids),
            arm=arm,
            ranker=self._ranker(self._policy(arm), assigned.release.ranking),
        )

    def on_release(
        self, ask: Ask, request: PageRequest | RankRequest, release: Release, *, pinned: bool
    ) -> Ask:
        """The same ask of another release's versions, on no side of a canary. `pinned` = where a
        page token names versions, those stay."""
        listing = ask.listing
        if not pinned:
            listing = replace(listing, retrieval_version="", ranking_version="")
        policy = self._policy(ask.arm)
        index = self._index(listing.retrieval_version, release)
        quotas = self._quotas(request, policy, index) if isinstance(request, PageRequest) else {}
        ranker = self._ranker(policy, listing.ranking_version or release.ranking)
        return replace(
            ask,
            listing=listing,
            release=release,
            side="",
            index=index,
            quotas=quotas,
            ranker=ranker,
        )

    def open_similar(self, request: SimilarRequest, budgets: Budgets) -> Ask:
        """An ask of somebody whose whole history is the item.

        Raises `InvalidRequest` with every violation, and `NotImplementedYet` where no source of
        similar items is on.
        """
        now_ms = self._now_ms()
        check_similar_request(request)
        as_of_ms = self._as_of(now_ms, self._versions.current)
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
            sources=frozenset(self._offered_sources(self._versions.current)),
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

    def _begun(self, request: PageRequest, parameters: int) -> Listing | None:
        """The listing that the request goes on with; None without a page token."""
        if not request.page_token:
            return None
        try:
            token = PageToken.decode(request.page_token)
        except BadToken as error:
            raise InvalidField("page_token", str(error)) from None
        if token.fingerprint != parameters:
            raise InvalidField(
                "page_token", "belongs to a request with other parameters; start again without it"
            )
        return token.listing

    def _index(self, pinned: str, release: Release) -> ServedIndex | None:
        """Of the version that will answer, or the current one while that is not known."""
        return self._versions.find(pinned or release.retrieval) or self._versions.current

    def _as_of(self, time_ms: int, index: ServedIndex | None) -> int:
        """A model must not be asked about a moment far beyond its training data."""
        if index is None or not index.watermark_ms:
            return time_ms
        return believed_ms(time_ms, index.watermark_ms, self._config.serving.staleness_days)

    def _offered_sources(self, index: ServedIndex | None) -> tuple[str, ...]:
        """What the index version offers; all there are while no shard was reached."""
        return index.sources if index else tuple(self._config.retrieval.quotas)

    def _policy(self, arm: str) -> ArmConfig:
        """What the arm decides; nothing without one, or when it has left the configuration."""
        return self._config.ranking.arms.get(arm, _NO_ARM)

    def _quotas(
        self, request: PageRequest, policy: ArmConfig, index: ServedIndex | None
    ) -> dict[str, int]:
        """A source that the configuration turns off is asked when the request names it."""
        retrieval = self._config.retrieval
        offered = self._offered_sources(index)
        wanted = _positive({**retrieval.quotas, **policy.quotas})
        configured = {s: quota for s, quota in wanted.items() if s in offered}
        asked = request.sources or dict.fromkeys((*configured, *request.quotas))
        return {
            source: request.quotas.get(source, configured.get(source, retrieval.candidates))
            for source in asked
        }

    def _similar_quotas(self, page_size: int) -> dict[str, int]:
        offered = self._offered_sources(self._versions.current)
        quota = max(_LEAST_SIMILAR, _SIMILAR_PER_PLACE * page_size)
        asked = self._config.retrieval.asked.keys() & offered
        quotas = {source: quota for source in _SIMILAR_SOURCES if source in asked}
        if not quotas:
            raise NotImplementedYet(
                f"no source of similar items is on; they are {', '.join(_SIMILAR_SOURCES)}"
            )
        return quotas

    def _ranker(self, policy: ArmConfig, version: str) -> str:
        """An arm's ranker is named even if it has gone: a page of another one would spoil the
        experiment. The default one is only named where the version ("" = the current one) has
        it."""
        if policy.ranker:
            return policy.ranker
        default, offered = self._config.ranking.default, self._models.offered_by(version)
        known = default == BLEND_ORDER or (offered and default in offered)
        return default if known else ""


_NO_ARM = ArmConfig()


def _who(request: PageRequest | RankRequest, request_id: str) -> str:
    """Whom experiments take somebody for: a user, else a visit, else just a request."""
    return request.user_id or request.session_id or request_id


def _first(*given: float | None) -> float:
    """The first that is not None."""
    return next(one for one in given if one is not None)


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


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
