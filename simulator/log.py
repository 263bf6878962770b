"""The event log of a world: sessions, their pages, and what was clicked and liked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.arrays import Floats, Indices, Mask
from simulator.clicks import ClickModel, sigmoid
from simulator.config import MS_PER_HOUR, WorldConfig
from simulator.counters import stream_key
from simulator.exposure import ConsumedPairs, LoggingPolicy
from simulator.population import Population

EVENT_TYPES = ("click", "like")

_EVENTS_PER_BLOCK = 20_000
_SESSIONS_AT_ONCE = 1_024
_FEWEST_SESSIONS_AT_ONCE = 8
_MOST_PAGES = 6  # of a session
_LAST_PAGE_PROBABILITY = 0.5
_MS_BETWEEN_PAGES = 90_000
_MS_BETWEEN_POSITIONS = 2_500
_MS_BEFORE_LIKE = 20_000
_LONGEST_SESSION_MS = (_MOST_PAGES + 1) * _MS_BETWEEN_PAGES
_EXPECTED_EVENTS_PER_SESSION = 5.0
# With fewer events a session, the users have run out of items, and the block is left short.
_FEWEST_EVENTS_PER_SESSION = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Events:
    """Clicks and likes in the order of time; arrays are aligned."""

    user: Indices  # [n]
    item: Indices  # [n]
    time_ms: Indices  # [n]
    kind: Indices  # [n], into EVENT_TYPES
    device: Indices  # [n], into DEVICES

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, kw_only=True, slots=True)
class Impressions:
    """What was shown in a block of time, and what came of it; arrays are aligned."""

    session: Indices  # [n], numbered from 0 within the block
    user: Indices  # [n]
    item: Indices  # [n]
    position: Indices  # [n], 0 is the top of a page
    time_ms: Indices  # [n]: when the user came to this position
    device: Indices  # [n], into DEVICES
    clicked: Mask  # [n]
    liked: Mask  # [n], only what was clicked

    def __len__(self) -> int:
        return len(self.user)

    def events(self) -> Events:
        """The clicks and likes among them."""
        clicks, likes = np.flatnonzero(self.clicked), np.flatnonzero(self.liked)
        source = np.concatenate([clicks, likes])
        kind = np.repeat(np.arange(len(EVENT_TYPES)), [len(clicks), len(likes)])
        time_ms = self.time_ms[source] + kind * _MS_BEFORE_LIKE
        order = np.lexsort((kind, self.item[source], self.user[source], time_ms))
        source = source[order]
        return Events(
            user=self.user[source],
            item=self.item[source],
            time_ms=time_ms[order],
            kind=kind[order],
            device=self.device[source],
        )


@dataclass(frozen=True, slots=True)
class _Block:
    """A span of whole hours, generated at once."""

    number: int
    hours: Indices  # since the start
    last_event: int  # how many events the log should have up to the end of this block


@dataclass(frozen=True, slots=True)
class _Sessions:
    """Some visits; arrays are aligned."""

    start_ms: Indices
    user: Indices
    device: Indices
    pages: Indices  # how many

    def __len__(self) -> int:
        return len(self.user)


class EventLog:
    """Generates the log. Iterating twice gives the same log twice; memory is bounded by a block."""

    def __init__(
        self,
        config: WorldConfig,
        population: Population,
        policy: LoggingPolicy,
        clicks: ClickModel,
    ) -> None:
        self._config = config
        self._population = population
        self._policy = policy
        self._clicks = clicks
        self._intensity = _hourly_intensity(config, population)  # [hours]

    def blocks(self) -> Iterator[Impressions]:
        """The impressions of each block; blocks follow each other in time.

        Together they hold `config.events` events, and up to a session more; fewer when the users
        run out of items that they have not consumed yet.
        """
        consumed = ConsumedPairs(self._config.events, self._config.seed)
        done = 0
        for block in self._plan():
            impressions = self._generate(block, block.last_event - done, consumed)
            done += int(impressions.clicked.sum() + impressions.liked.sum())
            yield impressions

    def _plan(self) -> Iterator[_Block]:
        """Cuts the period into days, and busy days into spans of hours."""
        expected = np.cumsum(self._intensity) / self._intensity.sum() * self._config.events
        number = 0
        for day in np.split(np.arange(len(expected)), self._config.days):
            busy = int((expected[day[-1]] - expected[day[0]]) // _EVENTS_PER_BLOCK)
            for hours in np.array_split(day, min(len(day), busy + 1)):
                yield _Block(number, hours, round(expected[hours[-1]]))
                number += 1

    def _generate(self, block: _Block, quota: int, consumed: ConsumedPairs) -> Impressions:
        """Sessions within the block until they have `quota` events."""
        key = stream_key(self._config.seed, f"log block {block.number}")
        rng = np.random.Generator(np.random.Philox(key=key))
        parts: list[Impressions] = []
        sessions = events = 0
        while events < quota:
            rate = events / sessions if sessions else _EXPECTED_EVENTS_PER_SESSION
            if rate < _FEWEST_EVENTS_PER_SESSION:
                break
            wanted = int((quota - events) / rate)
            count = min(max(wanted, _FEWEST_SESSIONS_AT_ONCE), _SESSIONS_AT_ONCE)
            visit = self._visit(rng, self._draw_sessions(rng, block, count), consumed)
            reached = np.cumsum(_events_per_session(visit, count))
            kept = min(int(np.searchsorted(reached, quota - events)) + 1, count)
            parts.append(_first_sessions(visit, kept, number_from=sessions))
            events += int(reached[kept - 1])
            sessions += kept
        return _joined(parts)

    def _draw_sessions(self, rng: np.random.Generator, block: _Block, count: int) -> _Sessions:
        """Who comes when: the hour by the day's rhythm, the user by activity among the joined."""
        weights = self._intensity[block.hours]
        first_ms = self._config.start_ms + block.hours[0] * MS_PER_HOUR
        hour = rng.choice(len(weights), count, p=weights / weights.sum())
        since = (hour + rng.random(count)) * MS_PER_HOUR
        # Squeezed a little, so that the last session ends within the block: blocks stay in order.
        span = len(weights) * MS_PER_HOUR
        start = first_ms + (since * (1 - _LONGEST_SESSION_MS / span)).astype(np.int64)
        user = self._population.sample_active(rng, start)
        return _Sessions(
            start_ms=start,
            user=user,
            device=self._population.sample_devices(rng, user),
            pages=np.minimum(rng.geometric(_LAST_PAGE_PROBABILITY, count), _MOST_PAGES),
        )

    def _visit(
        self, rng: np.random.Generator, sessions: _Sessions, consumed: ConsumedPairs
    ) -> Impressions:
        """All pages of the sessions. What a user has clicked is not shown to them again."""
        parts = []
        for page in range(int(sessions.pages.max())):
            going = np.flatnonzero(sessions.pages > page)
            impressions = self._show_page(rng, sessions, going, page, consumed)
            clicked = impressions.clicked
            consumed.add(impressions.user[clicked], impressions.item[clicked])
            parts.append(impressions)
        return _joined(parts)

    def _show_page(
        self,
        rng: np.random.Generator,
        sessions: _Sessions,
        going: Indices,
        page: int,
        consumed: ConsumedPairs,
    ) -> Impressions:
        """The page number `page` of those sessions that are still `going`."""
        time_ms = sessions.start_ms[going] + page * _MS_BETWEEN_PAGES
        user = sessions.user[going]
        shown = self._policy.pages(rng, user, self._population.viewers(user, time_ms), consumed)
        examined = self._clicks.examination(shown.position)
        clicked = rng.random(len(shown.item)) < examined * sigmoid(shown.appeal)
        clicked &= _is_first(user[shown.row], shown.item, clicked)
        liking = self._clicks.like_probability(shown.affinity, shown.quality)
        return Impressions(
            session=going[shown.row],
            user=user[shown.row],
            item=shown.item,
            position=shown.position,
            time_ms=time_ms[shown.row] + shown.position * _MS_BETWEEN_POSITIONS,
            device=sessions.device[going][shown.row],
            clicked=clicked,
            liked=clicked & (rng.random(len(shown.item)) < liking),
        )


def _hourly_intensity(config: WorldConfig, population: Population) -> Floats:
    """float64[hours] relative traffic: more users as they join, evenings and weekends busier."""
    hours = np.arange(config.days * 24, dtype=np.int64)
    joined = population.joined_by(config.start_ms + hours * MS_PER_HOUR) / config.users
    evening = 1.0 + 0.7 * np.cos((hours % 24 - 20) / 24 * 2 * np.pi)
    weekday = (hours // 24 + config.start.weekday()) % 7
    return joined * evening * np.where(weekday >= 5, 1.3, 1.0)


def _is_first(users: Indices, items: Indices, clicked: Mask) -> Mask:
    """bool[n]: True for the first click on each pair. A user may have two sessions at once."""
    at = np.flatnonzero(clicked)
    pairs = np.stack([users[at], items[at]], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    found = np.zeros(len(clicked), dtype=np.bool_)
    found[at[first]] = True
    return found


def _events_per_session(impressions: Impressions, sessions: int) -> Indices:
    """int64[sessions]: clicks and likes."""
    events = impressions.clicked.astype(np.int64) + impressions.liked
    return np.bincount(impressions.session, events, minlength=sessions).astype(np.int64)


def _first_sessions(impressions: Impressions, count: int, *, number_from: int) -> Impressions:
    kept = impressions.session < count
    some = Impressions(**{f.name: getattr(impressions, f.name)[kept] for f in fields(Impressions)})
    return replace(some, session=some.session + number_from)


def _joined(parts: Sequence[Impressions]) -> Impressions:
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Impressions)}
    return Impressions(
        **{name: np.concatenate([_EMPTY[name], *arrays]) for name, arrays in columns.items()}
    )


_EMPTY: dict[str, npt.NDArray[Any]] = {
    f.name: np.empty(0, dtype=np.bool_ if f.name in ("clicked", "liked") else np.int64)
    for f in fields(Impressions)
}
