"""What was used last, as far as it fits into some memory."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["MaskCache"]

V = TypeVar("V")

_MOST_BYTES = 128 * 1024 * 1024


class MaskCache(Generic[V]):
    """By text; what was not used for longest goes first. Any thread may use it."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, tuple[V, int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    @property
    def bytes(self) -> int:
        """As those who put things in have said."""
        return self._bytes

    def get(self, text: str) -> V | None:
        with self._lock:
            found = self._kept.get(text)
            if found is None:
                return None
            self._kept.move_to_end(text)
            return found[0]

    def put(self, text: str, value: V, size: int) -> None:
        """`size` in bytes; what is larger than everything that may be kept is not."""
        size += len(text)
        with self._lock:
            self._bytes += size - self._kept.pop(text, (value, 0))[1]
            self._kept[text] = (value, size)
            while self._bytes > self._most_bytes:
                _, (_, freed) = self._kept.popitem(last=False)
                self._bytes -= freed
