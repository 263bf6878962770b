"""Bytes of a file, block by block: decompressed, decoded, cut at line ends."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

__all__ = [
    "BLOCK_BYTES",
    "UNDECODED",
    "BlockStream",
    "Content",
    "open_binary",
    "replaced",
    "utf8_blocks",
    "whole_lines",
]

BLOCK_BYTES: Final = 8 << 20
# Stands for bytes that do not decode: a code point that Unicode keeps out of all text.
UNDECODED: Final = "\ufdd0"

_LONGEST_LINE_BYTES: Final = 256 << 20


def open_binary(path: Path) -> pa.NativeFile:
    """The bytes of a file, decompressed by its ending (.gz, .bz2, .zst, .lz4)."""
    return pa.input_stream(str(path), compression="detect", buffer_size=1 << 20)


def utf8_blocks(stream: pa.NativeFile, encoding: str) -> Iterator[bytes]:
    """The content as UTF-8 without a byte order mark.

    Bytes that are not of the encoding become `UNDECODED`, so that their rows can be told.
    """
    name = codecs.lookup(encoding).name
    decoder = codecs.getincrementaldecoder("utf-8-sig" if name == "utf-8" else name)(_MARK_ERRORS)
    while block := stream.read(BLOCK_BYTES):
        yield decoder.decode(block).encode()
    yield decoder.decode(b"", final=True).encode()


_MARK_ERRORS: Final = "shortlist.mark"


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return UNDECODED, error.end


codecs.register_error(_MARK_ERRORS, _mark)


def whole_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks that end with a line; the last one may not.

    Raises `OSError` for a line that is too long to be one.
    """
    rest: list[bytes] = []
    waiting = 0
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if end:
            yield b"".join([*rest, block[:end]])
            rest, waiting = [], 0
        rest.append(block[end:])
        waiting += len(block) - end
        if waiting > _LONGEST_LINE_BYTES:
            raise OSError(f"a line is longer than {_LONGEST_LINE_BYTES >> 20} MB")
    if waiting:
        yield b"".join(rest)


def replaced(blocks: Iterator[bytes], old: bytes, new: bytes) -> Iterator[bytes]:
    """The same blocks with `new` for `old`, which must not lie across two of them."""
    return blocks if old == new else (block.replace(old, new) for block in blocks)


class Content:
    """Blocks of bytes whose first lines can be looked at before the rest is streamed."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._head = b""

    def peek_line(self) -> bytes:
        """The next line that is not blank, with its end; empty at the end of the file."""
        while True:
            line, separator, _ = self._head.partition(b"\n")
            if separator and line.strip():
                return line + separator
            if separator:
                self._head = self._head[len(line) + 1 :]
                continue
            block = next(self._blocks, None)
            if block is None:
                return self._head if self._head.strip() else b""
            self._head += block

    def take_line(self) -> bytes:
        """`peek_line`, which `blocks` then leaves out."""
        line = self.peek_line()
        self._head = self._head[len(line) :]
        return line

    def blocks(self) -> Iterator[bytes]:
        """What has not been taken."""
        yield self._head
        yield from self._blocks


class BlockStream(io.RawIOBase):
    """A readable file over blocks of bytes, for Arrow."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        super().__init__()
        self._blocks = filter(None, blocks)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._left:
            self._left = memoryview(next(self._blocks, b""))
        taken, self._left = self._left[:size], self._left[size:]
        return bytes(taken)
