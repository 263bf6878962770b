"""One error root; each subclass says what went wrong and which gRPC status it becomes.

`status_name` is the name of a `grpc.StatusCode`. Interceptors translate errors to statuses here and
nowhere else (`shortlist.serving`), so a servicer raises and never calls `context.abort`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

__all__ = [
    "ArtifactCorrupt",
    "ArtifactNotFound",
    "ArtifactRefused",
    "BudgetExceeded",
    "ClusterRefused",
    "ClusterUnreachable",
    "CoverageTooLow",
    "InvalidField",
    "InvalidRequest",
    "ItemNotFound",
    "NotImplementedYet",
    "ShortlistError",
    "TierUnavailable",
    "VersionNotServed",
]


class ShortlistError(Exception):
    """Root of all errors that Shortlist raises on purpose. Their text is meant for users."""

    status_name: ClassVar[str] = "INTERNAL"


class InvalidRequest(ShortlistError):
    """One or more fields are out of range; `violations` holds `(field, description)` pairs."""

    status_name = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{field}: {text}" for field, text in self.violations))


class InvalidField(InvalidRequest):
    """One field is out of range."""

    def __init__(self, field: str, description: str) -> None:
        self.field = field
        super().__init__([(field, description)])


class ItemNotFound(InvalidField):
    """The catalogue does not have the item that the call is about."""

    status_name = "NOT_FOUND"


class ArtifactNotFound(ShortlistError):
    """No such version, or no version was ever published."""

    status_name = "NOT_FOUND"


class ArtifactCorrupt(ShortlistError):
    """A file is missing, truncated, altered, or not where a manifest may point; nothing loaded."""

    status_name = "FAILED_PRECONDITION"


class ArtifactRefused(ShortlistError):
    """The content may not be published or loaded: NaN, a pickle, no items, wrong shapes."""

    status_name = "FAILED_PRECONDITION"


class VersionNotServed(ShortlistError):
    """The request pins a version that this process does not have loaded."""

    status_name = "FAILED_PRECONDITION"


class TierUnavailable(ShortlistError):
    """A tier cannot be reached, or answers nothing useful."""

    status_name = "UNAVAILABLE"


class CoverageTooLow(ShortlistError):
    """Fewer items were searched than the caller's `min_coverage` asks for."""

    status_name = "UNAVAILABLE"


class BudgetExceeded(ShortlistError):
    """The deadline passed before any stage could answer."""

    status_name = "DEADLINE_EXCEEDED"


class ClusterRefused(ShortlistError):
    """A Ray cluster does not accept the credentials, or does not do what it is asked to."""

    status_name = "UNAUTHENTICATED"


class ClusterUnreachable(ShortlistError):
    """Nothing that answers like a Ray cluster is at the address."""

    status_name = "UNAVAILABLE"


class NotImplementedYet(ShortlistError):
    """The contract names this call; this version does not serve it."""

    status_name = "UNIMPLEMENTED"
