"""Events that happen while a version serves, and the sources that learn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from retrieval_svc.brute_force import Floats
from retrieval_svc.rows import Rows
from retrieval_svc.source_data import SharedData, SourceData
from shortlist.live import CatalogItem

__all__ = ["Learned", "LearningSource", "ObservedEvents"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedEvents:
    """Events of the log as the sources of one slice or segment see them, e of them.

    All events of the log are here, whoever has their items: shares of all events mean the same in
    every shard only if each counts all.
    """

    rows: Rows  # int64 [e], rows of the slice; -1 = an item that is not in it
    times_ms: npt.NDArray[np.int64]  # int64 [e]
    weights: Floats  # float32 [e]; 0 = seen but not liked
    values: Floats  # float32 [e], NaN = none
    places: Sequence[tuple[int, ...]]  # [e], keys of where each happened
    newest_ms: int  # newest time of an event of the log so far, of these and all before; 0 = none

    @staticmethod
    def none(newest_ms: int) -> ObservedEvents:
        """No event, but time has passed."""
        return ObservedEvents(
            rows=np.empty(0, np.int64),
            times_ms=np.empty(0, np.int64),
            weights=np.empty(0, np.float32),
            values=np.empty(0, np.float32),
            places=(),
            newest_ms=newest_ms,
        )

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a source knows by now, in the form that it was opened with.

    A view with `data` and `shared` opens as a source that goes on where this one is. The parts of
    sources that observed the same events may be joined, taken apart and opened anew like those of
    an artifact; `shared` is then the same for all of them.
    """

    shared: SharedData
    gather: Callable[[], SourceData]  # may cost a pass over everything

    @cached_property
    def data(self) -> SourceData:
        return self.gather()


@runtime_checkable
class LearningSource(Protocol):
    """A source that follows events: each batch of them makes the next snapshot of it.

    A snapshot never changes, so that queries may go on with one while the next is made. Making one
    twice from the same snapshot gives the same.
    """

    def observing(self, events: ObservedEvents) -> Self:
        """The source with `events` counted, each of which has not been counted before.

        Costs what the batch costs, and now and then a pass over all rows. Sources of one version
        that shall be compared (base, segments, shards) must have observed up to one `newest_ms`:
        call it with `ObservedEvents.none` where there is nothing else to say.
        """
        ...

    def learned(self) -> Learned: ...

    @staticmethod
    def new_items(shared: SharedData, items: Sequence[CatalogItem]) -> SourceData:
        """Columns and lists of items that nobody has met yet, in the order given: a segment of them
        opens with these and with the `shared` of `learned`.
        """
        ...
