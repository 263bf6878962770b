"""One version of one slice, loaded: items, user tower, index and sources of one artifact (I1)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from retrieval_svc.brute_force import Floats
from retrieval_svc.item_table import ItemTable
from retrieval_svc.rows import Allowed, Keys, RowMask, Rows, rows_of
from retrieval_svc.slice_files import Fusion, RetrievalMeta, load_keys, load_vectors, slice_folder
from retrieval_svc.source_data import SharedData, SourceData
from retrieval_svc.sources import SOURCES, SliceView, Source, SourceQuery
from shortlist.admin import LoadedVersion, TierStatus
from shortlist.artifacts import Artifact
from shortlist.errors import ArtifactRefused
from shortlist.ids import shard_of
from shortlist.tiers import (
    History,
    ItemCards,
    RetrievedSlice,
    RetrieveQuery,
    SourceCandidates,
    StageFailure,
    UserContext,
)

__all__ = ["TIER", "Generation"]

TIER = "retrieval"

_WARM_UP_K = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Everything that one shard needs to answer with one version. Immutable; any thread may ask."""

    version: str
    shard: int
    shards: int
    items_total: int  # over all shards
    watermark_ms: int  # newest event that the version was trained on
    keys: Keys  # uint64 [n], ascending
    vectors: Floats  # float32 [n, dim], unit length
    items: ItemTable
    sources: Mapping[str, Source]
    fusion: Mapping[str, Fusion]  # by source; one without an entry has the blend's defaults

    @classmethod
    def open(cls, artifact: Artifact, shard: int) -> Generation:
        """Load one slice of a verified artifact; raises what `open_folder` raises."""
        return cls.open_folder(artifact.path, RetrievalMeta.of(artifact), shard, artifact.version)

    @classmethod
    def open_folder(cls, path: Path, meta: RetrievalMeta, shard: int, version: str) -> Generation:
        """Load one slice of a folder, which may not be published yet, and ask each source once.

        Raises:
            ArtifactCorrupt: files do not fit together.
            ArtifactRefused: NaN, vectors not of unit length, a source that cannot answer, no such
                shard, an unknown source.
        """
        if not 0 <= shard < meta.shards:
            raise ArtifactRefused(f"{version} has {meta.shards} shards, no shard {shard}")
        folder = slice_folder(path, shard)
        keys = load_keys(folder / "keys.npy", meta, shard)
        vectors = load_vectors(folder / "vectors.npy", (len(keys), meta.dim))
        generation = cls(
            version=version,
            shard=shard,
            shards=meta.shards,
            items_total=meta.items_total,
            watermark_ms=meta.watermark_ms,
            keys=keys,
            vectors=vectors,
            items=ItemTable.open(folder / "items.parquet", keys, meta.item_features),
            sources=_open_sources(path, folder, meta, keys, vectors),
            fusion=meta.fusion,
        )
        generation._warm_up()
        return generation

    def retrieve(self, query: RetrieveQuery) -> RetrievedSlice:
        """Ask the sources that have a quota. One that fails is reported; the others answer.

        Raises `InvalidField` of `filter` for one that these items cannot answer.
        """
        started = time.perf_counter()
        exclude = self._own_rows(query.exclude)
        matching = self.items.matching(query.filter)
        allowed = Allowed(exclude=exclude).where(matching)
        question = SourceQuery(user=query.user, allowed=allowed)
        answers: list[SourceCandidates] = []
        failures: list[StageFailure] = []
        for name, k in query.quotas.items():
            try:
                answers.append(self._ask(name, question, k))
            except Exception as error:
                _log.exception("request %s: source %s failed", query.request_id, name)
                failures.append(_failure(name, error))
        return RetrievedSlice(
            shard=self.shard,
            shards=self.shards,
            index_version=self.version,
            sources=tuple(answers),
            items_searched=len(self.keys) if answers else 0,
            dropped=_dropped(exclude, matching),
            failures=tuple(failures),
            unknown=self._count_unknown(query.check),
            duration_us=int((time.perf_counter() - started) * 1e6),
        )

    def describe(self, keys: Keys, fields: tuple[str, ...]) -> ItemCards:
        """Cards of the items of `keys` that are here. Raises `InvalidField` for unknown fields."""
        rows, known = rows_of(self.keys, keys)
        rows = rows[known]
        columns = self.items.cards(rows, fields)
        return ItemCards(
            index_version=self.version,
            keys=self.keys[rows],
            ids=columns.ids,
            titles=columns.titles,
            vectors=self.vectors[rows],
            groups=columns.groups,
            attributes=columns.attributes,
        )

    def describe_version(self, *, active: bool) -> LoadedVersion:
        return LoadedVersion(
            version=self.version,
            active=active,
            items=len(self.keys),
            items_total=self.items_total,
            watermark_ms=self.watermark_ms,
        )

    def describe_tier(self, versions: tuple[LoadedVersion, ...]) -> TierStatus:
        return TierStatus(
            tier=TIER,
            shard=self.shard,
            shards=self.shards,
            versions=versions,
            capabilities=tuple(self.sources),
        )

    def _ask(self, name: str, question: SourceQuery, k: int) -> SourceCandidates:
        if name not in self.sources:
            raise LookupError(f"version {self.version} has no source {name!r}")
        rows, scores = self.sources[name].propose(question, k)
        found = SourceCandidates(source=name, keys=self.keys[rows], scores=scores)
        if name not in self.fusion:
            return found
        weight, offset = self.fusion[name]
        return replace(found, weight=weight, offset=offset)

    def _own_rows(self, keys: Keys) -> Rows:
        rows, known = rows_of(self.keys, keys)
        return np.unique(rows[known])

    def _count_unknown(self, keys: Keys) -> int:
        _, known = rows_of(self.keys, keys)
        return int(np.count_nonzero(~known & (shard_of(keys, self.shards) == self.shard)))

    def _warm_up(self) -> None:
        liked = self.keys[:1]  # one item, so that every source has something to work on
        history = History(
            keys=liked,
            times_ms=np.full(len(liked), self.watermark_ms),
            weights=np.ones(len(liked), np.float32),
        )
        user = UserContext(user_key=0, history=history, time_ms=self.watermark_ms)
        question = SourceQuery(user=user)
        for name in self.sources:
            try:
                self._ask(name, question, _WARM_UP_K)
            except Exception as error:
                raise ArtifactRefused(
                    f"{self.version}, shard {self.shard}: source {name} cannot answer: {error}"
                ) from error


def _open_sources(
    artifact: Path, folder: Path, meta: RetrievalMeta, keys: Keys, vectors: Floats
) -> dict[str, Source]:
    """The sources that the manifest names, each over what it stored; files it needs it checks."""
    views: dict[str, SliceView] = {}
    for name in meta.sources:
        if name not in SOURCES:
            raise ArtifactRefused(f"{artifact}: its manifest names a source {name!r}")
        own, shared = folder / name, artifact / name
        views[name] = SliceView(
            source=name,
            keys=keys,
            vectors=vectors,
            watermark_ms=meta.watermark_ms,
            data=SourceData.load(own, len(keys)) if own.exists() else SourceData(),
            shared=SharedData.load(shared) if shared.exists() else SharedData(),
            slice_folder=folder,
            artifact=artifact,
            siblings=views,
        )
    return {name: SOURCES[name].open(view) for name, view in views.items()}


def _dropped(exclude: Rows, matching: RowMask | None) -> dict[str, int]:
    unmatched = 0 if matching is None else len(matching) - matching.count
    counts = {"excluded": len(exclude), "filtered": unmatched}
    return {reason: count for reason, count in counts.items() if count}


def _failure(source: str, error: Exception) -> StageFailure:
    # The text of a foreign error may hold anything; it is in the log.
    return StageFailure(
        stage=f"source/{source}", reason="SOURCE_FAILED", detail=type(error).__name__
    )
