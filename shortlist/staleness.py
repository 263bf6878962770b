"""When a model should believe that it is: it knows nothing of a time long after its newest event.

Ages and recencies would grow beyond everything that it has learned from. Only they stop to grow:
the hour and the day of the week go on.
"""

from __future__ import annotations

__all__ = ["believed_ms"]

_DAY_MS = 86_400_000
_FOR_EVER_DAYS = 36_500


def believed_ms(time_ms: int, watermark_ms: int, max_staleness_days: float) -> int:
    """The time, or an earlier one at most so many days after the watermark.

    That is the latest at the same time of the week, or, where there is none after the watermark, at
    the same time of the day, or the end of these days.
    """
    latest = watermark_ms + int(min(max_staleness_days, _FOR_EVER_DAYS) * _DAY_MS)
    if time_ms <= latest:
        return time_ms
    for step in (7 * _DAY_MS, _DAY_MS):
        earlier = latest - (latest - time_ms) % step
        if earlier >= watermark_ms:
            return earlier
    return latest
