"""Everything in one Redis or Valkey, for replicas on several hosts.

Every change is one Lua script, so it is seen as a whole or not at all. The server has to run with
`appendonly yes`, `appendfsync always` and without eviction: an answer then means that the disk has
it. It also has to run with `aof-load-truncated no`: a server that is killed in the middle of a
write, and repairs its log by itself, leaves the beginning of a transaction there. The next ones
become part of it, and are wrong or gone after one more restart (Redis 6.2 and 7.0; see
valkey-io/valkey#4342). A server that is not set up like that is refused.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import struct
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from hashlib import blake2b
from itertools import islice
from typing import Any, Final, TypeVar

import numpy as np
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shortlist.config import StoreConfig
from shortlist.errors import InvalidField, ShortlistError
from shortlist.ids import KeyCollision, key_of, keys_of
from shortlist.live import (
    Appended,
    CatalogItem,
    Changes,
    EventColumns,
    ItemChange,
    LiveEvent,
    StoredEvent,
)
from shortlist.stores import Impressions, Profile, ProfilesUnavailable, StoreFull, check_profile
from shortlist.stores import redis_scripts as scripts
from shortlist.stores.folding import Bounds, LiveProfile, NewEvents, add_impressions, fold, overlay
from shortlist.stores.packing import (
    Unpackable,
    check_event,
    event_details,
    event_of,
    forgotten_digest,
    item_of,
    item_text,
    json_text,
    pack_impressions,
    pack_live,
    pack_profile,
    unpack_attributes,
    unpack_impressions,
    unpack_keys,
    unpack_live,
    unpack_profile,
)
from shortlist.tiers import AttributeValue, Keys

__all__ = ["RedisStore"]

_log = logging.getLogger(__name__)

_PREFIX: Final = b"{shortlist}:"  # braces: one slot, should it be a cluster
_TAIL = 32  # events of a user, or pages, that are read one by one
_PIECE = 500
_EVENTS_A_READ = 1000
_CHANGES_A_READ = 2000  # 5 ms of the server, in which it does nothing else
_CONNECT_S, _ANSWER_S = 1.0, 10.0
_CONNECTIONS = 32
_REWRITE_S = 120.0
_POLL_S = 0.02
_FIRST_LOOK_S, _LOOK_EVERY_S = 60.0, 3600.0  # whether it is time to drop what is old
_TIDY_EVERY_S = 86_400  # by any replica: it reads the whole log
_MS_PER_DAY = 86_400_000
_MOST_KEY = (1 << 64) - 1
_NEEDED = {
    "appendonly": "yes",
    "appendfsync": "always",
    "aof-load-truncated": "no",
    "maxmemory-policy": "noeviction",
}

# An event's columns in the stream: user, item, time, weight, value; then its places.
_COLUMNS = struct.Struct(">QQqdd")
_TAIL_ENTRY = struct.Struct(">Qqf")  # item, time, weight; then the type
_KEY = struct.Struct(">Q")
_PAGE = struct.Struct(">Qq")  # user, time; then the keys

Row = TypeVar("Row")


class RedisStore:
    """A `Store` over the server at `url`; connects when it is first used, in that event loop."""

    def __init__(
        self,
        url: str,
        config: StoreConfig | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config or StoreConfig()
        self._bounds = Bounds.of(self._config)
        self._clock = clock
        # Its methods are typed for both kinds of answers, text and bytes; ours are bytes.
        self._redis: Any = Redis.from_pool(
            BlockingConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=_ANSWER_S,  # for a free one
                socket_connect_timeout=_CONNECT_S,
                socket_timeout=_ANSWER_S,
                # An append that is sent twice is applied once, but would call its events known.
                retry=Retry(NoBackoff(), 0),
            )
        )
        self._digests: dict[str, str] = {}  # script -> its name in the server
        self._salt: bytes | None = None  # known once the server has been looked at
        self._waiting = 0  # events
        self._tidy_at = time.monotonic() + _FIRST_LOOK_S
        self._tidying: asyncio.Task[None] | None = None

    async def get(self, user_id: str) -> Profile | None:
        if not user_id:
            return None
        key = key_of(user_id)
        base, folded, tail, shown = await self._run(scripts.PROFILE, _key(key))
        if base is None and folded is None and not tail and not shown:
            return None
        with _readable():
            live = _folded(unpack_live(folded), tail, self._bounds)
            imported = None if base is None else unpack_profile(key, base)
            return overlay(key, imported, live, _merged(shown, self._bounds), self._bounds)

    async def attributes_of(self, ids: Sequence[str]) -> list[Mapping[str, AttributeValue]]:
        if not ids:
            return []
        found = await self._run(scripts.GET_BASE, *(_key(key) for key in keys_of(ids).tolist()))
        with _readable():
            return [unpack_attributes(blob) if blob else {} for blob in found]

    async def append(self, events: Sequence[LiveEvent]) -> Appended:
        if self._waiting + len(events) > self._config.queue_events:
            raise StoreFull(
                f"{self._waiting} events wait to become durable; "
                f"store.queue_events allows {self._config.queue_events}"
            )
        salt = await self._checked()
        self._tidy_now_and_then()
        arguments = [field for event in events for field in _event_fields(event, salt)]
        self._waiting += len(events)
        try:
            answer = await self._run(scripts.APPEND, _TAIL, *arguments)
        finally:
            self._waiting -= len(events)
        head, duplicates, forgotten, long = answer
        if long:
            await self._quietly(self._fold(long))
        return Appended(
            sequence=int(head), duplicates=tuple(duplicates), forgotten=tuple(forgotten)
        )

    async def log_impressions(
        self, user_id: str, keys: Keys, times_ms: int, exposure: Mapping[str, object]
    ) -> None:
        text = json_text("exposure", dict(exposure))
        if not len(keys):
            return
        digest = forgotten_digest(user_id, await self._checked())
        user = key_of(user_id)
        page = pack_impressions(
            Impressions(keys=keys, times_ms=np.full(len(keys), times_ms, np.int64))
        )
        columns = _PAGE.pack(user, times_ms) + keys.astype("<u8").tobytes()
        packed = _packed(columns, text)
        pages = await self._run(scripts.LOG_IMPRESSIONS, digest, _key(user), page, packed)
        if pages > _TAIL:
            await self._quietly(self._merge_shown(_key(user)))

    async def upsert_items(self, items: Sequence[CatalogItem]) -> int:
        fresh: dict[int, CatalogItem] = {}
        for item in items:
            key = key_of(item.id)
            if key in fresh and fresh[key].id != item.id:
                raise KeyCollision(fresh[key].id, item.id, key)
            fresh[key] = item
        return await self._change_items(
            [(key, item.id, item_text(item)) for key, item in fresh.items()]
        )

    async def delete_items(self, ids: Sequence[str]) -> int:
        return await self._change_items([(key_of(id), id, "") for id in dict.fromkeys(ids)])

    async def get_items(self, ids: Sequence[str]) -> list[CatalogItem | None]:
        found = await self._run(scripts.GET_ITEMS, *(_key(key) for key in keys_of(ids)))
        with _readable():
            items = [item_of(text) if text else None for text in found]
        return [
            item if item is not None and item.id == id else None
            for id, item in zip(ids, items, strict=True)
        ]

    async def list_items(self, after_key: int, limit: int) -> list[CatalogItem]:
        if after_key >= _MOST_KEY:
            return []
        start = b"-" if after_key < 0 else b"(" + _key(after_key)
        items: list[CatalogItem] = []
        while start and len(items) < limit:
            _, texts, last = await self._run(scripts.LIST_ITEMS, start, limit)
            with _readable():
                items += [item_of(text) for text in texts if text]
            start = b"(" + last if last else b""
        return items[:limit]

    async def forget_users(self, ids: Sequence[str]) -> int:
        """Rewrites the server's files in the end, so give many users at once."""
        if not ids:
            return await self.head()
        salt = await self._checked()
        arguments = [f for id in ids for f in (forgotten_digest(id, salt), _key(key_of(id)))]
        head = int(await self._run(scripts.FORGET, *arguments))
        with _translated():
            await self._rewrite_files()
        return head

    async def is_forgotten(self, ids: Sequence[str]) -> list[bool]:
        salt = await self._checked()
        if not ids:
            return []
        digests = [forgotten_digest(id, salt) for id in ids]
        with _translated():
            found = await self._redis.smismember(_PREFIX + b"forgotten", digests)
        return [bool(one) for one in found]

    async def count_forgotten(self) -> int:
        await self._checked()
        with _translated():
            return int(await self._redis.scard(_PREFIX + b"forgotten"))

    async def head(self) -> int:
        await self._checked()
        with _translated():
            return int(await self._redis.get(_PREFIX + b"head") or 0)

    async def changes(self, after: int, limit: int = 10_000) -> Changes:
        limit = min(limit, _CHANGES_A_READ)
        head, numbered, columns, items, texts = await self._run(scripts.CHANGES, after, limit)
        sequences = [int(number) for number in numbered]
        item_sequences = [int(float(score)) for score in items[1::2]]
        numbers = sorted(sequences + item_sequences)
        # What gave `limit` rows may have more, so what lies beyond `limit` of both is left.
        end = int(head) if len(numbers) < limit else numbers[limit - 1]
        with _readable():
            changed = [
                ItemChange(
                    sequence=sequence,
                    key=_KEY.unpack(key)[0],
                    item=item_of(text) if text else None,
                )
                for sequence, key, text in zip(item_sequences, items[::2], texts, strict=True)
                if sequence <= end
            ]
            stays = [at for at, sequence in enumerate(sequences) if sequence <= end]
            events = _event_columns([sequences[at] for at in stays], [columns[at] for at in stays])
        return Changes(
            sequence=max(after, end),
            head=max(after, int(head)),
            items=tuple(changed),
            events=events,
        )

    async def events(self, after: int, upto: int) -> AsyncIterator[StoredEvent]:
        while after < upto:
            numbers, details = await self._run(scripts.EVENTS, after + 1, upto, _EVENTS_A_READ)
            for number, text in zip(numbers, details, strict=True):
                with _readable():
                    event = _event_of(text)
                yield StoredEvent(sequence=int(number), event=event)
            if len(numbers) < _EVENTS_A_READ:
                return
            after = int(numbers[-1])

    async def replace_base(
        self, profiles: Iterable[tuple[str, Profile]], items: Iterable[CatalogItem]
    ) -> None:
        salt = await self._checked()
        mine = await self._run(scripts.BEGIN_IMPORT)
        users = iter(profiles)
        while piece := await asyncio.to_thread(_take, users, lambda one: _base_row(one, salt)):
            await self._import(scripts.IMPORT_PROFILES, mine, piece)
        catalogue = iter(items)
        while piece := await asyncio.to_thread(_take, catalogue, _item_row):
            await self._import(scripts.IMPORT_ITEMS, mine, piece)
        await self._import(scripts.END_IMPORT, mine, [])

    async def compact(self, now_ms: int | None = None) -> int:
        """Reads the whole log, in pieces."""
        now = int(self._clock() * 1000) if now_ms is None else now_ms
        oldest = now - int(self._config.retention_days * _MS_PER_DAY)
        await self._drop(
            "exposures", "exposure", scripts.DROP_EXPOSURES, lambda c: _old_page(c, oldest)
        )
        return await self._drop(
            "events", "details", scripts.DROP_EVENTS, lambda c: _old_event(c, oldest)
        )

    async def close(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
            with suppress(asyncio.CancelledError):
                await self._tidying
            self._tidying = None
        await self._redis.aclose()

    def _tidy_now_and_then(self) -> None:
        if time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + _LOOK_EVERY_S
        self._tidying = asyncio.create_task(self._quietly(self._tidy()))

    async def _tidy(self) -> None:
        """Unless another replica has, within a day."""
        try:
            with _translated():
                name = _PREFIX + b"tidied"
                mine = await self._redis.set(name, b"", nx=True, ex=_TIDY_EVERY_S)
        except StoreFull:
            mine = True
        if mine:
            await self.compact()

    async def _drop(
        self, stream: str, hash: str, script: str, user_if_old: Callable[[bytes], bytes | None]
    ) -> int:
        dropped, start = 0, b"-"
        while True:
            ids, columns = await self._run(scripts.OLDEST, stream, hash, start, _PIECE)
            old = []
            for id, one in zip(ids, columns, strict=True):
                if (user := user_if_old(one)) is not None:
                    old += [id, user]
            if old:
                await self._run(script, *old)
                dropped += len(old) // 2
            if len(ids) < _PIECE:
                return dropped
            start = b"(" + ids[-1]

    async def _change_items(self, changes: Sequence[tuple[int, str, str]]) -> int:
        arguments = [field for key, id, text in changes for field in (_key(key), id, text)]
        head, *collision = await self._run(scripts.CHANGE_ITEMS, *arguments)
        if collision:
            known, wanted = (id.decode() for id in collision)
            raise KeyCollision(known, wanted, key_of(wanted))
        return int(head)

    async def _import(self, script: str, mine: bytes, piece: Sequence[Sequence[Any]]) -> None:
        if not await self._run(script, mine, *(field for row in piece for field in row)):
            raise _ImportOvertaken("import", "another import of this store began after this one")

    async def _fold(self, users: Sequence[bytes]) -> None:
        """Let one blob speak for a user's events; somebody else may be at it, too."""
        found = await self._run(scripts.UNFOLDED, *users)
        arguments: list[Any] = []
        for user, (version, blob, tail) in zip(users, found, strict=True):
            with _readable():
                live = _folded(unpack_live(blob), tail, self._bounds)
            arguments += [user, version or b"", pack_live(live), len(tail)]
        await self._run(scripts.FOLD, *arguments)

    async def _merge_shown(self, user: bytes) -> None:
        with _translated():
            pages = await self._redis.lrange(_PREFIX + b"shown:" + user, 0, -1)
        with _readable():
            merged = pack_impressions(_merged(pages, self._bounds))
        if pages:
            await self._run(scripts.MERGE_SHOWN, user, pages[0], len(pages), merged)

    async def _quietly(self, tidying: Awaitable[None]) -> None:
        """What was asked for is durable; that this fails now is no reason to say otherwise."""
        try:
            await tidying
        except ShortlistError as error:
            _log.warning("the store could not be tidied up: %s", error)

    async def _run(self, script: str, *arguments: Any) -> Any:
        await self._checked()
        with _translated():
            try:
                return await self._call(script, arguments)
            except NoScriptError:  # the server was started anew, or its scripts were flushed
                self._digests.clear()
                return await self._call(script, arguments)
            except (RedisConnectionError, RedisTimeoutError):
                # The other connections to a server that was started anew are broken as well.
                await self._redis.connection_pool.disconnect(inuse_connections=False)
                raise

    async def _call(self, script: str, arguments: Sequence[Any]) -> Any:
        digest = self._digests.get(script)
        if digest is None:
            digest = self._digests[script] = await self._redis.script_load(script)
        return await self._redis.evalsha(digest, 1, _PREFIX, *arguments)

    async def _checked(self) -> bytes:
        """The salt of digests; looks at the server's settings once."""
        if self._salt is None:
            with _translated():
                await self._check_settings()
                await self._redis.set(_PREFIX + b"salt", os.urandom(32), nx=True)
                self._salt = await self._redis.get(_PREFIX + b"salt")
        assert self._salt is not None
        return self._salt

    async def _check_settings(self) -> None:
        for name, needed in _NEEDED.items():
            found = (await self._redis.config_get(name)).get(name, "")
            if found != needed:
                raise ProfilesUnavailable(
                    f"the Redis server has {name} {found!r}; it would lose what it acknowledged, "
                    f"so set {name} {needed}"
                )

    async def _rewrite_files(self) -> None:
        """Deleted users stand in the server's files until they are written anew."""
        await self._background("aof_rewrite_in_progress", "aof_rewrite_scheduled")
        await self._redis.bgrewriteaof()
        await self._background("aof_rewrite_in_progress", "aof_rewrite_scheduled")
        if (await self._redis.config_get("save")).get("save"):
            await self._background("rdb_bgsave_in_progress")
            await self._redis.bgsave()
            await self._background("rdb_bgsave_in_progress")
        status = await self._redis.info("persistence")
        for name in ("aof_last_bgrewrite_status", "rdb_last_bgsave_status"):
            if status[name] != "ok":
                raise ProfilesUnavailable(
                    f"the users are deleted, but the server says {name} {status[name]}, and its "
                    "files may still have their ids; delete them again"
                )

    async def _background(self, *names: str) -> None:
        """Wait until the server does none of `names`."""
        deadline = time.monotonic() + _REWRITE_S
        while True:
            status = await self._redis.info("persistence")
            if not any(int(status[name]) for name in names):
                return
            if time.monotonic() > deadline:
                raise ProfilesUnavailable(
                    "the users are deleted, but the server is not done with writing its files, "
                    "which may still have their ids; delete them again"
                )
            await asyncio.sleep(_POLL_S)


class _ImportOvertaken(InvalidField):
    """Another import began after this one."""

    status_name = "ABORTED"


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        text = str(error)
        if "OOM command not allowed" in text or "MISCONF" in text:
            raise StoreFull(f"the Redis server has no room: {text}") from error
        raise ProfilesUnavailable(f"profile store in Redis: {text}") from error


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (Unpackable, struct.error, ValueError) as error:
        raise ProfilesUnavailable(f"profile store in Redis: {error}") from error


def _key(key: int) -> bytes:
    return _KEY.pack(int(key))


def _event_fields(event: LiveEvent, salt: bytes) -> tuple[Any, ...]:
    """What APPEND wants of one event. Raises `InvalidField` for what cannot be stored."""
    check_event(event)
    user, item = key_of(event.user_id), key_of(event.item_id)
    value = float("nan") if event.value is None else event.value
    places = np.array(event.places, "<u8").tobytes() if event.places else b""
    return (
        blake2b(event.event_id.encode(), digest_size=16).digest(),
        forgotten_digest(event.user_id, salt),
        _key(user),
        _TAIL_ENTRY.pack(item, event.time_ms, event.weight) + event.event_type.encode(),
        _packed(
            _COLUMNS.pack(user, item, event.time_ms, event.weight, value) + places, _details(event)
        ),
    )


def _packed(columns: bytes, text: str) -> bytes:
    """As scripts take it apart again: they read the columns of many, and the text of few."""
    return struct.pack(">I", len(columns)) + columns + text.encode()


def _details(event: LiveEvent) -> str:
    document = [
        event.event_id,
        event.user_id,
        event.item_id,
        event.event_type,
        event.time_ms,
        event.weight,
        event.value,
        event.places,
        event_details(event),
    ]
    return json_text("event", document)


def _event_of(text: bytes) -> LiveEvent:
    event_id, user_id, item_id, event_type, time_ms, weight, value, places, details = json.loads(
        text
    )
    return event_of(
        event_id=event_id,
        user_id=user_id,
        item_id=item_id,
        event_type=event_type,
        time_ms=time_ms,
        weight=weight,
        value=value,
        places=tuple(places),
        details=details,
    )


def _event_columns(sequences: Sequence[int], blobs: Sequence[bytes]) -> EventColumns:
    rows = [_COLUMNS.unpack_from(blob) for blob in blobs]
    users, items, times_ms, weights, values = zip(*rows, strict=True) if rows else ((),) * 5
    return EventColumns(
        sequences=np.array(sequences, np.int64),
        user_keys=np.array(users, np.uint64),
        item_keys=np.array(items, np.uint64),
        times_ms=np.array(times_ms, np.int64),
        weights=np.array(weights, np.float32),
        values=np.array(values, np.float32),
        places=tuple(unpack_keys(blob[_COLUMNS.size :]) for blob in blobs),
    )


def _folded(live: LiveProfile, tail: Sequence[bytes], bounds: Bounds) -> LiveProfile:
    if not tail:
        return live
    keys, times_ms, weights = zip(*(_TAIL_ENTRY.unpack_from(one) for one in tail), strict=True)
    events = NewEvents(
        keys=np.array(keys, np.uint64),
        times_ms=np.array(times_ms, np.int64),
        weights=np.array(weights, np.float32),
        types=[one[_TAIL_ENTRY.size :].decode() for one in tail],
    )
    return fold(live, events, bounds)


def _merged(pages: Sequence[bytes], bounds: Bounds) -> Impressions:
    shown = Impressions()
    for page in pages:
        shown = add_impressions(shown, unpack_impressions(page), bounds)
    return shown


def _old_event(columns: bytes, oldest_ms: int) -> bytes | None:
    user, _, time_ms, _, _ = _COLUMNS.unpack_from(columns)
    return _key(user) if time_ms < oldest_ms else None


def _old_page(columns: bytes, oldest_ms: int) -> bytes | None:
    user, time_ms = _PAGE.unpack_from(columns)
    return _key(user) if time_ms < oldest_ms else None


def _take(rows: Any, encode: Callable[[Any], Sequence[Any]]) -> list[Sequence[Any]]:
    return [encode(row) for row in islice(rows, _PIECE)]


def _base_row(entry: tuple[str, Profile], salt: bytes) -> Sequence[Any]:
    user_id, profile = entry
    check_profile(user_id, profile)
    return forgotten_digest(user_id, salt), _key(profile.user_key), pack_profile(profile)


def _item_row(item: CatalogItem) -> Sequence[Any]:
    return _key(key_of(item.id)), item_text(item)
