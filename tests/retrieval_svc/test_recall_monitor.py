from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retrieval_svc.live import LiveGeneration
from retrieval_svc.recall_monitor import RecallMonitor
from shortlist.telemetry import Unwatched
from shortlist.tiers import RetrieveQuery
from tests.retrieval_svc.factory import Catalogue, query, user_who_liked, write_files
from tests.retrieval_svc.live_slice import changes, live_slice, opened

CATALOGUE = Catalogue.random(6000)
QUERY = query(user_who_liked(*CATALOGUE.keys[:3]), quotas={"two_tower": 100, "popular": 50})


class Watch:
    """Keeps the figures that it hears."""

    def __init__(self) -> None:
        self.figures: list[tuple[str, int, int]] = []
        self._heard = threading.Event()

    def compared(self, source: str, found: int, true: int) -> None:
        self.figures.append((source, found, true))
        self._heard.set()

    def hear(self, live: LiveGeneration, asked: RetrieveQuery = QUERY) -> None:
        """Ask until a query was looked at: those that come while one is compared are not."""
        self._heard.clear()
        for _ in range(200):
            live.retrieve(asked)
            if self._heard.wait(0.05):
                return
        raise AssertionError("no query was looked at")


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> LiveGeneration:
    return live_slice(tmp_path_factory.mktemp("slice"), CATALOGUE)  # exact


@pytest.fixture(scope="module")
def slack(tmp_path_factory: pytest.TempPathFactory, truth: LiveGeneration) -> Path:
    """A slice whose index looks at too little.

    How many leaves are too few depends on the leaves, which no two machines train alike; and where
    they hold fewer items than asked, the search is exact.
    """
    folder = tmp_path_factory.mktemp("slice")
    write_files(folder, CATALOGUE, shards=1, exact_below=0, k=100)
    settings = folder / "shard-00000" / "two_tower" / "index" / "index.json"
    trained = json.loads(settings.read_text())
    for leaves in range(2, 16):
        settings.write_text(json.dumps(trained | {"leaves_to_search": leaves}))
        if shared_keys(truth, opened(folder, CATALOGUE)) < 100:
            return folder
    raise AssertionError("this index misses nothing")


def shared_keys(one: LiveGeneration, other: LiveGeneration) -> int:
    return int(np.isin(keys_of_two_tower(one), keys_of_two_tower(other)).sum())


def keys_of_two_tower(live: LiveGeneration) -> np.ndarray:
    return next(one.keys for one in live.retrieve(QUERY).sources if one.source == "two_tower")


def test_what_the_index_misses_is_told(slack: Path, truth: LiveGeneration) -> None:
    watch = Watch()
    live = opened(slack, CATALOGUE, recall=RecallMonitor(1.0, watch))
    watch.hear(live)
    found = shared_keys(truth, live)
    assert watch.figures[0] == ("two_tower", found, 100)
    assert found < 100
    assert {source for source, _, _ in watch.figures} == {"two_tower"}, "the others miss nothing"


def test_items_that_are_gone_are_not_missed(slack: Path, truth: LiveGeneration) -> None:
    watch = Watch()
    live = opened(slack, CATALOGUE, recall=RecallMonitor(1.0, watch))
    place = {key: at for at, key in enumerate(CATALOGUE.keys.tolist())}
    near = [CATALOGUE.ids[place[key]] for key in keys_of_two_tower(truth).tolist()]
    live.apply(changes(deleted=near))
    watch.hear(live)
    [(_, found, true)] = watch.figures[:1]
    assert true == 100
    assert 0 < found <= 100


def test_a_comparison_that_fails_does_not_end_the_others(slack: Path) -> None:
    watch = Watch()
    monitor = RecallMonitor(1.0, watch)
    live = opened(slack, CATALOGUE, recall=monitor)
    answer = live.generation.retrieve(QUERY)
    nonsense = replace(QUERY, filter='colour = "red"')
    monitor.offer(live.generation, live.snapshot, nonsense, answer)
    watch.hear(live)


def test_exact_indexes_are_not_asked_twice(truth: LiveGeneration, slack: Path) -> None:
    watch = Watch()
    monitor = RecallMonitor(1.0, watch)
    for _ in range(20):
        monitor.offer(truth.generation, truth.snapshot, QUERY, truth.retrieve(QUERY))
    live = opened(slack, CATALOGUE, recall=monitor)
    watch.hear(live)
    assert all(found < true for _, found, true in watch.figures)


def test_only_a_share_of_the_queries_is_looked_at(slack: Path) -> None:
    watch = Watch()
    live = opened(slack, CATALOGUE, recall=RecallMonitor(0.1, watch))
    for _ in range(100):
        live.retrieve(QUERY)
        time.sleep(0.002)  # a comparison ends before the next query
    assert len(watch.figures) < 50


@pytest.mark.parametrize(("share", "watch"), [(0.0, Watch()), (0.5, Unwatched())])
def test_nobody_compares_for_nobody(share: float, watch: Watch) -> None:
    assert RecallMonitor.wanted(share, watch) is None


def test_a_closed_monitor_takes_no_more(slack: Path) -> None:
    watch = Watch()
    monitor = RecallMonitor(1.0, watch)
    live = opened(slack, CATALOGUE, recall=monitor)
    monitor.close()
    for _ in range(3):
        live.retrieve(QUERY)
    assert watch.figures == []
