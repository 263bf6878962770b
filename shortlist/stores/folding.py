"""How events become a profile: the rules that the durable stores share.

What is live of a user is a sum of events that does not depend on the order they came in. A history
keeps the newest by (time, item, weight). Of the items seen, those with the newest last sight stay:
whatever pushes one out is newer than it, and can only become newer still.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shortlist.config import StoreConfig
from shortlist.stores import Impressions, Profile
from shortlist.tiers import Floats, History, Keys

__all__ = ["Bounds", "LiveProfile", "NewEvents", "add_impressions", "fold", "overlay"]

Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The most that is kept of one user."""

    history: int  # events
    seen: int  # items
    impressions: int  # items shown

    @staticmethod
    def of(config: StoreConfig) -> Bounds:
        return Bounds(
            history=config.history_length, seen=config.seen_length, impressions=config.impressions
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvents:
    """Events of one user in any order, e rows."""

    keys: Keys  # uint64 [e], of items
    times_ms: Times  # int64 [e]
    weights: Floats  # float32 [e]
    types: Sequence[str]  # [e]


def _no_keys() -> Keys:
    return np.empty(0, np.uint64)


def _no_times() -> Times:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveProfile:
    """What events have said of one user; an import says the rest."""

    history: History = field(default_factory=History.empty)  # by (time, item, weight)
    seen: Keys = field(default_factory=_no_keys)  # uint64 [s], by (last sight, key)
    seen_ms: Times = field(default_factory=_no_times)  # int64 [s], the last sight
    counters: Mapping[str, int] = field(default_factory=dict)  # by event type


def fold(live: LiveProfile, events: NewEvents, bounds: Bounds) -> LiveProfile:
    """`live` with `events`; the same for the same events, however they were cut and ordered."""
    seen, seen_ms = _newest_sights(
        np.concatenate([live.seen, events.keys]),
        np.concatenate([live.seen_ms, events.times_ms]),
        bounds.seen,
    )
    return LiveProfile(
        history=_newest_events(live.history, events, bounds.history),
        seen=seen,
        seen_ms=seen_ms,
        counters=_sum(live.counters, Counter(events.types)),
    )


def overlay(
    user_key: int,
    base: Profile | None,
    live: LiveProfile,
    impressions: Impressions,
    bounds: Bounds,
) -> Profile:
    """The profile of a user: what an import said, beneath what has happened since."""
    if base is None:
        return Profile(
            user_key=user_key,
            history=live.history,
            seen=np.sort(live.seen),
            impressions=impressions,
            counters=live.counters,
        )
    return Profile(
        user_key=user_key,
        history=_after(base.history, live.history, bounds.history),
        seen=_seen_of_both(base.seen, live.seen, bounds.seen),
        attributes=base.attributes,
        impressions=add_impressions(base.impressions, impressions, bounds),
        counters=_sum(base.counters, live.counters),
    )


def add_impressions(known: Impressions, more: Impressions, bounds: Bounds) -> Impressions:
    """Both, oldest first, the newest kept; `more` comes later where times are the same."""
    if not len(more.keys):
        return known
    keys = np.concatenate([known.keys, more.keys])
    times_ms = np.concatenate([known.times_ms, more.times_ms])
    order = np.argsort(times_ms, kind="stable")[-bounds.impressions :]
    return Impressions(keys=keys[order], times_ms=times_ms[order])


def _newest_events(history: History, events: NewEvents, most: int) -> History:
    keys = np.concatenate([history.keys, events.keys])
    times_ms = np.concatenate([history.times_ms, events.times_ms])
    weights = np.concatenate([history.weights, events.weights])
    order = np.lexsort((weights, keys, times_ms))[-most:]
    return History(keys=keys[order], times_ms=times_ms[order], weights=weights[order])


def _newest_sights(keys: Keys, times_ms: Times, most: int) -> tuple[Keys, Times]:
    order = np.lexsort((times_ms, keys))
    keys, times_ms = keys[order], times_ms[order]
    last = np.ones(len(keys), bool)
    last[:-1] = keys[1:] != keys[:-1]
    keys, times_ms = keys[last], times_ms[last]
    order = np.lexsort((keys, times_ms))[-most:]
    return keys[order], times_ms[order]


def _after(base: History, live: History, most: int) -> History:
    """Both by time; an import's events keep their order, and come first where times are the same:
    data without times has nothing but its order.
    """
    if not len(live):
        return base
    times_ms = np.concatenate([base.times_ms, live.times_ms])
    order = np.argsort(times_ms, kind="stable")[-most:]
    return History(
        keys=np.concatenate([base.keys, live.keys])[order],
        times_ms=times_ms[order],
        weights=np.concatenate([base.weights, live.weights])[order],
    )


def _seen_of_both(base: Keys, live: Keys, most: int) -> Keys:
    """By key, unless the import alone speaks. What events say stays when there is too much."""
    if not len(live):
        return base
    room = max(0, most - len(live))
    older = np.setdiff1d(base, live)
    return np.sort(np.concatenate([older[len(older) - min(room, len(older)) :], live]))


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted(one.keys() | other)}
