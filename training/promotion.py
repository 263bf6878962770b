"""The end of a training job: the gate, then the pointer, or a rollout to what serves."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.compatibility import check_pair
from shortlist.config import Config
from shortlist.errors import ArtifactNotFound
from shortlist.redeploying import Place, redeploy
from training.gate import pass_gate
from training.shards import reshard

__all__ = ["DEFAULT_ENDING", "Ending", "is_up", "promote", "put_forward"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What becomes of a version that was published."""

    gate: bool = True  # it must not be worse than what serves
    redeploy: bool = False  # it is put into service on the processes that run
    pair_follows: bool = False  # the other tier is trained next: it need not fit the one of now


DEFAULT_ENDING = Ending()


def put_forward(
    workdir: Path, config: Config, artifact: Artifact, ending: Ending, *, seed: int = 0
) -> None:
    """Judge a published version, and make it current or put it into service.

    A system that runs keeps its version until a redeploy, so then the version is published only: a
    process that starts again must find what its siblings serve. The first version of a tier becomes
    current all the same. Raises `GateRefused`, `IncompatibleVersions`, `RolloutStopped`; the
    version is kept, and what serves goes on.
    """
    store = ArtifactStore(workdir / "artifacts")
    if not ending.pair_follows:
        _check_pair(store, config, artifact)
    if ending.gate:
        pass_gate(workdir, config, artifact, seed=seed, tell=_tell)
    if ending.redeploy:
        _redeploy(workdir, artifact)
    elif _current(store, artifact.tier) and (config.deployment.processes or is_up(workdir)):
        _tell(
            f"{artifact.tier} {artifact.version} is published; `shortlist redeploy "
            f"{artifact.tier}` puts it into service"
        )
    else:
        promote(store, artifact)


def promote(store: ArtifactStore, artifact: Artifact) -> None:
    """Make it current, and before that the backtest that it came with: the ranker needs both."""
    backtest = artifact.manifest.parents.get("backtest")
    if artifact.tier == "retrieval" and backtest is not None:
        store.promote("backtest", backtest, expected=_current(store, "backtest"))
    store.promote(artifact.tier, artifact.version, expected=_current(store, artifact.tier))


def is_up(workdir: Path) -> bool:
    """Whether `shortlist up` serves the workdir from this machine."""
    with suppress(FileNotFoundError, ProcessLookupError, ValueError, KeyError):
        pid = int(json.loads((workdir / "run" / "up.json").read_text("utf-8"))["pid"])
        with suppress(PermissionError):
            os.kill(pid, 0)
        return True
    return False


def _redeploy(workdir: Path, artifact: Artifact) -> None:
    def reslice(version: str, shards: int) -> str:
        return reshard(workdir, shards, version=version)

    outcome = asyncio.run(
        redeploy(
            Place(workdir=workdir), artifact.tier, artifact.version, reslice=reslice, tell=_tell
        )
    )
    _tell(f"{artifact.tier} {outcome.version} serves on {outcome.replicas} replicas")


def _check_pair(store: ArtifactStore, config: Config, artifact: Artifact) -> None:
    other = "ranking" if artifact.tier == "retrieval" else "retrieval"
    if (version := _current(store, other)) is None:
        return
    pair = {artifact.tier: artifact.manifest, other: store.manifest(other, version)}
    check_pair(
        pair["retrieval"],
        pair["ranking"],
        least_known_items=config.deployment.least_known_items,
    )


def _current(store: ArtifactStore, tier: str) -> str | None:
    try:
        return store.current(tier)
    except ArtifactNotFound:
        return None


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
