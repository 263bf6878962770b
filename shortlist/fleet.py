"""The processes of a running system, as they describe themselves."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from shortlist.config import DeploymentConfig
from shortlist.errors import InvalidField, ShortlistError, TierUnavailable
from shortlist.rollout_client import Process, ProcessStatus

__all__ = [
    "TIERS",
    "Fleet",
    "NothingServes",
    "Replica",
    "addresses",
    "find_processes",
    "reached",
]

TIERS = ("retrieval", "ranking")


class NothingServes(ShortlistError):
    """No process is known whose version could be changed."""

    status_name = "FAILED_PRECONDITION"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A process that holds versions of one tier; an orchestrator may hold both tiers' versions."""

    process: Process
    tier: str
    shard: int
    active: str | None
    loaded: tuple[str, ...]
    whole: bool  # it has every shard of the tier

    @property
    def target(self) -> str:
        return self.process.target

    async def prepare(self, version: str) -> None:
        await self.process.prepare(version, tier=self.tier)

    async def activate(self, version: str) -> str:
        return await self.process.activate(version, tier=self.tier)

    async def retire(self, version: str) -> None:
        await self.process.retire(version, tier=self.tier)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All processes that answered, and those that did not."""

    replicas: tuple[Replica, ...]
    orchestrators: tuple[Process, ...]
    missing: tuple[str, ...]  # addresses

    def of(self, tier: str) -> tuple[Replica, ...]:
        return tuple(one for one in self.replicas if one.tier == tier)

    def active(self, tier: str) -> str | None:
        """The version that most replicas of a tier serve; of equally many the newest by name."""
        counts = Counter(one.active for one in self.of(tier) if one.active)
        return max(counts, key=lambda version: (counts[version], version), default=None)

    def check_shards(self, version: str, shards: int) -> None:
        """Raises `InvalidField` unless a retrieval version of so many shards fits the replicas."""
        here = {one.shard for one in self.of("retrieval") if not one.whole}
        if here and here != set(range(shards)):
            raise InvalidField(
                "version",
                f"{version} has shards 0 to {shards - 1}, the processes serve "
                f"{', '.join(map(str, sorted(here)))}",
            )

    def shards(self) -> int | None:
        """How many shards the processes serve; None where each has all of them."""
        here = {one.shard for one in self.of("retrieval") if not one.whole}
        return max(here) + 1 if here else None


def find_processes(
    workdir: Path | None, config: DeploymentConfig, named: Sequence[str] = ()
) -> list[str]:
    """Addresses: those that are `named`, else the configuration's, else what `shortlist up` runs.

    Raises `NothingServes`, or `InvalidField` for an address that is none.
    """
    given = [part for one in named or config.processes for part in one.split(",") if part.strip()]
    if given:
        return [address for one in given for address in addresses(one.strip())]
    status = workdir / "run" / "up.json" if workdir else None
    if status is None or not status.exists():
        raise NothingServes(
            "nothing is known to serve"
            + (f" {workdir}" if workdir else "")
            + ": start `shortlist up`, or name the processes (--process, deployment.processes)"
        )
    return [one["address"] for one in json.loads(status.read_text("utf-8"))["processes"]]


def addresses(target: str) -> list[str]:
    """`host:port` of every address that a name has, the first kind of them that there is."""
    host, separator, port = target.rpartition(":")
    if not (separator and host and port.isdigit()):
        raise InvalidField("process", f"{target!r} is not HOST:PORT")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidField("process", f"{host}: {error.strerror}") from None
    family = found[0][0]
    hosts = dict.fromkeys(str(one[4][0]) for one in found if one[0] == family)
    return [f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in hosts]


@asynccontextmanager
async def reached(targets: Sequence[str], *, strict: bool = True) -> AsyncIterator[Fleet]:
    """Ask every process what it serves. Raises `TierUnavailable` naming those that do not answer,
    unless `strict` is off: then they are `missing`."""
    processes = [Process(target) for target in dict.fromkeys(targets)]
    try:
        statuses = await asyncio.gather(
            *(process.status() for process in processes), return_exceptions=True
        )
        yield _fleet(processes, statuses, strict)
    finally:
        await asyncio.gather(*(process.close() for process in processes))


def _fleet(
    processes: Sequence[Process], statuses: Sequence[ProcessStatus | BaseException], strict: bool
) -> Fleet:
    replicas: list[Replica] = []
    orchestrators, missing = [], []
    for process, status in zip(processes, statuses, strict=True):
        if isinstance(status, ShortlistError):
            missing.append((process.target, status))
        elif isinstance(status, BaseException):
            raise status
        else:
            replicas += _replicas(process, status)
            if status.tier == "orchestrator":
                orchestrators.append(process)
    if strict and missing:
        raise TierUnavailable(f"no version is changed while a process is away: {missing[0][1]}")
    return Fleet(
        replicas=tuple(replicas),
        orchestrators=tuple(orchestrators),
        missing=tuple(target for target, _ in missing),
    )


def _replicas(process: Process, status: ProcessStatus) -> list[Replica]:
    found = []
    for tier in TIERS:
        versions = [one for one in status.versions if one.tier == tier]
        if versions:
            found.append(
                Replica(
                    process=process,
                    tier=tier,
                    shard=status.shard,
                    active=next((one.version for one in versions if one.active), None),
                    loaded=tuple(dict.fromkeys(one.version for one in versions)),
                    whole=status.tier == "orchestrator" or tier == "ranking",
                )
            )
    return found
