"""The pages that the embedded system serves to the test users."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.embedded import embedded
from orchestrator.pipeline import Recommender
from shortlist.config import Config
from shortlist.errors import TierUnavailable
from shortlist.page import DegradationReason, Page, PageRequest
from shortlist.stores.memory import MemoryProfileStore
from training.dataset import Dataset
from training.evaluation.exams import Exam
from training.evaluation.systems import PAGE
from training.profiles import profiles_of
from training.windows import Window

__all__ = ["served_pages"]

Rows = npt.NDArray[np.int32]

_PATIENCE_MS = 600_000
_AT_ONCE = 3  # one page's ranking runs beside another's retrieval


async def served_pages(
    workdir: Path,
    dataset: Dataset,
    window: Window,
    exams: Sequence[Exam],
    config: Config,
    progress: Callable[[int, int], None],
) -> list[Rows]:
    """The page of every test user, as item rows, with what was known before the test part.

    Raises `TierUnavailable` when a page is degraded: it would say nothing of the whole.
    """
    profiles = MemoryProfileStore(
        profiles_of(dataset, history_length=config.serving.history_length, rows=window.known)
    )
    recommender = await embedded(workdir, profiles=profiles, config=_unhurried(config))
    slots, done = asyncio.Semaphore(_AT_ONCE), 0

    async def page_for(exam: Exam) -> Rows:
        nonlocal done
        async with slots:
            page = await _page(recommender, exam)
        done += 1
        progress(done, len(exams))
        rows = [dataset.item_row(item.id) for item in page.items]
        return np.array([row for row in rows if row is not None], np.int32)

    async with recommender:
        return list(await asyncio.gather(*map(page_for, exams)))


async def _page(recommender: Recommender, exam: Exam) -> Page:
    page = await recommender.recommend(
        PageRequest(
            user_id=exam.user_id,
            page_size=PAGE,
            context=exam.user.context,
            time_ms=exam.user.time_ms,
        )
    )
    # A catalogue may be too small for a full page.
    lost = [one for one in page.degradations if one.reason != DegradationReason.PAGE_UNDERFILLED]
    if lost:
        raise TierUnavailable(f"a page to evaluate is degraded: {lost}")
    return page


def _unhurried(config: Config) -> Config:
    """The same system with all the time it needs: a busy machine must not change a measurement."""
    budgets = ("retrieval", "ranking", "describe", "request")
    patience = {f"{name}_budget_ms": _PATIENCE_MS for name in budgets}
    return config.model_copy(update={"serving": config.serving.model_copy(update=patience)})
