"""A pair of versions that answers a request, and who gets which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from shortlist.config import ArmConfig
from shortlist.errors import VersionNotServed
from shortlist.page import Degradation, DegradationReason

__all__ = ["ArmShares", "Release", "ReleaseLost", "check_not_lost", "place_of"]

_ALL = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Versions by name, one of retrieval and one of ranking; "" = the active one."""

    retrieval: str = ""
    ranking: str = ""

    def __str__(self) -> str:
        return f"retrieval {self.retrieval or 'as active'}, ranking {self.ranking or 'as active'}"


class ArmShares:
    """Which arm of the configuration somebody gets who names none."""

    def __init__(self, arms: Mapping[str, ArmConfig]) -> None:
        """Other arms with shares put users together anew; the share of the last one may grow."""
        self._shares = {name: arm.share for name, arm in arms.items() if arm.share}
        self._salt = "\n".join(self._shares)

    def of(self, user: str) -> str:
        """ "" = none."""
        if not self._shares:
            return ""
        place = place_of(user, self._salt)
        for name, share in self._shares.items():
            if place < share:
                return name
            place -= share
        return ""


class ReleaseLost(VersionNotServed):
    """A replica does not have the versions of a release that is not the active one (any more)."""


def check_not_lost(failures: Iterable[Degradation]) -> None:
    """Raises `ReleaseLost` when a shard was left out because it lacks the version: a page of some
    shards of one version is worse than a page of all shards of another."""
    for failure in failures:
        if failure.reason is DegradationReason.SHARD_VERSION:
            raise ReleaseLost(f"{failure.stage}: {failure.detail}")


def place_of(user: str, salt: str) -> float:
    """Where somebody stands between 0 and 1: always the same for a salt, anywhere for another.

    A share of the users are those whose place is below it, so a share that grows keeps whom it had.
    """
    digest = blake2b(user.encode(), digest_size=8, key=blake2b(salt.encode()).digest()).digest()
    return int.from_bytes(digest, "little") / _ALL
