"""`shortlist redeploy` and `shortlist rollback`, for the command line and for jobs."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shortlist.artifacts import ArtifactStore
from shortlist.config import Config
from shortlist.errors import ArtifactNotFound
from shortlist.fleet import TIERS, find_processes, reached
from shortlist.rollout import Outcome, Redeploy
from shortlist.starting import fitting

__all__ = [
    "Place",
    "changed_last",
    "gate_report",
    "newest_candidate",
    "redeploy",
    "roll_back",
    "run",
]

Result = TypeVar("Result")
Reslice = Callable[[str, int], str]
"""Divides a retrieval version over another number of shards; returns the new version."""

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which system: its workdir, or where its artifacts and its processes are."""

    workdir: Path | None
    artifacts: str | None = None  # default: the workdir's
    processes: tuple[str, ...] = ()  # default: the configuration's, else those of `shortlist up`

    @property
    def store(self) -> ArtifactStore:
        if self.artifacts is None and self.workdir is None:
            raise ArtifactNotFound("neither a workdir nor a place of artifacts is given")
        return ArtifactStore(self.artifacts or self.workdir / "artifacts")  # type: ignore[operator]

    @property
    def config(self) -> Config:
        return Config.load(self.workdir / "shortlist.yaml") if self.workdir else Config()

    def targets(self) -> list[str]:
        """Raises `NothingServes`."""
        return find_processes(self.workdir, self.config.deployment, self.processes)


async def redeploy(
    place: Place,
    tier: str,
    version: str | None = None,
    *,
    canary: float | None = None,
    watch_s: float | None = None,
    reslice: Reslice | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Put a version into service, by default the `newest_candidate`; see `Redeploy.deploy`."""
    store, deployment = place.store, place.config.deployment
    async with reached(place.targets()) as fleet:
        chosen = version or newest_candidate(store, tier, place.workdir)
        if tier == "retrieval":
            chosen = _divided(store, chosen, fleet.shards(), reslice)
        return await Redeploy(store, fleet, tier, deployment, tell=tell).deploy(
            chosen,
            canary=deployment.canary if canary is None else canary,
            watch_s=deployment.watch_s if watch_s is None else watch_s,
        )


async def roll_back(
    place: Place, tier: str, *, tell: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Return to the version before; processes that do not answer follow when they start."""
    async with reached(place.targets(), strict=False) as fleet:
        deployment = place.config.deployment
        return await Redeploy(place.store, fleet, tier, deployment, tell=tell).roll_back()


def changed_last(store: ArtifactStore) -> str:
    """The tier whose rollout is under way, else the one with the newest promotion."""

    def when(tier: str) -> tuple[bool, int]:
        history = store.history(tier)
        return store.rollout(tier) is not None, history[0].time_ms if history else 0

    return max(TIERS, key=when)


def newest_candidate(store: ArtifactStore, tier: str, workdir: Path | None = None) -> str:
    """What to deploy when nobody says it.

    An unfinished rollout's version; else the newest one that never served and that the gate did not
    refuse; else the current one. What was rolled back has served, and is not tried again.
    """
    rollout = store.rollout(tier)
    if rollout is not None:
        return rollout.version
    served = {promotion.version for promotion in store.history(tier)}
    for version in reversed(store.versions(tier)):
        if version in served:
            break
        derived = tier in store.manifest(tier, version).parents  # the same, divided anew
        if not derived and gate_report(workdir, tier, version).get("passed", True):
            return version
    return store.current(tier)


def gate_report(workdir: Path | None, tier: str, version: str) -> dict[str, Any]:
    """What the gate said of a version; empty if it was not asked."""
    path = workdir / "gate" / tier / f"{version}.json" if workdir else None
    if path is None or not path.exists():
        return {}
    report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return report


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run it to its end; SIGINT, SIGTERM and SIGHUP let it take back what it has begun."""
    return asyncio.run(_stoppable(work))


async def _stoppable(work: Awaitable[Result]) -> Result:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)


def _divided(
    store: ArtifactStore, version: str, shards: int | None, reslice: Reslice | None
) -> str:
    try:
        return fitting(store, "retrieval", version, shards)
    except ArtifactNotFound:
        if reslice is None or shards is None:
            raise
    return reslice(version, shards)
