"""Which versions a process needs when it starts: what serves, and what a rollout asks for."""

from __future__ import annotations

from shortlist.artifacts import ArtifactStore

__all__ = ["starting_versions"]


def starting_versions(store: ArtifactStore, tier: str, version: str | None = None) -> list[str]:
    """The versions to load; the first is the one to serve.

    `version` if one is given, else the current one. While a rollout is activating, requests may
    name the new version or the one before it, so both are needed: a process that was killed in the
    middle of it comes back as what its siblings have become. Raises `ArtifactNotFound` if none was
    promoted yet.
    """
    if version is not None:
        return [version]
    rollout = store.rollout(tier)
    if rollout is not None and rollout.step == "activating":
        return [one for one in (rollout.version, rollout.before) if one is not None]
    return [store.current(tier)]
