"""Profiles, items and events as bytes and JSON, the same in every durable store.

A blob is a row of lengths (uint64), the columns one after the other, little-endian, and a JSON
document. `Unpackable` says that some bytes were not written by this module.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from operator import mul
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import InvalidField
from shortlist.live import CatalogItem, LiveEvent
from shortlist.stores import Impressions, Profile
from shortlist.stores.folding import LiveProfile
from shortlist.tiers import AttributeValue, History, Keys

__all__ = [
    "Unpackable",
    "check_event",
    "event_details",
    "event_of",
    "forgotten_digest",
    "item_of",
    "item_text",
    "json_text",
    "pack_impressions",
    "pack_live",
    "pack_profile",
    "unpack_attributes",
    "unpack_impressions",
    "unpack_keys",
    "unpack_live",
    "unpack_profile",
]

_PROFILE = ("<u8", "<i8", "<u8", "<u8", "<i8", "<f4")
_LIVE = ("<u8", "<i8", "<u8", "<i8", "<f4")
_IMPRESSIONS = ("<u8", "<i8")
_DIGEST_BYTES = 16
# The row of lengths of a packed profile, and how many bytes a value of each column takes.
_LENGTHS = struct.Struct(f"<{len(_PROFILE)}Q")
_WIDTHS = tuple(np.dtype(one).itemsize for one in _PROFILE)


class Unpackable(Exception):
    """Bytes that no store wrote; becomes `ProfilesUnavailable` at the store's boundary."""


def pack_profile(profile: Profile) -> bytes:
    """What an import says of one user."""
    history, impressions = profile.history, profile.impressions
    columns = (
        history.keys,
        history.times_ms,
        profile.seen,
        impressions.keys,
        impressions.times_ms,
        history.weights,
    )
    document = {"attributes": dict(profile.attributes), "counters": dict(profile.counters)}
    return _pack(_PROFILE, columns, document)


def unpack_profile(user_key: int, blob: bytes) -> Profile:
    columns, document = _unpack(_PROFILE, blob)
    keys, times_ms, seen, shown, shown_ms, weights = columns
    return Profile(
        user_key=user_key,
        history=_history(keys, times_ms, weights),
        seen=seen,
        attributes=_attributes(document["attributes"]),
        impressions=Impressions(keys=shown, times_ms=shown_ms),
        counters=document["counters"],
    )


def unpack_attributes(blob: bytes) -> dict[str, AttributeValue]:
    """Of a packed profile, without the rest of it."""
    try:
        lengths = _LENGTHS.unpack_from(blob)
        at = _LENGTHS.size + sum(map(mul, lengths, _WIDTHS))
        return _attributes(json.loads(blob[at:])["attributes"])
    except (ValueError, KeyError, struct.error, OverflowError) as error:
        raise Unpackable(f"a profile cannot be read: {error}") from error


def pack_live(live: LiveProfile) -> bytes:
    history = live.history
    columns = (history.keys, history.times_ms, live.seen, live.seen_ms, history.weights)
    return _pack(_LIVE, columns, dict(live.counters))


def unpack_live(blob: bytes | None) -> LiveProfile:
    """None, for a user without events, is an empty one."""
    if blob is None:
        return LiveProfile()
    columns, counters = _unpack(_LIVE, blob)
    keys, times_ms, seen, seen_ms, weights = columns
    if len(seen) != len(seen_ms):
        raise Unpackable("columns of the items seen differ in length")
    history = _history(keys, times_ms, weights)
    return LiveProfile(history=history, seen=seen, seen_ms=seen_ms, counters=counters)


def pack_impressions(impressions: Impressions) -> bytes:
    return _pack(_IMPRESSIONS, (impressions.keys, impressions.times_ms), {})


def unpack_impressions(blob: bytes | None) -> Impressions:
    """None, for a user who was shown nothing, is an empty one."""
    if blob is None:
        return Impressions()
    (keys, times_ms), _ = _unpack(_IMPRESSIONS, blob)
    return Impressions(keys=keys, times_ms=times_ms)


def unpack_keys(blob: bytes | None) -> tuple[int, ...]:
    """The uint64 numbers of a plain column of them."""
    if not blob:
        return ()
    return tuple(np.frombuffer(blob, "<u8").tolist())


def item_text(item: CatalogItem) -> str:
    """An item as JSON. Raises `InvalidField` for attributes that are not finite."""
    document: dict[str, object] = {"id": item.id}
    if item.title:
        document["title"] = item.title
    if item.attributes:
        document["attributes"] = dict(item.attributes)
    if item.published_ms:
        document["published_ms"] = item.published_ms
    if item.expires_ms:
        document["expires_ms"] = item.expires_ms
    if item.hidden:
        document["hidden"] = True
    return json_text("attributes", document)


def item_of(text: str | bytes) -> CatalogItem:
    try:
        document = json.loads(text)
        attributes = _attributes(document.pop("attributes", {}))
        return CatalogItem(attributes=attributes, **document)
    except (ValueError, TypeError, AttributeError) as error:
        raise Unpackable(f"an item cannot be read: {error}") from error


def check_event(event: LiveEvent) -> None:
    """Raise `InvalidField` for what cannot be stored."""
    if not event.event_id:
        raise InvalidField("event_id", "is empty")
    if not -(2**63) <= event.time_ms < 2**63:
        raise InvalidField("time_ms", f"{event.time_ms} is no 64-bit number")
    if not math.isfinite(event.weight):
        raise InvalidField("weight", f"{event.weight} is not finite")
    if event.value is not None and not math.isfinite(event.value):
        raise InvalidField("value", f"{event.value} is not finite")


def event_details(event: LiveEvent) -> str | None:
    """What no column holds, as JSON; None = nothing."""
    if not event.context and not event.attribution:
        return None
    document = {"context": dict(event.context), "attribution": dict(event.attribution)}
    return json_text("context", document)


def event_of(
    *,
    event_id: str,
    user_id: str,
    item_id: str,
    event_type: str,
    time_ms: int,
    weight: float,
    value: float | None,
    places: tuple[int, ...],
    details: str | None,
) -> LiveEvent:
    document = json.loads(details) if details else {}
    return LiveEvent(
        event_id=event_id,
        user_id=user_id,
        item_id=item_id,
        event_type=event_type,
        time_ms=time_ms,
        weight=weight,
        value=value,
        context=_attributes(document.get("context", {})),
        places=places,
        attribution=document.get("attribution", {}),
    )


def forgotten_digest(user_id: str, salt: bytes) -> bytes:
    """What stays of a deleted user: 16 bytes that tell nothing to somebody without the store."""
    return blake2b(user_id.encode(), key=salt, digest_size=_DIGEST_BYTES).digest()


def json_text(field: str, document: object) -> str:
    """Raises `InvalidField` for what JSON has no word for."""
    try:
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidField(field, str(error)) from None


def _pack(
    types: Sequence[str], columns: Sequence[npt.NDArray[Any]], document: Mapping[str, object]
) -> bytes:
    lengths = np.array([len(column) for column in columns], "<u8")
    bodies = [c.astype(t, copy=False).tobytes() for t, c in zip(types, columns, strict=True)]
    return b"".join([lengths.tobytes(), *bodies, json_text("attributes", document).encode()])


def _unpack(types: Sequence[str], blob: bytes) -> tuple[list[npt.NDArray[Any]], Any]:
    try:
        columns = []
        at = 8 * len(types)
        for type_, length in zip(types, np.frombuffer(blob, "<u8", len(types)), strict=True):
            column = np.frombuffer(blob, type_, int(length), at)
            at += column.nbytes
            columns.append(column)
        return columns, json.loads(blob[at:])
    except (ValueError, OverflowError) as error:
        raise Unpackable(f"a profile cannot be read: {error}") from error


def _history(keys: Keys, times_ms: npt.NDArray[np.int64], weights: npt.NDArray[Any]) -> History:
    if not len(keys) == len(times_ms) == len(weights):
        raise Unpackable("columns of a history differ in length")
    return History(keys=keys, times_ms=times_ms, weights=weights)


def _attributes(document: Mapping[str, Any]) -> dict[str, AttributeValue]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
    }
