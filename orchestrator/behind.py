"""What an answer says of the change log: how much of it the parts of the answer knew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from shortlist.page import Degradation, DegradationReason, Versions
from shortlist.tiers import LogPosition

__all__ = ["behind", "with_log"]

_BEHIND_MS = 5000  # a tier that follows the log is some 50 ms behind it


def with_log(versions: Versions, positions: Iterable[LogPosition]) -> Versions:
    """The versions with what all of the positions have reached, and the lag of the slowest."""
    known = list(positions)
    return replace(
        versions,
        log_sequence=min((one.sequence for one in known), default=0),
        lag_ms=max((one.lag_ms for one in known), default=0),
    )


def behind(stage: str, position: LogPosition) -> tuple[Degradation, ...]:
    """A degradation if the part is more than a few seconds behind."""
    if position.lag_ms <= _BEHIND_MS:
        return ()
    # No number that differs from page to page: equal degradations are told once.
    detail = f"knows changes up to number {position.sequence} and cannot follow the log"
    return (Degradation(reason=DegradationReason.BEHIND, stage=stage, detail=detail),)
