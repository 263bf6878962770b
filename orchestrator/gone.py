"""Which items may not be shown any more: deleted, hidden, expired.

The shards know them from the same log, and leave them out of every source. This is the second lock:
it also holds for the cached popular items, and for answers that were under way when an item went.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from orchestrator.stages import Draft
from shortlist.errors import TierUnavailable
from shortlist.live import Changes, ItemChange
from shortlist.stores import Store
from shortlist.tailing import LogTailer
from shortlist.tiers import Keys, LogPosition

__all__ = ["UnavailableItems", "UnavailableItemsFilter"]

_NEVER = 0  # a moment long ago: an item that is gone from then on is gone at all times


class UnavailableItems:
    """Follows the log and keeps the items that are gone, or will be. A reader sees one whole state.

    Without a store there is no log, and nothing is ever gone.
    """

    def __init__(self, store: Store | None, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tailer = LogTailer(store, self._apply) if store else None
        # Sorted keys, uint64 [g], and from when on each is gone, int64 [g], Unix milliseconds.
        self._gone = np.empty(0, np.uint64), np.empty(0, np.int64)

    @property
    def known(self) -> bool:
        """Whether the log was ever read to its end."""
        return self._tailer is None or self._tailer.complete

    @property
    def position(self) -> LogPosition:
        """How much of the log is known here."""
        return self._tailer.position if self._tailer else LogPosition()

    async def start(self) -> None:
        """Read the log to its end, and follow it from then on. Raises what the store raises; then
        it is followed all the same."""
        if self._tailer is None:
            return
        try:
            await self._tailer.catch_up()
        finally:
            self._tailer.start()

    async def close(self) -> None:
        if self._tailer is not None:
            await self._tailer.close()

    def among(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Which of `keys` are gone now: bool [n]."""
        gone, since = self._gone
        if not len(gone):
            return np.zeros(len(keys), np.bool_)
        at = np.minimum(np.searchsorted(gone, keys), len(gone) - 1)
        return (gone[at] == keys) & (since[at] <= int(self._clock() * 1000))

    def _apply(self, changes: Changes) -> None:
        """Runs in a thread; the two columns are replaced at once."""
        if not changes.items:
            return
        changed = np.array([one.key for one in changes.items], np.uint64)
        moments = [_gone_from(one) for one in changes.items]
        goes = np.array([moment is not None for moment in moments], np.bool_)
        gone, since = self._gone
        stays = ~np.isin(gone, changed)
        keys = np.concatenate([gone[stays], changed[goes]])
        new = np.array([moment for moment in moments if moment is not None], np.int64)
        order = np.argsort(keys)
        self._gone = keys[order], np.concatenate([since[stays], new])[order]


class UnavailableItemsFilter:
    """What was deleted, is hidden, or has expired."""

    reason = "gone"

    def __init__(self, gone: UnavailableItems) -> None:
        self._gone = gone

    def unwanted(self, draft: Draft) -> Keys:
        """Of the candidates only: there may be many more, and the shards know them already.

        Raises `TierUnavailable` for cached items before the log was read: nobody can tell, then.
        """
        if draft.fallback and not self._gone.known:
            raise TierUnavailable(
                "no shard answers, and the log that tells which cached items are gone was not read"
            )
        keys = draft.candidates.keys
        return keys[self._gone.among(keys)]


def _gone_from(change: ItemChange) -> int | None:
    """From when on the item may not be shown; None = it may be shown for ever."""
    item = change.item
    if item is None or item.hidden:
        return _NEVER
    return item.expires_ms or None
