from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import pytest

from shortlist.admin import LoadedVersion, TierStatus
from shortlist.errors import ArtifactNotFound, VersionNotServed
from shortlist.live import Changes
from shortlist.versions import LoadedVersions, VersionsTogether


@dataclass
class Servable:
    version: str
    log_sequence: int = 0
    closed: bool = False

    def apply(self, changes: Changes) -> None:
        return None

    def describe_version(self, *, active: bool) -> LoadedVersion:
        return LoadedVersion(
            version=self.version, active=active, items=1, items_total=1, watermark_ms=0
        )

    def describe_tier(self, versions: tuple[LoadedVersion, ...]) -> TierStatus:
        return TierStatus(tier="toys", versions=versions, capabilities=())

    def close(self) -> None:
        self.closed = True


class Shelf:
    """Loads versions and remembers how often and where."""

    def __init__(self, *published: str) -> None:
        self.published, self.loads = published, []
        self.threads: set[int] = set()

    def load(self, version: str) -> Servable:
        self.threads.add(threading.get_ident())
        if version not in self.published:
            raise ArtifactNotFound(f"no version {version}")
        self.loads.append(version)
        return Servable(version)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf("v1", "v2")


@pytest.fixture
def versions(shelf: Shelf) -> LoadedVersions[Servable]:
    return LoadedVersions(Servable("v1"), shelf.load)


def served(versions: LoadedVersions[Servable]) -> dict[str, bool]:
    return {one.version: one.active for one in versions.status().versions}


def test_at_first_there_is_the_active_version_only(versions: LoadedVersions[Servable]) -> None:
    assert versions.of(None) is versions.of("v1") is versions.active
    assert served(versions) == {"v1": True}


async def test_a_prepared_version_stands_beside_the_active_one(
    versions: LoadedVersions[Servable],
) -> None:
    await versions.prepare("v2")
    assert versions.active.version == "v1"
    assert versions.of("v2").version == "v2"
    assert served(versions) == {"v1": True, "v2": False}


async def test_versions_are_loaded_once_and_off_the_event_loop(
    versions: LoadedVersions[Servable], shelf: Shelf
) -> None:
    for version in ("v2", "v2", "v1"):
        await versions.prepare(version)
    assert shelf.loads == ["v2"]
    assert threading.get_ident() not in shelf.threads


async def test_activating_says_which_version_was_active(
    versions: LoadedVersions[Servable],
) -> None:
    await versions.prepare("v2")
    assert await versions.activate("v2") == "v1"
    assert served(versions) == {"v1": False, "v2": True}
    assert versions.of("v1").version == "v1"  # requests under way go on
    assert await versions.activate("v1") == "v2"


async def test_a_version_is_not_activated_before_it_is_prepared(
    versions: LoadedVersions[Servable],
) -> None:
    with pytest.raises(VersionNotServed, match="v2"):
        await versions.activate("v2")
    assert versions.active.version == "v1"


async def test_a_retired_version_is_gone(versions: LoadedVersions[Servable], shelf: Shelf) -> None:
    await versions.prepare("v2")
    await versions.activate("v2")
    await versions.retire("v1")
    assert served(versions) == {"v2": True}
    with pytest.raises(VersionNotServed, match=r"v1.*served: v2"):
        versions.of("v1")
    await versions.prepare("v1")
    assert shelf.loads == ["v2", "v1"]


async def test_the_active_version_is_not_retired(versions: LoadedVersions[Servable]) -> None:
    with pytest.raises(VersionNotServed, match="v1 is active"):
        await versions.retire("v1")
    with pytest.raises(VersionNotServed, match="v9"):
        await versions.retire("v9")
    assert served(versions) == {"v1": True}


async def test_a_failed_load_leaves_everything_as_it_was(
    versions: LoadedVersions[Servable],
) -> None:
    with pytest.raises(ArtifactNotFound, match="v9"):
        await versions.prepare("v9")
    assert served(versions) == {"v1": True}


async def test_a_version_is_not_unloaded_while_somebody_asks_it(
    versions: LoadedVersions[Servable],
) -> None:
    await versions.prepare("v2")
    await versions.activate("v2")
    with versions.asked("v1") as one:
        retiring = asyncio.create_task(versions.retire("v1"))
        await asyncio.sleep(0.05)
        assert not retiring.done()
        assert not one.closed
        with pytest.raises(VersionNotServed, match="v1 is not served here"):
            versions.of("v1")  # nobody new may ask
        assert versions.position("v1").sequence == 0  # who asks may still say what it knew
    await retiring
    assert one.closed


async def test_a_version_that_was_unloaded_can_be_loaded_again(
    versions: LoadedVersions[Servable], shelf: Shelf
) -> None:
    await versions.prepare("v2")
    await versions.retire("v2")
    await versions.prepare("v2")
    assert shelf.loads == ["v2", "v2"]
    assert not versions.of("v2").closed


def test_a_process_that_starts_serves_the_first_version_that_loads(shelf: Shelf) -> None:
    started = LoadedVersions.starting(lambda: ["v2", "v1"], shelf.load, shelf.load)
    assert served(started) == {"v2": True, "v1": False}
    started = LoadedVersions.starting(lambda: ["v9", "v1"], shelf.load, shelf.load)
    assert served(started) == {"v1": True}
    with pytest.raises(ArtifactNotFound, match="v9"):
        LoadedVersions.starting(lambda: ["v9"], shelf.load, shelf.load)


async def test_a_rollout_that_went_on_while_a_process_loaded_is_caught_up_with(
    shelf: Shelf,
) -> None:
    wanted = ["v1"]
    started = LoadedVersions.starting(lambda: wanted, shelf.load, shelf.load)
    wanted[:] = ["v2", "v1"]
    await started.start()
    assert served(started) == {"v1": False, "v2": True}


async def test_shards_of_one_process_change_their_version_together(shelf: Shelf) -> None:
    parts = [LoadedVersions(Servable("v1"), shelf.load) for _ in range(3)]
    together = VersionsTogether(parts)
    assert [one.items for one in together.status().versions] == [3]
    await together.prepare("v2")
    assert await together.activate("v2") == "v1"
    await together.retire("v1")
    assert [served(part) for part in parts] == [{"v2": True}] * 3


async def test_shards_of_one_process_prepare_a_version_all_or_none(shelf: Shelf) -> None:
    parts = [LoadedVersions(Servable("v1"), one.load) for one in (shelf, Shelf("v1"))]
    together = VersionsTogether(parts)
    with pytest.raises(ArtifactNotFound, match="v2"):
        await together.prepare("v2")
    assert [served(part) for part in parts] == [{"v1": True}] * 2
    await parts[0].prepare("v2")
    with pytest.raises(VersionNotServed, match="v2 is not served by every shard"):
        await together.activate("v2")
    assert parts[0].active.version == "v1"
