"""Makes sure that deleted bytes are nowhere in the file or in its log.

SQLite zeroes what it deletes (`secure_delete`). It does not zero what it has moved: when rows go
to a neighbour page, the gap that they leave keeps a copy. So the gaps are looked through, and
the file is written anew if an id is still in one of them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from shortlist.stores import ProfilesUnavailable

__all__ = ["purge"]

_WAIT_S = 5.0  # for readers that hold on to the log; theirs are short
_POLL_S = 0.01
_HEADER_BYTES = 100  # of the file, in front of the first page's own header
_LEAF, _INTERIOR = (0x0A, 0x0D), (0x02, 0x05)
_PAGES_A_READ = 2048


def purge(connection: sqlite3.Connection, path: Path, ids: Sequence[str]) -> None:
    """After the rows of `ids` are deleted and committed. Raises `ProfilesUnavailable` when other
    readers do not let go of the log; then the rows are gone, and calling again finishes it.
    """
    _empty_the_log(connection)
    if _in_a_gap(connection, path, [id.encode() for id in ids]):
        connection.execute("VACUUM")
        _empty_the_log(connection)


def _empty_the_log(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + _WAIT_S
    connection.execute(f"PRAGMA busy_timeout = {int(_WAIT_S * 1000)}")
    while True:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return
        if time.monotonic() > deadline:
            raise ProfilesUnavailable(
                "the users are deleted, but a reader holds the store's log, which may still have "
                "their ids; delete them again"
            )
        time.sleep(_POLL_S)


def _in_a_gap(connection: sqlite3.Connection, path: Path, needles: Sequence[bytes]) -> bool:
    size = connection.execute("PRAGMA page_size").fetchone()[0]
    with path.open("rb") as file:
        first = True
        while block := file.read(size * _PAGES_A_READ):
            if any(_hits_a_gap(block, size, needle, first) for needle in needles):
                return True
            first = False
    return False


def _hits_a_gap(block: bytes, size: int, needle: bytes, first: bool) -> bool:
    at = block.find(needle)
    while at >= 0:
        page = at // size
        header = _HEADER_BYTES if first and page == 0 else 0
        start, end = _gap(block[page * size : (page + 1) * size], header)
        if start <= at - page * size < end:
            return True
        at = block.find(needle, at + 1)
    return False


def _gap(page: bytes, header: int) -> tuple[int, int]:
    """The unused middle of a page of a tree, between the pointers to its cells and the cells.

    https://www.sqlite.org/fileformat2.html#b_tree_pages
    """
    kind = page[header]
    if kind not in (*_LEAF, *_INTERIOR):
        return 0, 0  # an overflow page, a free one, or a map of pages: zeroed as a whole
    cells = int.from_bytes(page[header + 3 : header + 5], "big")
    content = int.from_bytes(page[header + 5 : header + 7], "big") or 65536
    return header + (12 if kind in _INTERIOR else 8) + 2 * cells, content
