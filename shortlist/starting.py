"""Which versions a process needs when it starts: what serves, and what a rollout asks for."""

from __future__ import annotations

from shortlist.artifacts import ArtifactStore

__all__ = ["fitting", "resliced", "starting_versions"]


def starting_versions(
    store: ArtifactStore, tier: str, version: str | None = None, *, shards: int | None = None
) -> list[str]:
    """The versions to load; the first is the one to serve.

    `version` if one is given, else the current one; where the system runs another number of
    `shards` than it was built with, the same divided anew. While a rollout is activating, requests
    may name the new version or the one before it, so both are needed: a process that was killed in
    the middle of it comes back as what its siblings have become. Raises `ArtifactNotFound` if none
    was promoted yet.
    """
    if version is not None:
        return [version]
    rollout = store.rollout(tier)
    if rollout is not None and rollout.step == "activating":
        return [one for one in (rollout.version, rollout.before) if one is not None]
    return [fitting(store, tier, store.current(tier), shards)]


def fitting(store: ArtifactStore, tier: str, version: str, shards: int | None) -> str:
    """The version, or the same divided over so many shards (None: whatever it has).

    Raises `ArtifactNotFound` when it was never divided so.
    """
    if shards is None or store.manifest(tier, version).meta.get("shards", shards) == shards:
        return version
    divided = resliced(version, shards)
    store.manifest(tier, divided)
    return divided


def resliced(version: str, shards: int) -> str:
    """What the version is called when it is divided over so many shards."""
    return f"{version}-s{shards}"
