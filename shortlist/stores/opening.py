"""Which store a workdir has: the one place that decides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from shortlist.config import StoreConfig
from shortlist.errors import InvalidField
from shortlist.stores import Store
from shortlist.stores.sqlite import SqliteStore

__all__ = ["STORE_FILE", "open_store", "store_url"]

STORE_FILE: Final = "store.sqlite"

_URL_VARIABLE: Final = "SHORTLIST_STORE_URL"


def store_url(config: StoreConfig) -> str:
    """The environment's `SHORTLIST_STORE_URL`, else the file's `store.url`; "" = SQLite.

    A URL may hold a password, and files hold none.
    """
    return os.environ.get(_URL_VARIABLE) or config.url


def open_store(config: StoreConfig, workdir: Path) -> Store:
    """The store that `store_url` names, else the workdir's own file. Close it in the end.

    Nothing is connected to yet. Raises `InvalidField` for a URL of no known kind.
    """
    url = store_url(config)
    if not url:
        return SqliteStore(workdir / STORE_FILE, config)
    if url.startswith(("redis://", "rediss://", "unix://")):
        from shortlist.stores.redis import RedisStore

        return RedisStore(url, config)
    kind = url.partition("://")[0][:20]  # not all of it: it may hold a password
    raise InvalidField("store.url", f"begins with {kind!r}, not with redis:// or rediss://")
