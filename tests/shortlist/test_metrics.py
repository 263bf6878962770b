from __future__ import annotations

import asyncio
import gc
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shortlist.admin import LoadedVersion, TierStatus
from shortlist.metrics import Metrics
from shortlist.page import (
    Coverage,
    Degradation,
    DegradationReason,
    Page,
    Ranking,
    StageTrace,
    Trace,
    Versions,
)
from shortlist.serving import CannotListen
from shortlist.tiers import LogPosition

TRACE = Trace(
    stages=(
        StageTrace(
            stage="retrieve",
            duration_us=3000,
            items_in=500,
            items_out=40,
            by_source={"mf": 30, "popular": 10},
        ),
        StageTrace(stage="filter", duration_us=20, items_in=40, items_out=37, dropped={"seen": 3}),
    ),
    total_us=3100,
)


def value(metrics: Metrics, sample: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(sample, labels)


def a_page(*reasons: DegradationReason, searched: int = 10) -> Page:
    return Page(
        request_id="r",
        items=(),
        attribution_token="",
        next_page_token="",
        coverage=Coverage(
            shards_answered=1, shards_total=2, items_searched=searched, items_total=10
        ),
        degradations=tuple(Degradation(reason=reason, stage="s") for reason in reasons),
        versions=Versions(),
    )


def test_what_indexes_miss_is_counted_by_source() -> None:
    metrics = Metrics("retrieval")
    metrics.recall.compared("mf", 97, 100)
    metrics.recall.compared("mf", 99, 100)
    assert value(metrics, "shortlist_recall_found_items_total", source="mf") == 196
    assert value(metrics, "shortlist_recall_true_items_total", source="mf") == 200


class TestPages:
    def test_every_stage_has_its_time_and_its_items(self) -> None:
        metrics = Metrics("orchestrator")
        metrics.pages.answered("recommend", TRACE, a_page())
        metrics.pages.answered("recommend", TRACE, a_page())
        stage = {"pipeline": "recommend", "stage": "retrieve"}
        assert value(metrics, "shortlist_stage_seconds_count", **stage) == 2
        assert value(metrics, "shortlist_stage_seconds_sum", **stage) == pytest.approx(0.006)
        assert value(metrics, "shortlist_stage_items_total", **stage) == 80
        seen = {"pipeline": "recommend", "stage": "filter", "reason": "seen"}
        assert value(metrics, "shortlist_stage_dropped_items_total", **seen) == 6
        source = {"pipeline": "recommend", "source": "mf"}
        assert value(metrics, "shortlist_source_items_total", **source) == 60

    def test_what_is_missing_from_answers_is_counted_by_reason(self) -> None:
        metrics = Metrics("orchestrator")
        down = DegradationReason.SHARD_DOWN
        metrics.pages.answered("recommend", TRACE, a_page(down, searched=5))
        metrics.pages.answered("recommend", TRACE, a_page())
        reason = {"pipeline": "recommend", "reason": "SHARD_DOWN"}
        assert value(metrics, "shortlist_degradations_total", **reason) == 1
        assert value(metrics, "shortlist_coverage_ratio_sum", pipeline="recommend") == 1.5
        half = {"pipeline": "recommend", "le": "0.5"}
        assert value(metrics, "shortlist_coverage_ratio_bucket", **half) == 1

    def test_a_ranking_has_no_coverage(self) -> None:
        metrics = Metrics("orchestrator")
        ranking = Ranking(
            request_id="r", items=(), unknown_items=0, degradations=(), versions=Versions()
        )
        metrics.pages.answered("rank", TRACE, ranking)
        assert value(metrics, "shortlist_coverage_ratio_count", pipeline="rank") is None


def test_calls_are_counted_by_status_and_streams_have_no_duration() -> None:
    metrics = Metrics("ranking")
    metrics.calls.answered("s.Ranking", "Score", "OK", 0.012)
    metrics.calls.answered("s.Ranking", "Score", "INTERNAL", 0.001)
    metrics.calls.answered("s.Events", "StreamEvents", "OK", None)
    method = {"service": "s.Ranking", "method": "Score"}
    assert value(metrics, "shortlist_calls_total", **method, status="INTERNAL") == 1
    assert value(metrics, "shortlist_call_seconds_count", **method) == 2
    assert value(metrics, "shortlist_call_seconds_bucket", **method, le="0.01") == 1
    stream = {"service": "s.Events", "method": "StreamEvents"}
    assert value(metrics, "shortlist_calls_total", **stream, status="OK") == 1
    assert value(metrics, "shortlist_call_seconds_count", **stream) is None


def test_places_and_the_queue_are_read_when_somebody_asks() -> None:
    metrics = Metrics("orchestrator")
    running = waiting = 0
    metrics.calls.serves("s.Events", lambda: running, 256)
    metrics.calls.adapts("s.Events", lambda: 2 * running)
    metrics.calls.refused("s.Events")
    metrics.events.reads_queue(lambda: waiting, 1000)
    running, waiting = 7, 40
    assert value(metrics, "shortlist_calls_running", service="s.Events") == 7
    assert value(metrics, "shortlist_calls_limit", service="s.Events") == 256
    assert value(metrics, "shortlist_calls_adaptive_limit", service="s.Events") == 14
    assert value(metrics, "shortlist_calls_refused_total", service="s.Events") == 1
    assert value(metrics, "shortlist_events_waiting") == 40
    assert value(metrics, "shortlist_events_waiting_limit") == 1000


def test_versions_say_how_far_they_have_followed_the_log() -> None:
    metrics = Metrics("retrieval")
    metrics.follow(a_status)
    old = {"tier": "retrieval", "shard": "1", "version": "v1", "active": "yes"}
    new = {**old, "version": "v2", "active": "no"}
    assert value(metrics, "shortlist_version", **old) == 1
    assert value(metrics, "shortlist_version_items", **new) == 22
    assert value(metrics, "shortlist_version_watermark_seconds", **new) == 5
    assert value(metrics, "shortlist_log_sequence", **old) == 90
    assert value(metrics, "shortlist_log_lag_seconds", **new) == 1.5


async def test_collections_of_garbage_are_timed_by_generation() -> None:
    metrics = Metrics("ranking")
    with metrics.served("127.0.0.1", 0):
        gc.collect()
    seconds = value(metrics, "shortlist_gc_pause_seconds_total", generation="2")
    longest = value(metrics, "shortlist_gc_pause_max_seconds", generation="2")
    assert seconds is not None
    assert longest is not None
    assert 0 < longest <= seconds
    gc.collect()  # after it: nobody listens any more
    assert value(metrics, "shortlist_gc_pause_seconds_total", generation="2") == seconds


async def test_prometheus_can_read_what_is_served() -> None:
    metrics = Metrics("retrieval")
    metrics.follow(a_status)
    metrics.calls.answered("s.Retrieval", "Retrieve", "OK", 0.002)
    with metrics.served("127.0.0.1", 0) as port:
        text = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {
        "shortlist_build_info",
        "shortlist_calls",
        "shortlist_event_loop_lag_max_seconds",
        "shortlist_event_loop_lag_seconds",
        "shortlist_gc_pause_seconds",
        "shortlist_log_lag_seconds",
        "process_open_fds",
        "process_resident_memory_bytes",
        "python_gc_collections",
    } <= names


async def test_a_port_that_is_taken_is_an_error_of_ours() -> None:
    with (
        Metrics("retrieval").served("127.0.0.1", 0) as port,
        pytest.raises(CannotListen, match=f"127.0.0.1:{port}"),
        Metrics("ranking").served("127.0.0.1", port),
    ):
        pass


def a_status() -> TierStatus:
    old = LoadedVersion(
        version="v1",
        active=True,
        items=20,
        items_total=40,
        watermark_ms=4000,
        log=LogPosition(sequence=90),
    )
    new = LoadedVersion(
        version="v2",
        active=False,
        items=22,
        items_total=44,
        watermark_ms=5000,
        log=LogPosition(sequence=80, lag_ms=1500),
    )
    return TierStatus(
        tier="retrieval", shard=1, shards=2, versions=(old, new), capabilities=("mf",)
    )


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
