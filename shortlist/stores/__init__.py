"""What the serving path remembers of users, behind one small protocol.

`memory.py` is the implementation that tests trust; `sqlite.py` is the embedded one. Both pass the
suite in `tests/contracts/profile_store.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from shortlist.errors import InvalidField, ShortlistError
from shortlist.ids import key_of
from shortlist.tiers import AttributeValue, History, Keys

__all__ = ["Profile", "ProfileStore", "ProfilesUnavailable", "check_profile"]


class ProfilesUnavailable(ShortlistError):
    """The profile store is missing, locked, or not readable."""

    status_name = "UNAVAILABLE"


def _no_keys() -> Keys:
    return np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is stored of one user."""

    user_key: int  # uint64, key_of(user id)
    history: History  # the newest events only, oldest first
    seen: Keys = field(default_factory=_no_keys)  # uint64 [s], every item ever interacted with
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)  # by feature name


class ProfileStore(Protocol):
    """Reads profiles by user id."""

    async def get(self, user_id: str) -> Profile | None:
        """The user's profile, or None for one that nobody has seen yet.

        Raises `ProfilesUnavailable`. Blocks the event loop for a few milliseconds at most.
        """
        ...

    async def close(self) -> None: ...


def check_profile(user_id: str, profile: Profile) -> None:
    """Raise `InvalidField` unless `profile` may be stored under `user_id`."""
    if profile.user_key != key_of(user_id):
        raise InvalidField("user_key", f"{profile.user_key} is not the key of user {user_id!r}")
    history = profile.history
    if not len(history.keys) == len(history.times_ms) == len(history.weights):
        raise InvalidField("history", f"columns of user {user_id!r} differ in length")
