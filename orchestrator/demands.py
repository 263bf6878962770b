"""What items a request may have by their attributes, as one filter for the shards."""

from __future__ import annotations

from collections.abc import Mapping

from shortlist.errors import InvalidField
from shortlist.filters import (
    COMPOSED_LIMITS,
    all_of,
    at_moment,
    none_of,
    normal,
    parse,
    text_of,
)

__all__ = ["Demands"]

_STEP_MS = 1000  # of `now()`: the requests of one second share what shards remember by text


class Demands:
    """Joins what the server always demands with what a request wants and blocks."""

    def __init__(self, always: str = "") -> None:
        """`always` is a filter that every page has to meet. Raises `InvalidField`."""
        self._always = parse(always, field="serving.filter") if always else None

    def text(
        self, wanted: str = "", blocked: Mapping[str, tuple[str, ...]] | None = None, *, now_ms: int
    ) -> str:
        """The filter in normal form, with `now()` fixed at the whole second; "" = all items.

        Raises `InvalidField` for a `wanted` that is no filter, and for more than a shard takes.
        """
        filter = parse(wanted) if wanted.strip() else None
        together = all_of([self._always, filter, none_of(blocked or {})])
        if together is None:
            return ""
        moment_ms = now_ms - now_ms % _STEP_MS
        text = text_of(normal(at_moment(together, moment_ms)))
        if (size := len(text.encode())) > COMPOSED_LIMITS.bytes:
            raise InvalidField(
                "blocked",
                f"with the filter makes {size} bytes, more than {COMPOSED_LIMITS.bytes}",
            )
        return text
