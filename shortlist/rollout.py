"""Changes the version of one tier of a running system, in two phases, without a failed request.

1. Every replica verifies, loads and warms the new version beside the one that serves; of each shard
   one replica at a time, so that its siblings answer meanwhile. One that cannot ends the rollout.
2. Every replica makes it the active one, and every orchestrator names it from then on. No request
   is between versions: it names one, and both are in everybody's memory.

Then the pointer follows. What is under way is written down beside it, so that a process that starts
in the middle has what it will be asked for, and whoever runs this again after it was killed
finishes it, or takes it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from shortlist.artifacts import ArtifactStore, Manifest
from shortlist.compatibility import check_pair
from shortlist.config import DeploymentConfig
from shortlist.errors import (
    ArtifactNotFound,
    BudgetExceeded,
    ShortlistError,
    TierUnavailable,
    VersionNotServed,
)
from shortlist.fleet import Fleet, NothingServes, Replica
from shortlist.pointer import Rollout
from shortlist.rollout_client import Canary, Guards, Process, Release
from shortlist.starting import fitting

__all__ = ["NoPreviousVersion", "Outcome", "Redeploy", "RolloutStopped"]

Tell = Callable[[str], None]

_OTHER = {"retrieval": "ranking", "ranking": "retrieval"}
_ATTEMPTS = 5  # at a replica that is just starting again
_AGAIN_S = 0.5
_FLIP_S = 15.0  # for all orchestrators to name the new version
_LOOK_S = 1.0  # at a canary
_NO_GUARDS = Guards()
_AWAY = (TierUnavailable, BudgetExceeded)  # what a process that is away raises


class RolloutStopped(ShortlistError):
    """The new version does not serve; the one before it does, everywhere."""

    status_name = "FAILED_PRECONDITION"


class NoPreviousVersion(ShortlistError):
    """Nothing served before what serves now."""

    status_name = "FAILED_PRECONDITION"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was changed."""

    tier: str
    version: str  # that serves now
    before: str | None
    replicas: int
    orchestrators: int
    missing: tuple[str, ...] = ()  # addresses that did not answer; they follow when they start
    kept: str | None = None  # in memory, for a rollback
    seconds: dict[str, float] = field(default_factory=dict)  # by step
    canary: tuple[Canary, ...] = ()  # as each orchestrator saw it last

    def summary(self) -> dict[str, Any]:
        return {
            "tier": self.tier,
            "version": self.version,
            "previous": self.before,
            "kept": self.kept,
            "replicas": self.replicas,
            "orchestrators": self.orchestrators,
            "missing": list(self.missing),
            "seconds": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
            "canary": [
                {
                    "share": one.share,
                    "requests": one.figures.requests,
                    "failed": one.figures.failed,
                    "degraded": one.figures.degraded,
                    "p99_ms": one.figures.p99_ms,
                    "others_p99_ms": one.others.p99_ms,
                }
                for one in self.canary
            ],
        }


class Redeploy:
    """One tier's way to another version. Only one at a time runs below an artifact root."""

    def __init__(
        self,
        store: ArtifactStore,
        fleet: Fleet,
        tier: str,
        config: DeploymentConfig,
        *,
        tell: Tell = lambda _: None,
    ) -> None:
        self._store, self._fleet, self._tier, self._config = store, fleet, tier, config
        self._tell = tell
        self._replicas = fleet.of(tier)
        self._seconds: dict[str, float] = {}
        self._canaries: tuple[Canary, ...] = ()

    async def deploy(
        self,
        version: str,
        *,
        canary: float = 0.0,
        watch_s: float = 0.0,
        guards: Guards = _NO_GUARDS,
    ) -> Outcome:
        """Put `version` into service, at first for a share of the users if `canary` says so.

        Raises `RolloutStopped` (the version before serves everywhere), `RolloutUnderWay`,
        `IncompatibleVersions`, `NothingServes`, and what opening the version raises.
        """
        manifest = self._store.manifest(self._tier, version)
        self._check(manifest)
        with self._store.redeploying(self._tier):
            before = await self._settle(version)
            await self._tidy(keep={version, before})
            await self._change(version, before, canary, watch_s, guards)
            kept = await self._let_go(before, version)
        return self._outcome(version, before, kept)

    async def roll_back(self) -> Outcome:
        """Return to the version before: of a rollout under way, else of the last promotion.

        Replicas that still have it in memory serve it at once. Raises `NoPreviousVersion` and as
        `deploy`.
        """
        if not self._replicas:
            raise NothingServes(f"no {self._tier} process answered")
        with self._store.redeploying(self._tier):
            under_way = self._store.rollout(self._tier)
            if under_way is not None and under_way.before is not None:
                await self._undo(under_way.version, under_way.before)
                return self._outcome(under_way.before, under_way.version, None)
            previous = self._store.previous(self._tier)
            if previous is None:
                raise NoPreviousVersion(f"no {self._tier} version served before the current one")
            version = fitting(self._store, self._tier, previous, self._fleet.shards())
            before = self._fleet.active(self._tier)
            await self._change(version, before, 0.0, 0.0, _NO_GUARDS)
        return self._outcome(version, before, before)

    # -- steps ------------------------------------------------------------------------------------

    def _check(self, manifest: Manifest) -> None:
        """Whether the version fits the processes, and what the other tier serves."""
        if not self._replicas:
            raise NothingServes(f"no {self._tier} process answered")
        if self._tier == "retrieval":
            self._fleet.check_shards(manifest.version, int(manifest.meta["shards"]))  # type: ignore[arg-type]
        other = self._other()
        if other is not None:
            pair = {manifest.tier: manifest, other.tier: other}
            check_pair(
                pair["retrieval"],
                pair["ranking"],
                least_known_items=self._config.least_known_items,
            )

    def _other(self) -> Manifest | None:
        tier = _OTHER[self._tier]
        try:
            return self._store.manifest(tier, self._fleet.active(tier) or self._store.current(tier))
        except ArtifactNotFound:
            return None

    async def _settle(self, version: str) -> str | None:
        """The version that serves, after whatever an earlier job left was taken back.

        A rollout of the same version is gone on with.
        """
        await self._end_canary()
        left = self._store.rollout(self._tier)
        if left is None or left.version == self._current():
            return left.before if left and left.version == version else self._active()
        if left.version == version or left.before is None:
            return left.before
        self._tell(f"taking back {left.version}, which an earlier job left half-way")
        await self._undo(left.version, left.before)
        return left.before

    async def _tidy(self, keep: set[str | None]) -> None:
        """Unload what neither serves nor is about to: it may be the room that is needed."""
        for replica in self._replicas:
            for version in replica.loaded:
                if version not in {*keep, replica.active}:
                    await _or_away(replica.retire(version))

    async def _change(
        self, version: str, before: str | None, canary: float, watch_s: float, guards: Guards
    ) -> None:
        expected = self._current()
        try:
            self._note(version, before, "preparing")
            await self._timed("prepare", self._prepare_all(version))
            if canary:
                await self._timed("canary", self._watch(version, canary, watch_s, guards))
            self._note(version, before, "activating")
            await self._timed("activate", self._activate_all(version))
            await self._timed("flip", self._flip(version))
            if expected != version:
                self._store.promote(self._tier, version, expected=expected)
            self._promote_backtest(version)
            self._store.set_rollout(self._tier, None)
        except BaseException as error:  # also an operator's Ctrl-C
            if self._current() == version:
                raise  # it serves, and whoever runs this again writes the rest down
            if before is None or before == version:
                raise
            await asyncio.shield(self._undo(version, before))
            if isinstance(error, ShortlistError):
                raise RolloutStopped(f"{error}; {before} serves everywhere") from None
            raise
        await self._end_canary()

    async def _prepare_all(self, version: str) -> None:
        """Every replica; shards side by side, the replicas of a shard one after the other."""
        self._tell(f"loading {version} on {len(self._replicas)} {self._tier} replicas")
        stopped = asyncio.Event()

        async def one_after_the_other(replicas: Sequence[Replica]) -> None:
            for replica in replicas:
                if stopped.is_set():
                    return
                try:
                    await replica.prepare(version)
                except ShortlistError:
                    stopped.set()
                    raise
                self._tell(f"{replica.target} has loaded {version}")

        by_shard = sorted(self._replicas, key=lambda one: one.shard)
        groups = [list(group) for _, group in groupby(by_shard, key=lambda one: one.shard)]
        await _all(one_after_the_other(group) for group in groups)

    async def _watch(self, version: str, share: float, watch_s: float, guards: Guards) -> None:
        """Let some users have it. Raises `RolloutStopped` when an orchestrator ended that."""
        if not self._fleet.orchestrators:
            raise NothingServes("a canary needs orchestrators: name them, too")
        release = Release(**{self._tier: version})
        self._tell(f"{share:.1%} of the users get {version} for {watch_s:g} s")
        await _all(one.set_canary(release, share, guards) for one in self._fleet.orchestrators)
        until = time.monotonic() + watch_s
        while time.monotonic() < until:
            await asyncio.sleep(min(_LOOK_S, max(0.0, until - time.monotonic())))
            await self._look(release, share, guards)

    async def _look(self, release: Release, share: float, guards: Guards) -> None:
        seen = []
        for process in self._fleet.orchestrators:
            canary = await process.canary()
            if canary is not None and canary.rolled_back_because:
                self._canaries = (canary,)
                raise RolloutStopped(
                    f"{process.target} ended the canary: {canary.rolled_back_because}"
                )
            if canary is None or not canary.running:  # it was started again meanwhile
                await process.set_canary(release, share, guards)
            else:
                seen.append(canary)
        self._canaries = tuple(seen)

    async def _activate_all(self, version: str) -> None:
        await _all(self._activate(replica, version) for replica in self._replicas)

    async def _activate(self, replica: Replica, version: str) -> None:
        """A replica that is away will read, when it starts, what it has to serve."""
        for attempt in range(_ATTEMPTS):
            try:
                await replica.activate(version)
                return
            except VersionNotServed:  # it was started again since it had loaded the version
                with contextlib.suppress(*_AWAY):
                    await replica.prepare(version)
            except _AWAY:
                self._tell(f"{replica.target} does not answer")
            if attempt < _ATTEMPTS - 1:
                await asyncio.sleep(_AGAIN_S)
        self._tell(f"{replica.target} is left out; it serves {version} when it starts")

    async def _flip(self, version: str) -> None:
        """Every orchestrator that answers names the version. Raises `RolloutStopped`."""
        self._tell(f"{len(self._fleet.orchestrators)} orchestrators turn to {version}")
        await _all(self._flip_one(process, version) for process in self._fleet.orchestrators)

    async def _flip_one(self, process: Process, version: str) -> None:
        until = time.monotonic() + _FLIP_S
        named = ""
        while time.monotonic() < until:
            try:
                named = (await process.refresh()).of(self._tier)
            except _AWAY:
                return  # when it starts again, it asks the replicas
            if named == version:
                return
            await asyncio.sleep(_AGAIN_S / 5)
        raise RolloutStopped(f"{process.target} still names {named or 'nothing'}")

    async def _undo(self, version: str, before: str) -> None:
        """`before` serves everywhere, and nobody has `version` any more."""
        self._tell(f"back to {before}")
        await self._activate_all(before)
        with contextlib.suppress(RolloutStopped):  # it looks by itself, every other second
            await self._flip(before)
        await self._end_canary()
        if self._current() == version:
            self._store.promote(self._tier, before, expected=version)
            self._promote_backtest(before)
        self._store.set_rollout(self._tier, None)
        await asyncio.sleep(self._config.drain_s)
        await _all(_or_away(replica.retire(version)) for replica in self._replicas)

    async def _let_go(self, before: str | None, version: str) -> str | None:
        """Keep the version before for a rollback, or unload it when nobody asks for it any more."""
        if before is None or before == version:
            return None
        if self._config.keep_previous:
            return before
        await asyncio.sleep(self._config.drain_s)  # pages that began with it end with it
        await _all(_or_away(replica.retire(before)) for replica in self._replicas)
        return None

    async def _end_canary(self) -> None:
        for process in self._fleet.orchestrators:
            try:
                canary = await process.canary()
                if canary is not None and canary.running:
                    await process.set_canary(Release(), 0.0, _NO_GUARDS)
            except _AWAY:
                continue  # with the process, its canary is gone

    # -- what is written down ---------------------------------------------------------------------

    def _note(self, version: str, before: str | None, step: Any) -> None:
        rollout = Rollout(version=version, before=before, step=step)
        self._store.set_rollout(self._tier, rollout)

    def _current(self) -> str | None:
        history = self._store.history(self._tier)
        return history[0].version if history else None

    def _active(self) -> str | None:
        return self._fleet.active(self._tier) or self._current()

    def _promote_backtest(self, version: str) -> None:
        """The ranker learns from the backtest of the run that made the retrieval version."""
        backtest = self._store.manifest(self._tier, version).parents.get("backtest")
        if self._tier != "retrieval" or backtest is None:
            return
        history = self._store.history("backtest")
        current = history[0].version if history else None
        if current != backtest:
            self._store.promote("backtest", backtest, expected=current)

    async def _timed(self, step: str, work: Awaitable[None]) -> None:
        started = time.monotonic()
        try:
            await work
        finally:
            self._seconds[step] = time.monotonic() - started

    def _outcome(self, version: str, before: str | None, kept: str | None) -> Outcome:
        return Outcome(
            tier=self._tier,
            version=version,
            before=before,
            replicas=len(self._replicas),
            orchestrators=len(self._fleet.orchestrators),
            missing=self._fleet.missing,
            kept=kept,
            seconds=self._seconds,
            canary=self._canaries,
        )


async def _all(steps: Any) -> None:
    """Let all of them end, then raise what the first of them raised."""
    for outcome in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


async def _or_away(step: Awaitable[None]) -> None:
    """A process that is away, or does not have the version any more, needs nothing undone."""
    try:
        await step
    except (*_AWAY, VersionNotServed):
        return
