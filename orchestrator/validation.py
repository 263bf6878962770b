"""Every limit of the public contract, checked in one place; all violations are reported at once.

Fields are named by their path in the proto: `user.recent_events[3].item_id`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.stages import BLEND_ORDER
from shortlist.config import Config
from shortlist.errors import InvalidField, InvalidRequest
from shortlist.filters import parse
from shortlist.page import PageRequest, RankRequest, RecentEvent, SimilarRequest
from shortlist.schema import EventType
from shortlist.tiers import AttributeValue

__all__ = [
    "DAY_MS",
    "MAX_ATTRIBUTES",
    "MAX_BATCH",
    "Limits",
    "Violation",
    "attribute_violations",
    "bad_id",
    "check_batch",
    "check_page_request",
    "check_rank_request",
    "check_similar_request",
    "configuration_violations",
    "too_long",
    "too_many",
]

Violation = tuple[str, str]

DAY_MS = 86_400_000
MAX_BATCH = 256
MAX_PAGE_SIZE = 200
MAX_QUOTA = 10_000
MAX_EXCLUDED = 10_000
MAX_RANKED = 10_000
MAX_BLOCKED_FEATURES = 32
MAX_BLOCKED_VALUES = 1000
MAX_BLOCKED_BYTES = 512
MAX_RECENT_EVENTS = 500
MAX_ATTRIBUTES = 64
MAX_RETURN_ATTRIBUTES = 32
MAX_ID_BYTES = 512
MAX_REQUEST_ID_BYTES = 128
MAX_SESSION_ID_BYTES = 512
MAX_SURFACE_BYTES = 64
MAX_ARM_BYTES = 64

_FEATURE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is allowed here and now beyond the contract's constants."""

    now_ms: int
    events: Mapping[str, EventType]  # empty = every event type
    sources: frozenset[str]
    cap_features: frozenset[str] | None  # None = not known yet, any will do
    arms: frozenset[str]


def check_page_request(request: PageRequest, limits: Limits) -> None:
    """Raises `InvalidRequest` with every violation."""
    _raise_any(_page_violations(request, limits))


def check_rank_request(request: RankRequest, limits: Limits) -> None:
    """Raises `InvalidRequest` with every violation."""
    _raise_any(_rank_violations(request, limits))


def check_similar_request(request: SimilarRequest) -> None:
    """Raises `InvalidRequest` with every violation."""
    _raise_any(_similar_violations(request))


def check_batch(size: int) -> None:
    """Raises `InvalidRequest` unless a batch may have `size` requests."""
    if not 1 <= size <= MAX_BATCH:
        raise InvalidRequest([("requests", f"must be 1 to {MAX_BATCH}, got {size}")])


def configuration_violations(
    config: Config,
    *,
    cap_features: frozenset[str] | None,
    sources: frozenset[str],
    rankers: frozenset[str] | None,
) -> Iterator[Violation]:
    """Names in the configuration that nothing has; None = not known yet, any will do.

    A source that exists and that the data has nothing for is no violation: configurations are
    shared by data sets with places and without.
    """
    known_sources = sources | config.retrieval.quotas.keys()
    yield from _unknown_groups("slate.caps", config.slate.caps, cap_features)
    yield from _unknown_sources("slate.minimums", config.slate.minimums, known_sources)
    for name, arm in config.ranking.arms.items():
        path = f"ranking.arms.{name}"
        yield from too_long(path, name, MAX_ARM_BYTES)
        yield from _unknown_groups(f"{path}.caps", arm.caps, cap_features)
        for part in ("weights", "multipliers", "quotas", "minimums"):
            yield from _unknown_sources(f"{path}.{part}", getattr(arm, part), known_sources)
        if arm.ranker and rankers is not None and arm.ranker not in rankers | {BLEND_ORDER}:
            text = f"unknown ranker {arm.ranker!r}; known: {_listed(rankers | {BLEND_ORDER})}"
            yield f"{path}.ranker", text


def _unknown_groups(
    path: str, caps: Mapping[str, int], known: frozenset[str] | None
) -> Iterator[Violation]:
    for feature in caps:
        if known is not None and feature not in known:
            yield f"{path}.{feature}", f"items have no such group; known: {_listed(known)}"


def _unknown_sources(
    path: str, named: Mapping[str, float], known: frozenset[str]
) -> Iterator[Violation]:
    for source in sorted(named.keys() - known):
        yield f"{path}.{source}", _unknown_source(source, known)


def _raise_any(violations: Iterator[Violation]) -> None:
    if found := list(violations):
        raise InvalidRequest(found)


def _page_violations(request: PageRequest, limits: Limits) -> Iterator[Violation]:
    yield from _person_violations(request, limits)
    yield from too_long("surface", request.surface, MAX_SURFACE_BYTES)
    yield from _listing_violations(request)
    if request.diversity is not None:
        yield from _outside("diversity.strength", request.diversity, 0, 1)
    yield from _cap_violations(request, limits)
    yield from _blocked_violations(request.blocked, limits)
    yield from _source_violations(request, limits)
    yield from _outside("min_coverage", request.min_coverage, 0, 1)
    yield from _arm_violations(request.arm, limits)


def _listing_violations(request: PageRequest | SimilarRequest) -> Iterator[Violation]:
    yield from _outside("page_size", request.page_size, 0, MAX_PAGE_SIZE)
    yield from too_many("exclude_item_ids", request.exclude_item_ids, MAX_EXCLUDED)
    for at, item_id in enumerate(request.exclude_item_ids):
        yield from bad_id(f"exclude_item_ids[{at}]", item_id)
    yield from too_many("return_attributes", request.return_attributes, MAX_RETURN_ATTRIBUTES)
    yield from _filter_violations(request.filter)


def _filter_violations(filter: str) -> Iterator[Violation]:
    """Only the shards know which attributes there are."""
    if filter.strip():
        try:
            parse(filter)
        except InvalidField as error:
            yield from error.violations


def _blocked_violations(
    blocked: Mapping[str, tuple[str, ...]], limits: Limits
) -> Iterator[Violation]:
    yield from too_many("blocked", blocked, MAX_BLOCKED_FEATURES)
    if (count := sum(map(len, blocked.values()))) > MAX_BLOCKED_VALUES:
        yield "blocked", f"must be at most {MAX_BLOCKED_VALUES} values, got {count}"
    for feature, values in blocked.items():
        path = f'blocked["{feature}"]'
        if not _FEATURE.fullmatch(feature):
            yield path, "is no name of a feature"
        elif limits.cap_features is not None and feature not in limits.cap_features:
            yield path, f"items have no such group; known: {_listed(limits.cap_features)}"
        for at, value in enumerate(values):
            yield from too_long(f"{path}[{at}]", value, MAX_BLOCKED_BYTES)


def _similar_violations(request: SimilarRequest) -> Iterator[Violation]:
    yield from too_long("request_id", request.request_id, MAX_REQUEST_ID_BYTES)
    yield from bad_id("item_id", request.item_id)
    yield from _listing_violations(request)


def _rank_violations(request: RankRequest, limits: Limits) -> Iterator[Violation]:
    yield from _person_violations(request, limits)
    yield from _arm_violations(request.arm, limits)
    if not request.item_ids:
        yield "item_ids", "is empty"
    yield from too_many("item_ids", request.item_ids, MAX_RANKED)
    first: dict[str, int] = {}
    for at, item_id in enumerate(request.item_ids):
        yield from bad_id(f"item_ids[{at}]", item_id)
        if first.setdefault(item_id, at) != at:
            yield f"item_ids[{at}]", f"repeats item_ids[{first[item_id]}]"


def _person_violations(request: PageRequest | RankRequest, limits: Limits) -> Iterator[Violation]:
    yield from too_long("request_id", request.request_id, MAX_REQUEST_ID_BYTES)
    yield from too_long("user.id", request.user_id, MAX_ID_BYTES)
    yield from too_long("user.session_id", request.session_id, MAX_SESSION_ID_BYTES)
    yield from attribute_violations("user.attributes", request.user_attributes)
    yield from attribute_violations("context", request.context)
    yield from _time_violations("time_ms", request.time_ms, limits)
    yield from too_many("user.recent_events", request.recent_events, MAX_RECENT_EVENTS)
    for at, event in enumerate(request.recent_events):
        yield from _event_violations(f"user.recent_events[{at}]", event, limits)


def _event_violations(path: str, event: RecentEvent, limits: Limits) -> Iterator[Violation]:
    yield from bad_id(f"{path}.item_id", event.item_id)
    if event.event_type and limits.events and event.event_type not in limits.events:
        known = ", ".join(limits.events)
        yield f"{path}.event_type", f"unknown event type {event.event_type!r}; known: {known}"
    yield from _time_violations(f"{path}.time_ms", event.time_ms, limits)
    if event.value is not None and not math.isfinite(event.value):
        yield f"{path}.value", f"must be finite, got {event.value}"


def _cap_violations(request: PageRequest, limits: Limits) -> Iterator[Violation]:
    for feature, cap in request.caps.items():
        path = f'diversity.caps["{feature}"]'
        if cap < 1:
            yield path, f"must be at least 1, got {cap}"
        if limits.cap_features is not None and feature not in limits.cap_features:
            yield path, f"items have no such group; known: {_listed(limits.cap_features)}"


def _source_violations(request: PageRequest, limits: Limits) -> Iterator[Violation]:
    for at, source in enumerate(request.sources):
        if source not in limits.sources:
            yield f"sources.only[{at}]", _unknown_source(source, limits.sources)
    asked = frozenset(request.sources) or limits.sources
    for source, quota in request.quotas.items():
        path = f'sources.quotas["{source}"]'
        yield from _outside(path, quota, 1, MAX_QUOTA)
        if source not in limits.sources:
            yield path, _unknown_source(source, limits.sources)
        elif source not in asked:
            yield path, "is not among sources.only"


def _arm_violations(arm: str, limits: Limits) -> Iterator[Violation]:
    if arm and arm not in limits.arms:
        yield from too_long("arm", arm, MAX_ARM_BYTES)
        yield "arm", f"unknown arm {arm!r}; known: {_listed(limits.arms)}"


def attribute_violations(
    path: str, attributes: Mapping[str, AttributeValue]
) -> Iterator[Violation]:
    yield from too_many(path, attributes, MAX_ATTRIBUTES)
    for name, value in attributes.items():
        if isinstance(value, int | float) and not math.isfinite(value):
            yield f'{path}["{name}"]', f"must be finite, got {value}"


def _time_violations(path: str, time_ms: int, limits: Limits) -> Iterator[Violation]:
    if time_ms < 0:
        yield path, f"must not be negative, got {time_ms}"
    elif time_ms > limits.now_ms + DAY_MS:
        yield path, f"lies more than a day in the future, got {time_ms} (Unix milliseconds)"


def bad_id(path: str, id: str) -> Iterator[Violation]:
    if not id:
        yield path, "is empty"
    yield from too_long(path, id, MAX_ID_BYTES)


def too_long(path: str, text: str, most: int) -> Iterator[Violation]:
    if len(text) * 4 > most and (size := len(text.encode())) > most:
        yield path, f"must be at most {most} bytes, got {size}"


def too_many(
    path: str, values: Sequence[object] | Mapping[str, object], most: int
) -> Iterator[Violation]:
    if len(values) > most:
        yield path, f"must be at most {most}, got {len(values)}"


def _outside(path: str, value: float, least: float, most: float) -> Iterator[Violation]:
    if not least <= value <= most:  # NaN is outside everything
        yield path, f"must be {least} to {most}, got {value}"


def _unknown_source(source: str, known: frozenset[str]) -> str:
    return f"unknown source {source!r}; known: {_listed(known)}"


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"
