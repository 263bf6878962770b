"""A whole system on this machine as separate processes: which children to run, and how.

Shards and rankers take any free port and start first; orchestrators start when their addresses are
known, and take the ports that the caller asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.supervisor import Child, ChildSpec, Wave
from shortlist.launch import module_command

__all__ = ["Plan", "waves_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run, from which artifacts."""

    workdir: Path
    shards: int = 2
    replicas: int = 1  # of each shard
    rankers: int = 1
    orchestrators: int = 1
    host: str = "127.0.0.1"
    port: int = 7700  # of the first orchestrator; the next ones count on from it. 0 = any free
    # Of the first orchestrator's metrics; the other orchestrators, the shards and the rankers count
    # on from it. 0 = any free ones, None = no metrics.
    metrics_port: int | None = None
    # Pinned; None = what is current when a process starts, which a redeploy changes. A process that
    # is started again must come back as what its siblings have become.
    retrieval_version: str | None = None
    ranking_version: str | None = None

    def metrics_port_of(self, at: int) -> int | None:
        """The metrics port of the process that is number `at` of all."""
        return self.metrics_port + at if self.metrics_port else self.metrics_port


def waves_of(plan: Plan) -> tuple[Wave, Wave]:
    """The two waves of a plan: the tiers, then the orchestrators that know the tiers' addresses."""
    return (
        lambda _: [*_shard_specs(plan), *_ranker_specs(plan)],
        lambda serving: _orchestrator_specs(plan, serving),
    )


def _shard_specs(plan: Plan) -> list[ChildSpec]:
    return [
        ChildSpec(
            name=f"retrieval-{shard}-{replica}",
            role="retrieval",
            command=_service(
                "retrieval_svc",
                plan,
                *("--shard", shard, "--shards", plan.shards),
                *_pinned(plan.retrieval_version),
            ),
            metrics_port=plan.metrics_port_of(plan.orchestrators + shard * plan.replicas + replica),
        )
        for shard in range(plan.shards)
        for replica in range(plan.replicas)
    ]


def _ranker_specs(plan: Plan) -> list[ChildSpec]:
    return [
        ChildSpec(
            name=f"ranking-{ranker}",
            role="ranking",
            command=_service("ranking_svc", plan, *_pinned(plan.ranking_version)),
            metrics_port=plan.metrics_port_of(
                plan.orchestrators + plan.shards * plan.replicas + ranker
            ),
        )
        for ranker in range(plan.rankers)
    ]


def _orchestrator_specs(plan: Plan, serving: Sequence[Child]) -> list[ChildSpec]:
    shards = [
        ",".join(c.address for c in serving if c.spec.name.startswith(f"retrieval-{shard}-"))
        for shard in range(plan.shards)
    ]
    rankers = [c.address for c in serving if c.spec.role == "ranking"]
    targets: list[str] = []
    for replicas in shards:
        targets += ["--shard", replicas]
    for ranker in rankers:
        targets += ["--ranker", ranker]
    return [
        ChildSpec(
            name=f"orchestrator-{index}",
            role="orchestrator",
            command=_service("orchestrator", plan, *targets),
            host=plan.host,
            port=plan.port + index if plan.port else 0,
            metrics_port=plan.metrics_port_of(index),
        )
        for index in range(plan.orchestrators)
    ]


def _pinned(version: str | None) -> tuple[str, ...]:
    return () if version is None else ("--version", version)


def _service(module: str, plan: Plan, *arguments: object) -> tuple[str, ...]:
    return tuple(
        module_command(module, "--workdir", str(plan.workdir), *(str(a) for a in arguments))
    )
