"""Shortlist over a world in processes of its own, started as `serve` and `up` start them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.world import retrieval_version
from orchestrator.supervisor import Child, ChildSpec, Role, Supervisor, SupervisorOptions, Wave
from orchestrator.up import Plan, waves_of
from shortlist.artifacts import ArtifactStore
from shortlist.errors import ArtifactNotFound
from shortlist.launch import module_command

__all__ = ["KINDS", "PEERS", "Process", "Running", "running", "running_peers"]

KINDS = ("embedded", "distributed")
PEERS = ("savedmodel", "keras")
_START_S = 300.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of a system."""

    name: str
    pid: int
    address: str
    metrics_port: int | None

    @property
    def cpu_s(self) -> float:
        """CPU time so far, of all its threads; see proc(5)."""
        text = Path(f"/proc/{self.pid}/stat").read_text("utf-8")
        fields = text[text.rindex(")") + 2 :].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def memory_mb(self) -> Mapping[str, float]:
        """`rss`; `pss`, in which a page that several processes have counts in parts; `anonymous`,
        which is of no file and cannot be let go."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text("utf-8").splitlines()
        sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
        return {name.lower(): int(sizes[name]) / 1024 for name in ("Rss", "Pss", "Anonymous")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A system that serves."""

    target: str  # of its orchestrator
    processes: tuple[Process, ...]

    @property
    def orchestrator(self) -> Process:
        return next(one for one in self.processes if one.address == self.target)

    @property
    def shards(self) -> tuple[str, ...]:
        """Addresses of our retrieval processes; none where they are part of the orchestrator."""
        return tuple(one.address for one in self.processes if one.name.startswith("retrieval-"))


@contextlib.asynccontextmanager
async def running(
    workdir: Path,
    kind: str,
    form: str,
    *,
    shards: int = 2,
    replicas: int = 1,
    rankers: int = 2,
) -> AsyncIterator[Running]:
    """Start, and stop in the end. `embedded` serves the version of one shard."""
    store = ArtifactStore(workdir / "artifacts")
    version = retrieval_version(1 if kind == "embedded" else shards)
    _promote(store, "retrieval", version)
    _promote(store, "ranking", form)
    waves = (
        [_alone(workdir)]
        if kind == "embedded"
        else waves_of(
            Plan(
                workdir=workdir,
                shards=shards,
                replicas=replicas,
                rankers=rankers,
                port=0,
                metrics_port=0,
                retrieval_version=version,
                ranking_version=form,
            )
        )
    )
    options = SupervisorOptions(start_timeout_s=_START_S)
    supervisor = Supervisor(workdir / "run", waves, options=options)
    async with supervisor.running():
        yield Running(
            target=supervisor.children[-1].address,
            processes=tuple(map(_process, supervisor.children)),
        )


@contextlib.asynccontextmanager
async def running_peers(
    workdir: Path, engine: str, form: str, *, rankers: int = 2
) -> AsyncIterator[Running]:
    """One process that searches, `rankers` that score, and one that asks them."""

    def spec(name: str, role: Role, *options: str) -> ChildSpec:
        command = module_command(
            "benchmarks.serving.peers.servers",
            role,
            *("--workdir", str(workdir), "--form", form, "--engine", engine, *options),
        )
        return ChildSpec(name=name, role=role, command=tuple(command))

    def tiers(_: Sequence[Child]) -> list[ChildSpec]:
        scoring = [spec(f"peer-ranking-{at}", "ranking") for at in range(rankers)]
        return [spec("peer-retrieval", "retrieval"), *scoring]

    def orchestrators(serving: Sequence[Child]) -> list[ChildSpec]:
        searching, *scoring = serving
        options = ["--retrieval", searching.address]
        for one in scoring:
            options += ["--ranker", one.address]
        return [spec("peer-orchestrator", "orchestrator", *options)]

    options = SupervisorOptions(start_timeout_s=_START_S)
    supervisor = Supervisor(workdir / "run", [tiers, orchestrators], options=options)
    async with supervisor.running():
        yield Running(
            target=supervisor.children[-1].address,
            processes=tuple(map(_process, supervisor.children)),
        )


def _alone(workdir: Path) -> Wave:
    command = module_command("orchestrator", "--workdir", str(workdir))
    spec = ChildSpec(name="embedded", role="orchestrator", command=tuple(command), metrics_port=0)
    return lambda _: [spec]


def _process(child: Child) -> Process:
    return Process(
        name=child.spec.name,
        pid=child.pid,
        address=child.address,
        metrics_port=child.metrics_port,
    )


def _promote(store: ArtifactStore, tier: str, version: str) -> None:
    try:
        before: str | None = store.current(tier)
    except ArtifactNotFound:
        before = None
    if before != version:
        store.promote(tier, version, expected=before)
