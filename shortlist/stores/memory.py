"""Profiles in a dictionary: for tests, evaluation, and callers that bring their own histories."""

from __future__ import annotations

from collections.abc import Iterable

from shortlist.stores import Profile, check_profile

__all__ = ["MemoryProfileStore"]


class MemoryProfileStore:
    """A `ProfileStore` over a dictionary."""

    def __init__(self, profiles: Iterable[tuple[str, Profile]] = ()) -> None:
        self._profiles: dict[str, Profile] = {}
        self.write(profiles)

    def write(self, profiles: Iterable[tuple[str, Profile]], *, replace_all: bool = False) -> int:
        """Add or replace profiles, all or none; returns how many; `replace_all` drops others."""
        fresh: dict[str, Profile] = {}
        for user_id, profile in profiles:
            check_profile(user_id, profile)
            fresh[user_id] = profile
        self._profiles = fresh if replace_all else {**self._profiles, **fresh}
        return len(fresh)

    async def get(self, user_id: str) -> Profile | None:
        return self._profiles.get(user_id)

    async def close(self) -> None:
        return None
