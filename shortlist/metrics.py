"""What a process counts of itself, for Prometheus: see docs/operations.md for what each means.

A process has one `Metrics`, made at its edge. Whoever counts is handed a small watch
(`shortlist.telemetry`) and knows nothing of Prometheus; what is state, not an event, is read when
somebody scrapes. What a request costs here is measured by `benchmarks/metrics.py`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import shortlist
from shortlist.loop_lag import LoopLag
from shortlist.page import Page, Ranking, SimilarItems, Trace
from shortlist.serving import CannotListen
from shortlist.telemetry import Watches

if TYPE_CHECKING:
    from shortlist.admin import TierStatus

__all__ = [
    "AttemptMetrics",
    "CallMetrics",
    "EventMetrics",
    "GcPauses",
    "Metrics",
    "PageMetrics",
    "RecallMetrics",
    "TierMetrics",
]

# Around the budgets: 30 ms and 100 ms are what a page should take, 200 and 400 what its stages may.
_CALL_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0, 5.0),
)
_STAGE_S = (0.0002, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.4, 1.0)
_LAG_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0)

C = TypeVar("C", Counter, Histogram)


class Metrics:
    """All that one process counts, in a registry of its own."""

    def __init__(self, process: str) -> None:
        """`process` is its role, as in its logs."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        build = Info("shortlist_build", "What runs.", registry=self.registry)
        build.info({"process": process, "software": shortlist.__version__})
        self.calls = CallMetrics(self.registry)
        self.pages = PageMetrics(self.registry)
        self.events = EventMetrics(self.registry)
        self.recall = RecallMetrics(self.registry)
        self.attempts = AttemptMetrics(self.registry)
        self._pauses = GcPauses()
        self.registry.register(self._pauses)
        self._lag = LoopLag(
            Histogram(
                "shortlist_event_loop_lag_seconds",
                "Turns of the event loop of 1 ms or more: how long it did not listen.",
                buckets=_LAG_S,
                registry=self.registry,
            ).observe
        )
        Gauge(
            "shortlist_event_loop_lag_max_seconds",
            "The longest turn of the event loop in the last 30 to 60 s.",
            registry=self.registry,
        ).set_function(lambda: self._lag.peak_s)
        Gauge(
            "shortlist_event_loop_busy_max_seconds",
            "The most CPU time that the event loop itself took in one turn, in the same time.",
            registry=self.registry,
        ).set_function(lambda: self._lag.busy_peak_s)

    @property
    def watches(self) -> Watches:
        """Of the parts of the process."""
        return Watches(
            pages=self.pages, events=self.events, recall=self.recall, attempts=self.attempts
        )

    def follow(self, status: Callable[[], TierStatus]) -> None:
        """Show what `status` says, whenever somebody scrapes; it is called from another thread."""
        self.registry.register(TierMetrics(status))

    @contextmanager
    def served(self, host: str, port: int) -> Iterator[int]:
        """Measure, and answer `GET /metrics` from a thread; yields the port (0 = any free one).

        To be entered on the event loop that is watched. Raises `CannotListen`.
        """
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            raise CannotListen(f"cannot serve metrics on {host}:{port}: {error}") from None
        self._lag.start()
        self._pauses.start()
        try:
            yield server.server_port
        finally:
            self._pauses.stop()
            self._lag.stop()
            server.shutdown()
            server.server_close()
            thread.join()


class _Children(dict[tuple[str, ...], C], Generic[C]):
    """Children of a metric by their labels: `labels()` takes a lock and checks names each time."""

    def __init__(self, metric: C) -> None:
        super().__init__()
        self._metric: C = metric

    def __missing__(self, labels: tuple[str, ...]) -> C:
        child = self[labels] = self._metric.labels(*labels)
        return child


class CallMetrics:
    """A `shortlist.telemetry.CallWatch`: calls of the gRPC server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = _Children(
            Counter(
                "shortlist_calls",
                "Calls answered, by gRPC status; a stream counts when it ends.",
                ["service", "method", "status"],
                registry=registry,
            )
        )
        self._seconds = _Children(
            Histogram(
                "shortlist_call_seconds",
                "From the arrival of a call's message to its serialised answer; no streams.",
                ["service", "method"],
                buckets=_CALL_S,
                registry=registry,
            )
        )
        self._refused = _Children(
            Counter(
                "shortlist_calls_refused",
                "Calls refused because as many as the process takes were running.",
                ["service"],
                registry=registry,
            )
        )
        self._running = Gauge(
            "shortlist_calls_running", "Calls running now.", ["service"], registry=registry
        )
        self._places = Gauge(
            "shortlist_calls_limit", "Calls that may run at once.", ["service"], registry=registry
        )
        self._adaptive = Gauge(
            "shortlist_calls_adaptive_limit",
            "Of these, how many pages may run at once now, by how long they take.",
            ["service"],
            registry=registry,
        )

    def serves(self, service: str, running: Callable[[], int], limit: int) -> None:
        self._running.labels(service).set_function(running)
        self._places.labels(service).set(limit)

    def adapts(self, service: str, limit: Callable[[], int]) -> None:
        self._adaptive.labels(service).set_function(limit)

    def answered(self, service: str, method: str, status: str, seconds: float | None) -> None:
        self._calls[service, method, status].inc()
        if seconds is not None:
            self._seconds[service, method].observe(seconds)

    def refused(self, service: str) -> None:
        self._refused[service,].inc()


class PageMetrics:
    """A `shortlist.telemetry.PageWatch`: what the orchestrator's pipelines did and answered."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = _Children(
            Histogram(
                "shortlist_stage_seconds",
                "Duration of a stage of a pipeline.",
                ["pipeline", "stage"],
                buckets=_STAGE_S,
                registry=registry,
            )
        )
        self._items = _Children(
            Counter(
                "shortlist_stage_items",
                "Items that came out of a stage.",
                ["pipeline", "stage"],
                registry=registry,
            )
        )
        self._dropped = _Children(
            Counter(
                "shortlist_stage_dropped_items",
                "Items that a stage took away, by reason.",
                ["pipeline", "stage", "reason"],
                registry=registry,
            )
        )
        self._proposed = _Children(
            Counter(
                "shortlist_source_items",
                "Candidates by the source that proposed them.",
                ["pipeline", "source"],
                registry=registry,
            )
        )
        self._degradations = _Children(
            Counter(
                "shortlist_degradations",
                "What was missing from answers that were OK, by reason.",
                ["pipeline", "reason"],
                registry=registry,
            )
        )
        self._coverage = _Children(
            Histogram(
                "shortlist_coverage_ratio",
                "Items searched of all items, 1 = all of them.",
                ["pipeline"],
                buckets=_SHARES,
                registry=registry,
            )
        )

    def answered(
        self, pipeline: str, trace: Trace, answer: Page | Ranking | SimilarItems | None
    ) -> None:
        for stage in trace.stages:
            name = pipeline, stage.stage
            self._seconds[name].observe(stage.duration_us * 1e-6)
            self._items[name].inc(stage.items_out)
            for reason, count in stage.dropped.items():
                self._dropped[*name, reason].inc(count)
            # The stages behind `retrieve` count the same candidates again.
            if stage.stage == "retrieve":
                self._count_proposed(pipeline, stage.by_source)
        if answer is None:
            return
        for degradation in answer.degradations:
            self._degradations[pipeline, degradation.reason].inc()
        if not isinstance(answer, Ranking):
            self._coverage[pipeline,].observe(answer.coverage.share)

    def _count_proposed(self, pipeline: str, by_source: Mapping[str, int]) -> None:
        for source, count in by_source.items():
            self._proposed[pipeline, source].inc(count)


class EventMetrics:
    """A `shortlist.telemetry.EventWatch`: what was taken in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = _Children(
            Counter(
                "shortlist_events",
                "Events by what became of them: accepted, duplicate, refused, turned_away.",
                ["outcome"],
                registry=registry,
            )
        )
        self._waiting = Gauge(
            "shortlist_events_waiting", "Events that wait to become durable.", registry=registry
        )
        self._limit = Gauge(
            "shortlist_events_waiting_limit",
            "Events that may wait; more are turned away.",
            registry=registry,
        )

    def reads_queue(self, waiting: Callable[[], int], limit: int) -> None:
        self._waiting.set_function(waiting)
        self._limit.set(limit)

    def counted(self, outcome: str, events: int) -> None:
        self._events[outcome,].inc(events)


class AttemptMetrics:
    """A `shortlist.telemetry.AttemptWatch`: calls to replicas, and what became of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._attempts = _Children(
            Counter(
                "shortlist_tier_attempts",
                "Calls to replicas: the first of each, and what was done beside it.",
                ["tier", "what"],
                registry=registry,
            )
        )

    def attempted(self, tier: str, what: str) -> None:
        self._attempts[tier, what].inc()


class RecallMetrics:
    """A `shortlist.telemetry.RecallWatch`: what the indexes of a shard miss."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._true = _Children(
            Counter(
                "shortlist_recall_true_items",
                "Best items of queries that were asked again exactly.",
                ["source"],
                registry=registry,
            )
        )
        self._found = _Children(
            Counter(
                "shortlist_recall_found_items",
                "Those of them that the index had found.",
                ["source"],
                registry=registry,
            )
        )

    def compared(self, source: str, found: int, true: int) -> None:
        self._true[source,].inc(true)
        self._found[source,].inc(found)


class TierMetrics(Collector):
    """The versions that a process holds, and how far each has followed the change log."""

    def __init__(self, status: Callable[[], TierStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        labels = ["tier", "shard", "version", "active"]
        loaded = GaugeMetricFamily("shortlist_version", "1 for each loaded version.", labels=labels)
        items = GaugeMetricFamily(
            "shortlist_version_items", "Items of it that this process holds.", labels=labels
        )
        trained = GaugeMetricFamily(
            "shortlist_version_watermark_seconds",
            "Unix time of the newest event that it was trained on.",
            labels=labels,
        )
        sequence = GaugeMetricFamily(
            "shortlist_log_sequence", "Changes up to this number are applied.", labels=labels
        )
        lag = GaugeMetricFamily(
            "shortlist_log_lag_seconds",
            "Since when it has not known that this was the whole change log.",
            labels=labels,
        )
        for one in status.versions:
            names = [status.tier, str(status.shard), one.version, "yes" if one.active else "no"]
            loaded.add_metric(names, 1)
            items.add_metric(names, one.items)
            trained.add_metric(names, one.watermark_ms / 1000)
            sequence.add_metric(names, one.log.sequence)
            lag.add_metric(names, one.log.lag_ms / 1000)
        return iter((loaded, items, trained, sequence, lag))


class GcPauses(Collector):
    """How long Python's garbage collector has stopped everything, by generation.

    The collector may run while somebody holds a metric's lock, so nothing here takes one.
    """

    def __init__(self) -> None:
        self._seconds = [0.0, 0.0, 0.0]
        self._longest_s = [0.0, 0.0, 0.0]
        self._started = 0.0

    def start(self) -> None:
        gc.callbacks.append(self._notice)

    def stop(self) -> None:
        gc.callbacks.remove(self._notice)

    def collect(self) -> Iterator[Metric]:
        total = CounterMetricFamily(
            "shortlist_gc_pause_seconds", "Seconds spent collecting.", labels=["generation"]
        )
        longest = GaugeMetricFamily(
            "shortlist_gc_pause_max_seconds", "The longest collection.", labels=["generation"]
        )
        for generation, seconds in enumerate(self._seconds):
            total.add_metric([str(generation)], seconds)
            longest.add_metric([str(generation)], self._longest_s[generation])
        return iter((total, longest))

    def _notice(self, phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            self._started = time.perf_counter()
            return
        pause_s = time.perf_counter() - self._started
        generation = about["generation"]
        self._seconds[generation] += pause_s
        self._longest_s[generation] = max(self._longest_s[generation], pause_s)
