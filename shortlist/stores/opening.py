"""Which store a workdir has: the one place that decides."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shortlist.config import StoreConfig
from shortlist.errors import InvalidField
from shortlist.stores import Store
from shortlist.stores.sqlite import SqliteStore

__all__ = ["STORE_FILE", "open_store"]

STORE_FILE: Final = "store.sqlite"


def open_store(config: StoreConfig, workdir: Path) -> Store:
    """The store that `config.url` names, else the workdir's own file. Close it in the end.

    Nothing is connected to yet. Raises `InvalidField` for a URL of no known kind.
    """
    if not config.url:
        return SqliteStore(workdir / STORE_FILE, config)
    if config.url.startswith(("redis://", "rediss://", "unix://")):
        from shortlist.stores.redis import RedisStore

        return RedisStore(config.url, config)
    raise InvalidField("store.url", f"{config.url!r} begins with none of redis://, rediss://")
