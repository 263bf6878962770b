"""Takes users who were deleted while serving out of the imported data set, before it is read.

An import may have read them from files that were written before; a training job must not learn from
them, and no file of the workdir may go on holding their ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shortlist.config import Config, StoreConfig
from shortlist.stores.opening import STORE_FILE, open_store, store_url
from training.dataset import Dataset, drop_users

__all__ = ["load_remembered", "take_out_the_forgotten"]

_IDS_A_QUESTION = 10_000


def load_remembered(workdir: Path, config: Config) -> Dataset:
    """The workdir's data set without users who were deleted: what a training job begins with.

    Raises `ProfilesUnavailable` when the store cannot say who was, and `DatasetUnreadable`.
    """
    take_out_the_forgotten(workdir, config)
    return Dataset.load(workdir / "dataset")


def take_out_the_forgotten(workdir: Path, config: Config) -> int:
    """Write the data set anew if it has deleted users; returns how many it had."""
    if not store_url(config.store) and not (workdir / STORE_FILE).exists():
        return 0  # nothing was ever recorded or deleted
    dataset = Dataset.load(workdir / "dataset")
    gone = asyncio.run(_forgotten(config.store, workdir, dataset.user_ids.to_pylist()))
    if gone.any():
        drop_users(workdir / "dataset", gone)
    return int(gone.sum())


async def _forgotten(
    config: StoreConfig, workdir: Path, ids: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Aligned with `ids`."""
    store = open_store(config, workdir)
    try:
        answers: list[bool] = []
        for start in range(0, len(ids), _IDS_A_QUESTION):
            answers += await store.is_forgotten(ids[start : start + _IDS_A_QUESTION])
        return np.array(answers, bool)
    finally:
        await store.close()
