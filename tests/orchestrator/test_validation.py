from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.validation import (
    Limits,
    check_batch,
    check_page_request,
    check_rank_request,
    check_similar_request,
)
from shortlist.errors import InvalidRequest
from shortlist.page import PageRequest, RankRequest, RecentEvent, SimilarRequest
from tests.orchestrator.world import EVENTS, NOW_MS

LIMITS = Limits(
    now_ms=NOW_MS,
    events=EVENTS,
    sources=frozenset({"two_tower", "popular"}),
    cap_features=frozenset({"genre"}),
    arms=frozenset({"trees", "plain"}),
)
DAY_MS = 86_400_000


def fields_of(request: PageRequest | RankRequest) -> list[str]:
    try:
        if isinstance(request, PageRequest):
            check_page_request(request, LIMITS)
        else:
            check_rank_request(request, LIMITS)
    except InvalidRequest as error:
        return [field for field, _ in error.violations]
    return []


def an_event(**fields: Any) -> tuple[RecentEvent, ...]:
    return (RecentEvent(item_id="i1"), RecentEvent(**{"item_id": "i2", **fields}))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"request_id": "x" * 129}, "request_id"),
        ({"request_id": "é" * 65}, "request_id"),
        ({"surface": "x" * 65}, "surface"),
        ({"arm": "oracle"}, "arm"),
        ({"user_id": "x" * 513}, "user.id"),
        ({"session_id": "x" * 513}, "user.session_id"),
        ({"page_size": -1}, "page_size"),
        ({"page_size": 201}, "page_size"),
        ({"page_size": 2**31 - 1}, "page_size"),
        ({"filter": "genre = jazz"}, "filter"),
        ({"filter": "x = " + "1" * 4096}, "filter"),
        ({"filter": "(" * 40 + "x = 1" + ")" * 40}, "filter"),
        ({"filter": "x = \ud800"}, "filter"),
        ({"blocked": {"mood": ("sad",)}}, 'blocked["mood"]'),
        ({"blocked": {"a` = 1 OR `a": ("x",)}}, 'blocked["a` = 1 OR `a"]'),
        ({"blocked": {"genre": ("x" * 513,)}}, 'blocked["genre"][0]'),
        ({"blocked": {"genre": ("x",) * 1001}}, "blocked"),
        ({"exclude_item_ids": ("i1", "")}, "exclude_item_ids[1]"),
        ({"exclude_item_ids": ("x" * 513,)}, "exclude_item_ids[0]"),
        ({"exclude_item_ids": ("i",) * 10_001}, "exclude_item_ids"),
        ({"recent_events": an_event(item_id="")}, "user.recent_events[1].item_id"),
        ({"recent_events": an_event(event_type="sneeze")}, "user.recent_events[1].event_type"),
        ({"recent_events": an_event(time_ms=-1)}, "user.recent_events[1].time_ms"),
        (
            {"recent_events": an_event(time_ms=NOW_MS + DAY_MS + 1)},
            "user.recent_events[1].time_ms",
        ),
        ({"recent_events": an_event(value=math.nan)}, "user.recent_events[1].value"),
        ({"recent_events": an_event(value=math.inf)}, "user.recent_events[1].value"),
        ({"recent_events": an_event() * 251}, "user.recent_events"),
        ({"user_attributes": {"age": math.nan}}, 'user.attributes["age"]'),
        ({"user_attributes": {str(n): "x" for n in range(65)}}, "user.attributes"),
        ({"context": {"hour": -math.inf}}, 'context["hour"]'),
        ({"context": {str(n): "x" for n in range(65)}}, "context"),
        ({"diversity": -0.01}, "diversity.strength"),
        ({"diversity": 1.01}, "diversity.strength"),
        ({"diversity": math.nan}, "diversity.strength"),
        ({"caps": {"genre": 0}}, 'diversity.caps["genre"]'),
        ({"caps": {"colour": 2}}, 'diversity.caps["colour"]'),
        ({"sources": ("popular", "psychic")}, "sources.only[1]"),
        ({"quotas": {"popular": 0}}, 'sources.quotas["popular"]'),
        ({"quotas": {"popular": 10_001}}, 'sources.quotas["popular"]'),
        ({"quotas": {"psychic": 5}}, 'sources.quotas["psychic"]'),
        (
            {"sources": ("popular",), "quotas": {"two_tower": 5}},
            'sources.quotas["two_tower"]',
        ),
        ({"time_ms": -1}, "time_ms"),
        ({"time_ms": NOW_MS + DAY_MS + 1}, "time_ms"),
        ({"time_ms": 2**63 - 1}, "time_ms"),
        ({"return_attributes": ("x",) * 33}, "return_attributes"),
        ({"min_coverage": -0.1}, "min_coverage"),
        ({"min_coverage": 1.1}, "min_coverage"),
        ({"min_coverage": math.nan}, "min_coverage"),
    ],
)
def test_a_field_out_of_range_is_named(fields: dict[str, Any], field: str) -> None:
    assert fields_of(PageRequest(**fields)) == [field]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"request_id": "x" * 128, "surface": "x" * 64, "user_id": "é" * 256},
        {"page_size": 200},
        {"exclude_item_ids": ("x" * 512,) * 10_000},
        {"recent_events": an_event(time_ms=NOW_MS + DAY_MS, value=-1.5, event_type="view")},
        {"recent_events": an_event() * 250},
        {"user_attributes": {str(n): ("a", "b") for n in range(64)}},
        {"diversity": 0.0},
        {"diversity": 1.0, "caps": {"genre": 1}},
        {"sources": ("popular",), "quotas": {"popular": 10_000}},
        {"time_ms": NOW_MS + DAY_MS},
        {"return_attributes": ("x",) * 32},
        {"min_coverage": 1.0},
    ],
)
def test_the_limits_themselves_are_allowed(fields: dict[str, Any]) -> None:
    assert fields_of(PageRequest(**fields)) == []


def test_all_violations_are_reported_at_once() -> None:
    request = PageRequest(
        page_size=-3, time_ms=-1, diversity=7.0, recent_events=an_event(item_id="", value=math.nan)
    )
    assert fields_of(request) == [
        "time_ms",
        "user.recent_events[1].item_id",
        "user.recent_events[1].value",
        "page_size",
        "diversity.strength",
    ]


def test_the_offending_value_and_what_would_do_are_told() -> None:
    with pytest.raises(InvalidRequest, match=r"page_size: must be 0 to 200, got 999"):
        check_page_request(PageRequest(page_size=999), LIMITS)
    with pytest.raises(InvalidRequest, match=r"unknown source 'x'; known: popular, two_tower"):
        check_page_request(PageRequest(sources=("x",)), LIMITS)
    with pytest.raises(InvalidRequest, match=r"event type 'x'; known: click, rating, view"):
        check_page_request(PageRequest(recent_events=an_event(event_type="x")), LIMITS)


def test_a_filter_is_reported_beside_other_mistakes_with_the_place() -> None:
    with pytest.raises(InvalidRequest, match="filter: at character 2: expected =") as refused:
        check_page_request(PageRequest(filter="x", page_size=-1), LIMITS)
    assert [field for field, _ in refused.value.violations] == ["page_size", "filter"]
    with pytest.raises(InvalidRequest, match="filter: at character 7"):
        check_similar_request(SimilarRequest(item_id="i1", filter="(a = 1"))


@pytest.mark.parametrize(
    ("ids", "fields"),
    [
        ((), ["item_ids"]),
        (("a", "b", "a"), ["item_ids[2]"]),
        (("a", ""), ["item_ids[1]"]),
        (tuple(map(str, range(10_001))), ["item_ids"]),
        (tuple(map(str, range(10_000))), []),
    ],
)
def test_items_to_rank_are_few_enough_and_distinct(ids: tuple[str, ...], fields: list[str]) -> None:
    assert fields_of(RankRequest(item_ids=ids)) == fields


def test_the_person_of_a_ranking_is_checked_like_that_of_a_page() -> None:
    request = RankRequest(item_ids=("a",), user_id="x" * 513, context={"x": math.nan}, time_ms=-1)
    assert fields_of(request) == ["user.id", 'context["x"]', "time_ms"]


def test_a_schema_without_event_types_takes_all_of_them() -> None:
    limits = Limits(
        now_ms=NOW_MS, events={}, sources=frozenset(), cap_features=None, arms=frozenset()
    )
    request = PageRequest(recent_events=an_event(event_type="anything"), caps={"anything": 1})
    check_page_request(request, limits)


@pytest.mark.parametrize("size", [0, 257])
def test_a_batch_has_1_to_256_requests(size: int) -> None:
    with pytest.raises(InvalidRequest, match="requests"):
        check_batch(size)
