"""Pages over real shards, with every source and ScaNN: full as long as enough items qualify."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from orchestrator.assemble import assemble
from orchestrator.pipeline import Recommender
from retrieval_svc.shard import LocalRetriever
from shortlist.artifacts import ArtifactStore
from shortlist.config import Config, SlateConfig
from shortlist.ids import key_of
from shortlist.page import PageRequest
from shortlist.stores import Profile
from shortlist.stores.memory import MemoryProfileStore
from shortlist.tiers import History
from tests.orchestrator.world import KeyRanker, reasons
from tests.retrieval_svc.factory import WATERMARK_MS, Catalogue, publish

ITEMS, SHARDS = 4000, 2
CATALOGUE = Catalogue.random(ITEMS)
SEEN = np.arange(0, ITEMS, 3)  # rows that the user has seen, a third of everything
EXCLUDED = np.arange(1, ITEMS, 300)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("filters")
    publish(ArtifactStore(folder), CATALOGUE, shards=SHARDS, exact_below=0, k=100)
    return folder


@pytest.fixture
async def recommender(artifacts: Path) -> AsyncIterator[Recommender]:
    store = ArtifactStore(artifacts)
    shards = [[LocalRetriever.open(store, shard)] for shard in range(SHARDS)]
    config = Config(slate=SlateConfig(diversity=0.0))
    users = [("ann", a_user_who_saw(SEEN))]
    async with assemble(config, shards, [KeyRanker()], MemoryProfileStore(users)) as recommender:
        yield recommender


def a_user_who_saw(rows: np.ndarray) -> Profile:
    keys = CATALOGUE.keys[rows]
    history = History(
        keys=keys[:50],
        times_ms=np.full(50, WATERMARK_MS, np.int64),
        weights=np.ones(50, np.float32),
    )
    return Profile(user_key=key_of("ann"), history=history, seen=keys, attributes={})


def qualifying(filter_rows: np.ndarray) -> set[str]:
    """Ids of the rows that pass the filter and that the user may see."""
    rows = np.setdiff1d(filter_rows, np.concatenate([SEEN, EXCLUDED]))
    return {CATALOGUE.ids[row] for row in rows.tolist()}


# The factory's row r costs r, is of genre r % 7, and of one of two makers or none.
ROWS = np.arange(ITEMS)
CHEAP = ROWS[:400]


@pytest.mark.parametrize(
    ("filter", "blocked", "rows"),
    [
        ("price >= 0", {}, ROWS),
        ('genre IN ("genre-1", "genre-2")', {}, ROWS[np.isin(ROWS % 7, (1, 2))]),
        (
            "price < 400",
            {"genre": ("genre-3", "genre-5")},
            CHEAP[~np.isin(CHEAP % 7, (3, 5))],
        ),
        ("price >= 3900 AND tags HAS 'tag-1'", {}, ROWS[3900:][ROWS[3900:] % 3 == 1]),
        ("price IN (100, 101, 102, 103, 104)", {"maker": ("ann",)}, ROWS[[101, 103]]),
        ("price > 1e6", {}, ROWS[:0]),
    ],
)
async def test_a_page_is_full_while_enough_items_qualify(
    recommender: Recommender, filter: str, blocked: dict[str, tuple[str, ...]], rows: np.ndarray
) -> None:
    request = PageRequest(
        user_id="ann",
        page_size=50,
        filter=filter,
        blocked=blocked,
        exclude_item_ids=tuple(CATALOGUE.ids[row] for row in EXCLUDED.tolist()),
    )
    page = await recommender.recommend(request)
    expected = qualifying(rows)
    shown = {item.id for item in page.items}
    assert shown <= expected
    assert len(page.items) == len(shown) == min(50, len(expected))
    assert reasons(page) == (["PAGE_UNDERFILLED"] if len(expected) < 50 else [])


async def test_the_funnel_tells_what_the_filter_dropped(recommender: Recommender) -> None:
    page = await recommender.recommend(PageRequest(filter="price < 1000", trace=True))
    assert page.trace is not None
    retrieve = next(stage for stage in page.trace.stages if stage.stage == "retrieve")
    assert retrieve.dropped["filtered"] == ITEMS - 1000
