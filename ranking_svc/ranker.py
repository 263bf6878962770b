"""The ranker in this process, behind the same protocol as one across the network (I7)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ranking_svc.features import FeatureBuilder, FeatureSpec, ItemTable
from ranking_svc.item_counts import ItemCounts, statistics_names
from ranking_svc.item_table import Rows
from ranking_svc.live import LiveItemTable
from ranking_svc.meta import RankingMeta
from ranking_svc.models import Model, Worth, combine, open_models
from ranking_svc.models.dcn import SAVED_MODEL_FOLDER
from ranking_svc.models.ensemble import Ensemble
from shortlist.admin import LoadedVersion, TierStatus
from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.config import RankingConfig
from shortlist.errors import ArtifactCorrupt, BudgetExceeded, InvalidField, TierUnavailable
from shortlist.features import FeatureEncoder
from shortlist.live import Changes
from shortlist.memory import check_head_room
from shortlist.short_work import ShortWork, ends_by
from shortlist.starting import starting_versions
from shortlist.stores import Store
from shortlist.tiers import (
    Candidates,
    History,
    RankerStatus,
    ScoreQuery,
    Scores,
    UserContext,
)
from shortlist.versions import LoadedVersions

__all__ = ["ITEM_COUNTS", "LocalRanker", "RankerGeneration", "ScoresNotFinite", "open_builder"]

TIER = "ranking"
ITEM_COUNTS = "item_counts"  # folder of an artifact
_WARM_UP_ROWS = 1000
_CHECKED_AT_ONCE = 1_000_000  # rows: what that takes for a moment is not to matter


class ScoresNotFinite(TierUnavailable):
    """The model answered NaN or Inf; an order of such scores would be arbitrary.

    A replica that answers so has not answered: another one may.
    """

    status_name = "INTERNAL"


@dataclass(frozen=True, kw_only=True)
class RankerGeneration:
    """One version, loaded: all its models over one feature builder.

    Any thread may ask. Only its item table changes, when the generation follows the log.
    """

    version: str
    log_sequence: int  # changes up to it are part of what was trained
    watermark_ms: int  # newest event that its item statistics know
    builder: FeatureBuilder
    table: LiveItemTable  # the builder's
    engine: str  # that runs the models
    models: Mapping[str, Model]
    default: str  # the model of queries that name none
    worth: Worth

    @staticmethod
    def open(artifact: Artifact, config: RankingConfig) -> RankerGeneration:
        """Load a verified artifact and score once with every model.

        Raises `ArtifactCorrupt`, `ArtifactRefused`, `EngineUnavailable`, or `InvalidField` when the
        configuration names a head or a default ranker that the version does not have.
        """
        meta = RankingMeta.of(artifact)
        builder = open_builder(artifact)
        table = open_live_table(artifact, meta, builder)
        builder = builder.over(table)
        models = open_models(artifact.path, meta.models, builder, config.engine)
        generation = RankerGeneration(
            version=artifact.version,
            log_sequence=meta.log_sequence,
            watermark_ms=meta.watermark_ms,
            builder=builder,
            table=table,
            engine=config.engine,
            models=models,
            default=_default_model(config.default, meta, models),
            worth=Worth(heads=meta.heads).declared(config.head_weights, config.value_weight),
        )
        generation._warm_up()
        return generation

    def score(self, query: ScoreQuery) -> Scores:
        """Raises `InvalidField` for an unknown model, and `ScoresNotFinite`."""
        started = time.perf_counter()
        model = self._model(query.model)
        rows = self.builder.build(query.user, query.candidates)
        scores = combine(model.score(rows), model.heads, self.worth)
        if not np.isfinite(scores).all():
            bad = int(np.count_nonzero(~np.isfinite(scores)))
            raise ScoresNotFinite(
                f"{model.name} of version {self.version} gave {bad} scores that are not finite"
            )
        return Scores(
            model_version=self.version,
            model=model.name,
            scores=scores,
            unknown_items=rows.unknown,
            duration_us=int((time.perf_counter() - started) * 1e6),
        )

    def apply(self, changes: Changes) -> None:
        """Take in a stretch of the log: new and changed items, then events."""
        self.table.follow(changes, self._refresh)

    def _refresh(self, items: Rows) -> None:
        for model in self.models.values():
            model.refresh(items)

    def describe_version(self, *, active: bool) -> LoadedVersion:
        items = self.table.size
        return LoadedVersion(
            version=self.version,
            active=active,
            items=items,
            items_total=items,
            watermark_ms=self.watermark_ms,
            capabilities=(self.engine,),
            models=tuple(self.models),
        )

    def describe_tier(self, versions: tuple[LoadedVersion, ...]) -> TierStatus:
        return TierStatus(
            tier=TIER, versions=versions, capabilities=(self.engine,), models=tuple(self.models)
        )

    def close(self) -> None:
        """Nothing goes on in the background."""

    def _model(self, name: str) -> Model:
        try:
            return self.models[name or self.default]
        except KeyError:
            known = ", ".join(self.models)
            raise InvalidField("model", f"no ranker {name!r}; there are: {known}") from None

    def _warm_up(self) -> None:
        user = UserContext(user_key=0, history=History.empty(), time_ms=self.watermark_ms)
        keys = self.builder.table.keys[:_WARM_UP_ROWS]
        nobody = Candidates(
            keys=keys,
            source_names=(),
            sources=np.zeros(len(keys), np.uint32),
            scores=np.zeros((0, len(keys)), np.float32),
            ranks=np.zeros((0, len(keys)), np.int32),
            fused=np.zeros(len(keys), np.float32),
        )
        for model in self.models:
            self.score(ScoreQuery(request_id="warm-up", user=user, candidates=nobody, model=model))


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


def open_live_table(
    artifact: Artifact, meta: RankingMeta, builder: FeatureBuilder
) -> LiveItemTable:
    """The builder's items, ready to follow the log. Raises `ArtifactCorrupt` or `ArtifactRefused`,
    also when counts and statistics do not say the same.
    """
    table = builder.table
    counts = ItemCounts.load(artifact.path / ITEM_COUNTS, len(table.keys))
    if builder.spec.statistics != statistics_names(len(counts.half_lives_ms)):
        raise ArtifactCorrupt(f"{ITEM_COUNTS}: its half-lives lead to other statistics")
    for start in range(0, len(table.keys), _CHECKED_AT_ONCE):
        rows = slice(start, min(start + _CHECKED_AT_ONCE, len(table.keys)))
        if not np.allclose(counts.statistics(rows), table.statistics[rows], atol=1e-4):
            raise ArtifactCorrupt(f"{ITEM_COUNTS}: says other than items/statistics.npy")
    return LiveItemTable.of(table, counts, builder.item, meta.located)


def _loaded_bytes(artifact: Artifact, engine: str) -> int:
    """The size of the files that serving reads; a SavedModel only where that is the engine."""
    return sum(
        entry.size
        for name, entry in artifact.manifest.files.items()
        if engine == "savedmodel" or SAVED_MODEL_FOLDER not in name.split("/")
    )


def _default_model(wanted: str, meta: RankingMeta, models: Mapping[str, Model]) -> str:
    """`ensemble`, which is everybody's default, gives way where there is only one model."""
    if wanted in models:
        return wanted
    if wanted == Ensemble.name:
        return meta.default_model
    known = ", ".join(models)
    raise InvalidField("ranking.default", f"no ranker {wanted!r}; there are: {known}")


class LocalRanker:
    """A `shortlist.tiers.Ranker` over the versions that this process holds.

    Scoring runs on one thread: two scorings at once are no faster than one after the other, and
    the event loop goes on. Where the process is there for nothing else (`on_loop`), one that comes
    alone runs on the event loop; see `ShortWork`. With a store it follows the log of changes, once
    it is started.
    """

    def __init__(
        self, versions: LoadedVersions[RankerGeneration], *, threads: int = 1, on_loop: bool = False
    ) -> None:
        self.versions = versions
        self._work = ShortWork(threads, name="ranker", on_loop=on_loop)

    @staticmethod
    def open(
        store: ArtifactStore,
        version: str | None = None,
        config: RankingConfig | None = None,
        *,
        on_loop: bool = False,
        live: Store | None = None,
        memory_factor: float = 0.0,
    ) -> LocalRanker:
        """Load `version`, or what `starting_versions` names.

        `live` has the log that it shall follow. Another version is loaded only where
        `memory_factor` times the size of its files is free. Raises `ArtifactNotFound` and what
        `RankerGeneration.open` raises.
        """
        config = config or RankingConfig()

        def first(version: str) -> RankerGeneration:
            return RankerGeneration.open(store.open(TIER, version), config)

        def beside(version: str) -> RankerGeneration:
            artifact = store.open(TIER, version)
            size = _loaded_bytes(artifact, config.engine)
            check_head_room(f"{TIER} {version}", size, factor=memory_factor)
            return RankerGeneration.open(artifact, config)

        def wanted() -> list[str]:
            return starting_versions(store, TIER, version)

        versions = LoadedVersions.starting(wanted, first, beside, store=live)
        return LocalRanker(versions, on_loop=on_loop)

    async def start(self) -> None:
        """Catch up with the log and follow it; before the first question. Raises as the store."""
        await self.versions.start()

    @property
    def name(self) -> str:
        return "local/ranker"

    async def score(self, query: ScoreQuery) -> Scores:
        """Raises `VersionNotServed`, `InvalidField` for an unknown model, `ScoresNotFinite`, or
        `BudgetExceeded` when it got no turn.
        """
        end = ends_by(query.deadline_ms)
        with self.versions.asked(query.model_version) as generation:

            def answer() -> Scores:
                if time.perf_counter() >= end:
                    raise BudgetExceeded(f"{query.deadline_ms} ms passed before scoring began")
                return generation.score(query)

            scores = await self._work.run(answer)
            return replace(scores, log=self.versions.position(generation.version))

    async def status(self) -> RankerStatus:
        active, *others = map(self._status, self.versions.active_first)
        return replace(active, others=tuple(others))

    def _status(self, one: RankerGeneration) -> RankerStatus:
        return RankerStatus(
            model_version=one.version,
            engine=one.engine,
            items=one.table.size,
            watermark_ms=one.watermark_ms,
            models=tuple(one.models),
            log=self.versions.position(one.version),
        )

    async def close(self) -> None:
        await self.versions.close()
        self._work.close()
