"""Makes sure that deleted bytes are nowhere in the file or in its log.

SQLite zeroes what it deletes (`secure_delete`). It does not zero what it has moved: when rows go
to a neighbour page, the gap that they leave keeps a copy. Nor does it look for another divider of
pages when the row goes that lent it its key. So gaps and dividers are looked through, and the file
is written anew if an id or a key is still in one of them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from shortlist.ids import key_of
from shortlist.stores import ProfilesUnavailable
from shortlist.stores.sqlite_schema import to_signed

__all__ = ["purge", "row_number", "traces"]

_WAIT_S = 5.0  # for readers that hold on to the log; theirs are short
_POLL_S = 0.01
_HEADER_BYTES = 100  # of the file, in front of the first page's own header
_LEAF, _INTERIOR = (0x0A, 0x0D), (0x02, 0x05)
_DIVIDERS = 0x05  # a page of nothing but row numbers, which are users' keys, and where rows are
_PAGES_A_READ = 2048


def purge(connection: sqlite3.Connection, path: Path, ids: Sequence[str]) -> None:
    """After the rows of `ids` are deleted and committed. Raises `ProfilesUnavailable` when other
    readers do not let go of the log; then the rows are gone, and calling again finishes it.
    """
    _empty_the_log(connection)
    if _is_left(connection, path, [trace for id in ids for trace in traces(id)]):
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


def traces(id: str) -> tuple[bytes, ...]:
    """The id, and its key as it stands in a row and as the number of one."""
    key = to_signed(key_of(id))
    return id.encode(), key.to_bytes(8, "big", signed=True), row_number(key)


def row_number(number: int) -> bytes:
    """As a varint: https://www.sqlite.org/fileformat2.html#varint"""
    number &= (1 << 64) - 1
    tail = b""
    if number >> 56:
        tail, number = bytes([number & 0xFF]), number >> 8
    groups = 8 if tail else max(1, -(-number.bit_length() // 7))
    digits = [number >> 7 * place & 0x7F | 0x80 for place in reversed(range(groups))]
    if not tail:
        digits[-1] &= 0x7F
    return bytes(digits) + tail


def _is_left(connection: sqlite3.Connection, path: Path, needles: Sequence[bytes]) -> bool:
    size = connection.execute("PRAGMA page_size").fetchone()[0]
    with path.open("rb") as file:
        first = True
        while block := file.read(size * _PAGES_A_READ):
            if any(_hits(block, size, needle, first) for needle in needles):
                return True
            first = False
    return False


def _hits(block: bytes, size: int, needle: bytes, first: bool) -> bool:
    """Whether it is anywhere but in a row."""
    at = block.find(needle)
    while at >= 0:
        page = at // size
        header = _HEADER_BYTES if first and page == 0 else 0
        start, end = _rowless(block[page * size : (page + 1) * size], header)
        if start <= at - page * size < end:
            return True
        at = block.find(needle, at + 1)
    return False


def _rowless(page: bytes, header: int) -> tuple[int, int]:
    """The unused middle of a page of a tree, between the pointers to its cells and the cells; all
    of a page that has dividers only.

    https://www.sqlite.org/fileformat2.html#b_tree_pages
    """
    kind = page[header]
    if kind == _DIVIDERS:
        return header, len(page)
    if kind not in (*_LEAF, *_INTERIOR):
        return 0, 0  # an overflow page, a free one, or a map of pages: zeroed as a whole
    cells = int.from_bytes(page[header + 3 : header + 5], "big")
    content = int.from_bytes(page[header + 5 : header + 7], "big") or 65536
    return header + (12 if kind in _INTERIOR else 8) + 2 * cells, content
