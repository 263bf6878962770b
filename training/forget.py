"""Takes users who were deleted while serving out of the imported data set, before it is read.

An import may have read them from files that were written before; a training job must not learn from
them, and no file of the workdir may go on holding their ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from shortlist.config import Config
from shortlist.stores import Store
from shortlist.stores.opening import STORE_FILE, open_store, store_url
from training.dataset import Dataset, drop_users

__all__ = ["Remembered", "load_remembered", "take_out_the_forgotten"]

_IDS_A_QUESTION = 10_000

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """An imported data set without users who were deleted."""

    dataset: Dataset
    forgotten_sequence: int  # of the log: nobody who was deleted up to this change is in it


def load_remembered(workdir: Path, config: Config) -> Remembered:
    """What a training job begins with.

    Raises `ProfilesUnavailable` when the store cannot say who was deleted, and `DatasetUnreadable`.
    """
    forgotten_sequence = take_out_the_forgotten(workdir, config)
    return Remembered(
        dataset=Dataset.load(workdir / "dataset"), forgotten_sequence=forgotten_sequence
    )


def take_out_the_forgotten(workdir: Path, config: Config) -> int:
    """Write the data set anew if it may tell of deleted users; returns the change of the log up to
    which it tells of none. Raises what `load_remembered` raises.
    """
    if not store_url(config.store) and not (workdir / STORE_FILE).exists():
        return 0  # nothing was ever recorded or deleted
    head, deleted = _asked(config, workdir, _head_and_deleted)
    if deleted:
        drop_users(workdir / "dataset", lambda ids: _asked(config, workdir, partial(_gone, ids)))
    return head


async def _head_and_deleted(store: Store) -> tuple[int, int]:
    """The head first: whoever is deleted later may be counted, but is not promised."""
    return await store.head(), await store.count_forgotten()


async def _gone(ids: Sequence[str], store: Store) -> npt.NDArray[np.bool_]:
    """Aligned with `ids`."""
    answers: list[bool] = []
    for start in range(0, len(ids), _IDS_A_QUESTION):
        answers += await store.is_forgotten(ids[start : start + _IDS_A_QUESTION])
    return np.array(answers, bool)


def _asked(config: Config, workdir: Path, question: Callable[[Store], Awaitable[Answer]]) -> Answer:
    async def ask() -> Answer:
        store = open_store(config.store, workdir)
        try:
            return await question(store)
        finally:
            await store.close()

    return asyncio.run(ask())
