"""Where events happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from shortlist.live import LiveEvent
from shortlist.places import place_keys
from shortlist.schema import Feature, Schema
from shortlist.stores import Store
from shortlist.tiers import AttributeValue

__all__ = ["PlaceFinder"]

_REMEMBERED = 50_000  # users
_REMEMBER_S = 60.0  # an import may say other places

_Values = tuple[tuple[str, AttributeValue], ...]  # of geo features, by name


class PlaceFinder:
    """Where events happened: places of their context, and of their users' profiles.

    It is what training counts for the geographic source, so that live counts go on from there.
    """

    def __init__(
        self,
        store: Store,
        schema: Schema | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock = clock
        self._homes: dict[str, tuple[int, ...]] = {}  # by user
        self._forget_at = 0.0
        self._of_events = _geo(schema.context_features if schema else {})
        self._of_users = _geo(schema.user_features if schema else {})

    async def added(self, events: list[LiveEvent]) -> list[LiveEvent]:
        """The events with their places. Raises `ProfilesUnavailable`."""
        homes = await self._homes_of(events)
        found = [_both(self._here(event), homes.get(event.user_id, ())) for event in events]
        return [
            replace(event, places=places) if places else event
            for event, places in zip(events, found, strict=True)
        ]

    def _here(self, event: LiveEvent) -> tuple[int, ...]:
        return _keys(_values(event.context, self._of_events)) if event.context else ()

    async def _homes_of(self, events: Sequence[LiveEvent]) -> dict[str, tuple[int, ...]]:
        """By user; read only where users have places at all, and of each user now and then."""
        if not self._of_users:
            return {}
        if self._clock() >= self._forget_at or len(self._homes) > _REMEMBERED:
            self._homes, self._forget_at = {}, self._clock() + _REMEMBER_S
        homes = self._homes
        new = list({event.user_id: None for event in events if event.user_id not in homes})
        if new:
            found = await self._store.attributes_of(new)
            places = [_keys(_values(one, self._of_users)) for one in found]
            homes.update(zip(new, places, strict=True))
        return homes


def _both(here: tuple[int, ...], home: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(here + home)) if here and home else here or home


def _geo(features: Mapping[str, Feature]) -> tuple[str, ...]:
    return tuple(name for name, feature in features.items() if feature.role == "geo")


def _values(attributes: Mapping[str, AttributeValue], features: Sequence[str]) -> _Values:
    return tuple((name, attributes[name]) for name in features if name in attributes)


@lru_cache(maxsize=10_000)
def _keys(values: _Values) -> tuple[int, ...]:
    """Of many events the places are the same few."""
    return tuple(place_keys(dict(values), [name for name, _ in values]).tolist()) if values else ()
