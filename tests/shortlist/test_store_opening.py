from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from shortlist.config import StoreConfig
from shortlist.errors import InvalidField
from shortlist.stores import ProfilesUnavailable
from shortlist.stores.opening import open_store, store_url
from shortlist.stores.sqlite import SqliteStore
from tests.redis_server import RedisServer

VARIABLE = "SHORTLIST_STORE_URL"
PASSWORD = "a-secret-of-this-test"


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that wants a password."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", PASSWORD)
    yield server
    server.stop()


async def test_the_password_of_the_store_comes_from_the_environment(
    locked: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = StoreConfig(url=locked.url)
    without = open_store(config, tmp_path)
    with pytest.raises(ProfilesUnavailable):
        await without.is_forgotten(["ann"])
    await without.close()

    monkeypatch.setenv(VARIABLE, locked.url.replace("://", f"://:{PASSWORD}@"))
    store = open_store(config, tmp_path)
    assert await store.is_forgotten(["ann"]) == [False]
    await store.close()


async def test_an_empty_variable_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    assert store_url(StoreConfig(url="redis://a:1/0")) == "redis://a:1/0"
    store = open_store(StoreConfig(), tmp_path)
    assert isinstance(store, SqliteStore)
    await store.close()


def test_a_url_of_no_known_kind_is_refused_without_showing_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidField) as caught:
        open_store(StoreConfig(url=f"http://:{PASSWORD}@host"), tmp_path)
    assert str(caught.value).startswith("store.url: begins with 'http'")
    assert PASSWORD not in str(caught.value)
