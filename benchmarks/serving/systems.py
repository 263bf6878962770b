"""Shortlist over a world in processes of its own, started as `serve` and `up` start them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from benchmarks.serving.world import retrieval_version
from orchestrator.supervisor import Child, ChildSpec, Role, Supervisor, SupervisorOptions, Wave
from orchestrator.up import Plan, waves_of
from shortlist.artifacts import ArtifactStore
from shortlist.errors import ArtifactNotFound
from shortlist.launch import module_command

__all__ = ["KINDS", "PEERS", "Process", "Running", "cpu_s_of", "running", "running_peers"]

KINDS = ("embedded", "distributed")
PEERS = ("savedmodel", "keras", "ray_serve")
_START_S = 300.0
_RAY_STOP_S = 60.0
_RAY_HEALTH = "/ray.serve.RayServeAPIService/Healthz"
_RAY_INGRESS = "Recommender"  # the deployment
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s_of(pid: int) -> float:
    """CPU time of a process so far, of all its threads; see proc(5)."""
    text = Path(f"/proc/{pid}/stat").read_text("utf-8")
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of a system."""

    name: str
    pid: int
    address: str
    metrics_port: int | None

    @property
    def cpu_s(self) -> float:
        """CPU time so far, of all its threads."""
        return cpu_s_of(self.pid)

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
    roots: tuple[int, ...]  # process ids; the system is these and what they started

    @property
    def orchestrator(self) -> Process:
        return next(one for one in self.processes if one.address == self.target)

    @property
    def shards(self) -> tuple[str, ...]:
        """Addresses of our retrieval processes; none where they are part of the orchestrator."""
        return tuple(one.address for one in self.processes if one.name.startswith("retrieval-"))

    def pause(self) -> None:
        """Stop all processes where they are: they take no CPU until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for root in self.roots:
            for one in _tree(root):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(number)


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
    supervisor = Supervisor(_run_folder(workdir, kind), waves, options=options)
    async with supervisor.running():
        yield Running(
            target=supervisor.children[-1].address,
            processes=tuple(map(_process, supervisor.children)),
            roots=tuple(child.pid for child in supervisor.children),
        )


@contextlib.asynccontextmanager
async def running_peers(
    workdir: Path, engine: str, form: str, *, rankers: int = 2
) -> AsyncIterator[Running]:
    """One process that searches, `rankers` that score, and one that asks them."""
    if engine == "ray_serve":
        async with _running_ray(workdir, form, rankers) as system:
            yield system
        return

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
    supervisor = Supervisor(_run_folder(workdir, engine), [tiers, orchestrators], options=options)
    async with supervisor.running():
        yield Running(
            target=supervisor.children[-1].address,
            processes=tuple(map(_process, supervisor.children)),
            roots=tuple(child.pid for child in supervisor.children),
        )


@contextlib.asynccontextmanager
async def _running_ray(workdir: Path, form: str, rankers: int) -> AsyncIterator[Running]:
    command = module_command(
        "benchmarks.serving.peers.ray_serve",
        *("--workdir", str(workdir), "--form", form, "--rankers", str(rankers)),
    )
    spec = ChildSpec(name="peer-ray-serve", role="orchestrator", command=tuple(command))
    options = SupervisorOptions(start_timeout_s=_START_S, grace_s=_RAY_STOP_S)
    supervisor = Supervisor(
        _run_folder(workdir, "ray_serve"),
        [lambda _: [spec]],
        options=options,
        probe=_is_healthy_ray,
    )
    async with supervisor.running():
        (child,) = supervisor.children
        yield Running(
            target=child.address,
            processes=tuple(_ray_processes(child)),
            roots=(child.pid,),
        )


async def _is_healthy_ray(target: str) -> bool:
    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        try:
            await channel.unary_unary(_RAY_HEALTH)(b"", timeout=2)
        except grpc.aio.AioRpcError:
            return False
    return True


def _ray_processes(child: Child) -> Iterator[Process]:
    """All that Ray started, by what they call themselves; its spare workers have no part in it."""
    counts: Counter[str] = Counter()
    for one in _tree(child.pid):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            name = _name(one.cmdline()) or one.name()
            if name == "IDLE":
                continue
            counts[name] += 1
            yield Process(
                name=f"{name}-{counts[name]}",
                pid=one.pid,
                address=child.address if name == _RAY_INGRESS else "",
                metrics_port=None,
            )


def _name(command: Sequence[str]) -> str:
    """`Ranking` of `ray::ServeReplica:default:Ranking`, else the program, module or script."""
    if "-m" in command[:-1]:
        program = command[command.index("-m") + 1]
    else:
        program = next((word for word in command if word.endswith(".py")), "".join(command[:1]))
    return re.split(r"[/:.]", program.removesuffix(".py").split(" ")[0])[-1]


def _tree(root: int) -> list[psutil.Process]:
    """A process and what it started, directly or not."""
    try:
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _run_folder(workdir: Path, system: str) -> Path:
    """Several systems may run over one world at once, each in a folder of its own."""
    return workdir / "run" / system


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
