"""The ranker in this process, behind the same protocol as one across the network (I7)."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ranking_svc.engine import Engine, open_engine
from ranking_svc.features import FeatureBuilder, FeatureSpec, ItemTable
from shortlist.admin import LoadedVersion, TierStatus
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.errors import ArtifactRefused, BudgetExceeded, TierUnavailable
from shortlist.features import FeatureEncoder
from shortlist.tiers import (
    Candidates,
    History,
    RankerStatus,
    ScoreQuery,
    Scores,
    UserContext,
)
from shortlist.versions import LoadedVersions

__all__ = ["LocalRanker", "RankerGeneration", "ScoresNotFinite", "open_builder"]

TIER = "ranking"
_WARM_UP_ROWS = 1000


class ScoresNotFinite(TierUnavailable):
    """The model answered NaN or Inf; an order of such scores would be arbitrary.

    A replica that answers so has not answered: another one may.
    """

    status_name = "INTERNAL"


@dataclass(frozen=True, kw_only=True)
class RankerGeneration:
    """One version, loaded. Immutable; any thread may ask."""

    version: str
    watermark_ms: int  # newest event that its item statistics know
    builder: FeatureBuilder
    engine: Engine

    @staticmethod
    def open(artifact: Artifact, engine: str) -> RankerGeneration:
        """Load a verified artifact and score once.

        Raises `ArtifactCorrupt`, `ArtifactRefused` or `EngineUnavailable`.
        """
        builder = open_builder(artifact)
        generation = RankerGeneration(
            version=artifact.version,
            watermark_ms=_watermark(artifact),
            builder=builder,
            engine=open_engine(engine, artifact.path, builder.table, builder.item_slots),
        )
        generation._warm_up()
        return generation

    def score(self, query: ScoreQuery) -> Scores:
        """Raises `ScoresNotFinite`."""
        started = time.perf_counter()
        rows = self.builder.build(query.user, query.candidates)
        scores = self.engine.score(rows).astype(np.float32, copy=False)
        if not np.isfinite(scores).all():
            bad = int(np.count_nonzero(~np.isfinite(scores)))
            raise ScoresNotFinite(f"version {self.version} gave {bad} scores that are not finite")
        return Scores(
            model_version=self.version,
            scores=scores,
            unknown_items=rows.unknown,
            duration_us=int((time.perf_counter() - started) * 1e6),
        )

    def describe_version(self, *, active: bool) -> LoadedVersion:
        items = len(self.builder.table.keys)
        return LoadedVersion(
            version=self.version,
            active=active,
            items=items,
            items_total=items,
            watermark_ms=self.watermark_ms,
        )

    def describe_tier(self, versions: tuple[LoadedVersion, ...]) -> TierStatus:
        return TierStatus(tier=TIER, versions=versions, capabilities=(self.engine.name,))

    def _warm_up(self) -> None:
        user = UserContext(user_key=0, history=History.empty(), time_ms=self.watermark_ms)
        keys = self.builder.table.keys[:_WARM_UP_ROWS]
        nobody = Candidates(
            keys=keys,
            source_names=(),
            sources=np.zeros(len(keys), np.uint32),
            scores=np.zeros((0, len(keys)), np.float32),
            ranks=np.zeros((0, len(keys)), np.int32),
        )
        self.score(ScoreQuery(request_id="warm-up", user=user, candidates=nobody))


def open_builder(artifact: Artifact) -> FeatureBuilder:
    """The feature builder of a ranking artifact. Raises `ArtifactCorrupt` or `ArtifactRefused`."""
    folder = artifact.path
    return FeatureBuilder(
        FeatureSpec.load(folder / "spec.json"),
        ItemTable.load(folder / "items"),
        FeatureEncoder.load(folder / "item_features.json"),
        FeatureEncoder.load(folder / "user_features.json"),
        FeatureEncoder.load(folder / "context_features.json"),
    )


def _watermark(artifact: Artifact) -> int:
    watermark = artifact.manifest.meta.get("watermark_ms")
    if not isinstance(watermark, int):
        raise ArtifactRefused(f"{artifact.path}: its manifest's watermark_ms is {watermark!r}")
    return watermark


class LocalRanker:
    """A `shortlist.tiers.Ranker` over the versions that this process holds.

    Scoring runs on one thread: two scorings at once are no faster than one after the other, and
    the event loop goes on.
    """

    def __init__(self, versions: LoadedVersions[RankerGeneration], *, threads: int = 1) -> None:
        self.versions = versions
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ranker")

    @staticmethod
    def open(store: ArtifactStore, version: str | None = None, engine: str = "onnx") -> LocalRanker:
        """Load `version`, or the current one.

        Raises `ArtifactNotFound`, `ArtifactCorrupt`, `ArtifactRefused` or `EngineUnavailable`.
        """

        def load(version: str | None) -> RankerGeneration:
            return RankerGeneration.open(store.open(TIER, version), engine)

        return LocalRanker(LoadedVersions(load(version), load))

    @property
    def name(self) -> str:
        return "local/ranker"

    async def score(self, query: ScoreQuery) -> Scores:
        """Raises `VersionNotServed`, `ScoresNotFinite`, or `BudgetExceeded` when it got no turn."""
        generation = self.versions.of(query.model_version)
        asked = time.perf_counter()

        def answer() -> Scores:
            waited_ms = (time.perf_counter() - asked) * 1000
            if query.deadline_ms is not None and waited_ms >= query.deadline_ms:
                raise BudgetExceeded(f"{query.deadline_ms} ms passed before scoring began")
            return generation.score(query)

        return await asyncio.get_running_loop().run_in_executor(self._pool, answer)

    async def status(self) -> RankerStatus:
        active = self.versions.active
        return RankerStatus(
            model_version=active.version,
            engine=active.engine.name,
            items=len(active.builder.table.keys),
            watermark_ms=active.watermark_ms,
        )

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
