"""What the store has logged since an import, in columns: events, and items that have changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shortlist.live import CatalogItem, LiveEvent
from shortlist.stores import Store
from shortlist.tiers import AttributeValue

__all__ = ["LoggedEvents", "read_changed_items", "read_events"]

_ROWS_A_PIECE = 65_536  # that are Python objects at a time
_CHANGES_A_READ = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEvents:
    """Events in the order of the log, e rows."""

    sequence: npt.NDArray[np.int64]  # int64 [e], ascending
    user: pa.DictionaryArray  # ids
    item: pa.DictionaryArray  # ids
    event: pa.DictionaryArray  # types
    time_ms: npt.NDArray[np.int64]  # int64 [e]
    value: npt.NDArray[np.float32]  # float32 [e], NaN = none
    context: dict[str, pa.Array]  # strings [e], null = unknown; the contexts that were asked for

    def __len__(self) -> int:
        return len(self.sequence)


async def read_events(
    store: Store, *, upto: int, contexts: Sequence[str], after: int = 0
) -> LoggedEvents:
    """All events with numbers above `after`, up to and with `upto`. Raises what the store raises.

    Memory is bounded by the columns: a log has few different users and items beside its events.
    """
    pieces = _Pieces(contexts)
    async for stored in store.events(after, upto):
        pieces.add(stored.sequence, stored.event)
    return pieces.columns()


async def read_changed_items(store: Store) -> dict[int, CatalogItem | None]:
    """Items that were added, changed or deleted while serving, by key, as they are now.

    None = deleted, or hidden. Raises what the store raises.
    """
    found: dict[int, CatalogItem | None] = {}
    after = 0
    while True:
        changes = await store.changes(after, _CHANGES_A_READ)
        for change in changes.items:
            shown = change.item is not None and not change.item.hidden
            found[change.key] = change.item if shown else None
        after = changes.sequence
        if after >= changes.head:
            return found


class _Pieces:
    """Takes events one by one, and turns them into columns piece by piece."""

    def __init__(self, contexts: Sequence[str]) -> None:
        self._contexts = contexts
        self._rows: list[tuple[Any, ...]] = []
        self._batches: list[pa.RecordBatch] = []
        text = pa.dictionary(pa.int32(), pa.string())
        self._schema = pa.schema(
            [
                ("sequence", pa.int64()),
                ("user", text),
                ("item", text),
                ("event", text),
                ("time_ms", pa.int64()),
                ("value", pa.float64()),
                *((f"ctx_{name}", text) for name in contexts),
            ]
        )

    def add(self, sequence: int, event: LiveEvent) -> None:
        said = event.context
        self._rows.append(
            (
                sequence,
                event.user_id,
                event.item_id,
                event.event_type,
                event.time_ms,
                event.value,
                *(_text(said.get(name)) for name in self._contexts),
            )
        )
        if len(self._rows) == _ROWS_A_PIECE:
            self._flush()

    def columns(self) -> LoggedEvents:
        self._flush()
        table = pa.Table.from_batches(self._batches, self._schema).unify_dictionaries()
        value = table["value"].to_numpy().astype(np.float32)
        return LoggedEvents(
            sequence=table["sequence"].to_numpy(),
            user=_joined(table["user"]),
            item=_joined(table["item"]),
            event=_joined(table["event"]),
            time_ms=table["time_ms"].to_numpy(),
            value=value,
            context={
                name: _joined(table[f"ctx_{name}"]).cast(pa.string()) for name in self._contexts
            },
        )

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [_array(c, one.type) for c, one in zip(columns, self._schema, strict=True)]
            self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
            self._rows = []


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.string()).dictionary_encode()
    return pa.array(values, kind)


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def _text(value: AttributeValue | None) -> str | None:
    """A context as an import has it: one string, else unknown."""
    if isinstance(value, tuple) and len(value) == 1:
        return value[0]
    return value if isinstance(value, str) and value else None
