from __future__ import annotations

import numpy as np
import pytest

from shortlist.config import RetrievalConfig
from tests.training.tiny import DAY_MS, random_dataset, tiny_dataset
from training.dataset import Dataset
from training.half_life import _Judges, choose_half_life, recency_half_life
from training.metrics import ndcg
from training.sources import TRAINERS, SourceLesson, TrainedSource, popular
from training.windows import Window, backtest_window


def chosen(dataset: Dataset, **config: float) -> float | None:
    return choose_half_life(dataset, backtest_window(dataset), RetrievalConfig(**config))


def world(*, fashion_days: int | None) -> Dataset:
    """400 days in which items are liked always alike, or take turns of so many days each."""
    rng = np.random.default_rng(0)
    rows = 8000
    days = np.sort(rng.uniform(0, 400, rows))
    item = np.minimum(rng.geometric(0.05, size=rows), 60) - 1
    if fashion_days is not None:
        item = (item // 20 + 7 * (days // fashion_days).astype(int)) % 60
    return tiny_dataset(
        rng.integers(2500, size=rows),
        item,
        users=2500,
        items=60,
        time_ms=(days * DAY_MS).astype(np.int64),
        split=["validation" if day > 392 else "train" for day in days],
    )


def test_popularity_that_lasts_gets_a_longer_half_life_than_what_passes() -> None:
    passing, lasting = chosen(world(fashion_days=8)), chosen(world(fashion_days=None))
    assert passing is not None
    assert lasting is not None
    assert passing < 8 * DAY_MS < lasting


def test_the_configured_half_life_is_not_tried_against_others() -> None:
    assert chosen(random_dataset(), half_life_days=2.5) == 2.5 * DAY_MS


def test_data_without_times_has_none() -> None:
    dataset = random_dataset(timed=False)
    assert chosen(dataset) is None
    assert recency_half_life(dataset, np.arange(10)) is None


def test_where_nobody_can_judge_it_is_a_part_of_the_span() -> None:
    dataset = tiny_dataset([0, 1], [0, 1], time_ms=[0, 2000])
    window = Window(known=np.arange(2), next=np.empty(0, np.int64), as_of_ms=2000)
    assert choose_half_life(dataset, window, RetrievalConfig()) == 100
    assert recency_half_life(dataset, np.arange(2)) == 100


@pytest.mark.parametrize("seed", range(3))
def test_judges_find_the_ndcg_that_a_loop_over_users_finds(seed: int) -> None:
    dataset = random_dataset(rows=900, users=30, items=300, seed=seed)
    window = backtest_window(dataset)
    lesson = SourceLesson(
        dataset=dataset,
        rows=window.known,
        as_of_ms=window.as_of_ms,
        config=RetrievalConfig(),
        half_life_ms=9.0 * DAY_MS,
    )
    source = TRAINERS["popular"](lesson)
    assert isinstance(source, TrainedSource)
    order = np.argsort(-popular.scores_of(source), kind="stable").tolist()
    events, gains = dataset.events, []
    for user in range(30):
        seen = set(events.item[window.known[events.user[window.known] == user]].tolist())
        rows = window.next[events.user[window.next] == user]
        wanted = set(events.item[rows[events.weight[rows] > 0]].tolist()) - seen
        if wanted:
            gains.append(ndcg([item for item in order if item not in seen], wanted, 100))
    assert _Judges(dataset, window, 0).score(lesson) == pytest.approx(np.mean(gains))
