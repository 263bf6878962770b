"""What training writes is what serving reads, for every source that is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval_svc.rows import Allowed
from retrieval_svc.source_data import SharedData, SourceData
from retrieval_svc.sources import SOURCES, SliceView, SourceQuery
from shortlist.config import RetrievalConfig
from tests.retrieval_svc.factory import PARIS, unit, user_who_liked
from tests.training.tiny import DAY_MS, tiny_dataset
from training.sources import TRAINERS, Absent, SourceLesson

ITEMS, USERS, EVENTS = 60, 30, 900


@pytest.fixture(scope="module")
def lesson() -> SourceLesson:
    """Interactions at random, of a catalogue and of users that have every kind of feature."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.integers(DAY_MS, 90 * DAY_MS, size=EVENTS))
    dataset = tiny_dataset(
        rng.integers(USERS, size=EVENTS),
        rng.integers(ITEMS, size=EVENTS),
        users=USERS,
        items=ITEMS,
        time_ms=times,
        weight=rng.choice([0.0, 1.0, 2.0], size=EVENTS),
        item_features={
            "maker": ("creator", [f"maker-{row % 5}" for row in range(ITEMS)]),
            "genre": ("categorical", [f"genre-{row % 7}" for row in range(ITEMS)]),
        },
        user_features={
            "country": ("geo", ["france", "iceland"] * (USERS // 2)),
            "home": ("geo", [(48.86, 2.35), (64.1, -21.9)] * (USERS // 2)),
        },
    )
    return SourceLesson(
        dataset=dataset,
        rows=np.arange(EVENTS),
        as_of_ms=int(times[-1]),
        config=RetrievalConfig(),
        half_life_ms=10.0 * DAY_MS,
    )


@pytest.fixture(scope="module")
def views(lesson: SourceLesson, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SliceView]:
    """One slice with all items, through files."""
    folder = tmp_path_factory.mktemp("trained")
    found: dict[str, SliceView] = {}
    for name, train in TRAINERS.items():
        trained = train(lesson)
        assert not isinstance(trained, Absent)
        found[name] = SliceView(
            source=name,
            keys=lesson.dataset.item_keys,
            vectors=unit(np.random.default_rng(0).normal(size=(ITEMS, 4))),
            watermark_ms=lesson.as_of_ms,
            data=_written(trained.data, folder / "slice" / name),
            shared=_shared(trained.shared, folder / name),
            slice_folder=folder / "slice",
            artifact=folder,
            siblings=found,
        )
    return found


def _written(data: SourceData, folder: Path) -> SourceData:
    folder.mkdir(parents=True)
    data.save(folder)
    return SourceData.load(folder, ITEMS)


def _shared(shared: SharedData, folder: Path) -> SharedData:
    folder.mkdir()
    shared.save(folder)
    return SharedData.load(folder)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trained_source_opens_and_proposes(
    views: dict[str, SliceView], lesson: SourceLesson, name: str
) -> None:
    liked = [int(key) for key in lesson.dataset.item_keys[[3, 5, 9]]]
    user = user_who_liked(*liked, country="france", home=PARIS)
    source = SOURCES[name].open(views[name])
    rows, scores = source.propose(
        SourceQuery(user=user, allowed=Allowed(exclude=np.array([3, 5, 9]))), 10
    )
    assert len(rows) >= 5
    assert np.isfinite(scores).all()
    assert not np.isin(rows, [3, 5, 9]).any()


def test_every_source_but_the_two_tower_is_trained_by_a_trainer() -> None:
    assert ["two_tower", *TRAINERS] == list(SOURCES)


def test_creators_and_contents_lead_to_what_is_alike(
    views: dict[str, SliceView], lesson: SourceLesson
) -> None:
    user = user_who_liked(int(lesson.dataset.item_keys[10]))
    for name, period in (("creator", 5), ("content", 35)):
        source = SOURCES[name].open(views[name])
        rows, _ = source.propose(SourceQuery(user=user, allowed=Allowed(exclude=np.array([10]))), 1)
        assert rows[0] % period == 10 % period
