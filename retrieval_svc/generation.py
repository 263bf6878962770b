"""One version of one slice, loaded: items, towers, index and sources of one artifact (I1)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from retrieval_svc.brute_force import Floats
from retrieval_svc.item_encoder import ItemEncoder
from retrieval_svc.item_table import ItemTable
from retrieval_svc.rows import Keys
from retrieval_svc.segment import Segment
from retrieval_svc.slice_files import Fusion, RetrievalMeta, load_keys, load_vectors, slice_folder
from retrieval_svc.snapshot import Part, Question, Snapshot
from retrieval_svc.sources import Source
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
    """Everything that one shard needs to answer with one version, as it was published.

    Immutable; any thread may ask. What has changed since is a snapshot beside it: see
    `retrieval_svc.live`.
    """

    version: str
    shard: int
    shards: int
    items_total: int  # over all shards
    watermark_ms: int  # newest event that the version was trained on
    log_sequence: int  # changes up to this one are part of it
    roles: Mapping[str, str]  # feature of items -> role
    fusion: Mapping[str, Fusion]  # by source; one without an entry has the blend's defaults
    item_encoder: ItemEncoder | None  # None of a version from before items could be encoded
    published: Snapshot

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
        items = ItemTable.open(folder / "items.parquet", keys, meta.item_features)
        base = Segment.open(path, folder, meta, keys, vectors, items)
        generation = cls(
            version=version,
            shard=shard,
            shards=meta.shards,
            items_total=meta.items_total,
            watermark_ms=meta.watermark_ms,
            log_sequence=meta.log_sequence,
            roles=meta.item_features,
            fusion=meta.fusion,
            item_encoder=ItemEncoder.open(path / "tower", meta.dim),
            published=Snapshot(base=Part.whole(base)),
        )
        generation._warm_up()
        return generation

    @property
    def base(self) -> Segment:
        return self.published.base.segment

    @property
    def keys(self) -> Keys:
        """uint64 [n], ascending: the items of the slice, as published."""
        return self.base.keys

    @property
    def vectors(self) -> Floats:
        """float32 [n, dim], unit length."""
        return self.base.vectors

    @property
    def items(self) -> ItemTable:
        return self.base.items

    @property
    def sources(self) -> Mapping[str, Source]:
        return self.base.sources

    def retrieve(
        self, query: RetrieveQuery, snapshot: Snapshot | None = None, end: float = math.inf
    ) -> RetrievedSlice:
        """Ask the sources that have a quota. One that fails is reported; the others answer. So is
        one whose turn comes after `end` (`time.perf_counter`): late candidates are none.

        The answer is of `snapshot`, or of what was published. Raises `InvalidField` of `filter` for
        one that these items cannot answer.
        """
        started = time.perf_counter()
        snapshot = snapshot or self.published
        questions = snapshot.questions(query)
        answers: list[SourceCandidates] = []
        failures: list[StageFailure] = []
        for name, k in query.quotas.items():
            if time.perf_counter() >= end:
                failures.append(_failure(name, "no time was left"))
                continue
            try:
                answers.append(self._ask(snapshot, name, questions, k))
            except Exception as error:
                _log.exception("request %s: source %s failed", query.request_id, name)
                # The text of a foreign error may hold anything; it is in the log.
                failures.append(_failure(name, type(error).__name__))
        return RetrievedSlice(
            shard=self.shard,
            shards=self.shards,
            index_version=self.version,
            sources=tuple(answers),
            items_searched=snapshot.items if answers else 0,
            dropped=_dropped(questions),
            failures=tuple(failures),
            unknown=self._count_unknown(snapshot, query.check),
            duration_us=int((time.perf_counter() - started) * 1e6),
        )

    def describe(
        self,
        keys: Keys,
        fields: tuple[str, ...],
        groups: bool = True,
        snapshot: Snapshot | None = None,
    ) -> ItemCards:
        """Cards of the items of `keys` that are here. Raises `InvalidField` for unknown fields."""
        here, vectors, columns = (snapshot or self.published).cards(keys, fields, groups)
        return ItemCards(
            index_version=self.version,
            keys=here,
            ids=columns.ids,
            titles=columns.titles,
            vectors=vectors,
            groups=columns.groups,
            attributes=columns.attributes,
        )

    def describe_version(self, *, active: bool, snapshot: Snapshot | None = None) -> LoadedVersion:
        return LoadedVersion(
            version=self.version,
            active=active,
            items=(snapshot or self.published).items,
            items_total=self.items_total,
            watermark_ms=self.watermark_ms,
            capabilities=tuple(self.sources),
        )

    def describe_tier(self, versions: tuple[LoadedVersion, ...]) -> TierStatus:
        return TierStatus(
            tier=TIER,
            shard=self.shard,
            shards=self.shards,
            versions=versions,
            capabilities=tuple(self.sources),
        )

    def _ask(
        self, snapshot: Snapshot, name: str, questions: Sequence[Question], k: int
    ) -> SourceCandidates:
        if name not in self.sources:
            raise LookupError(f"version {self.version} has no source {name!r}")
        keys, scores = snapshot.propose(name, questions, k)
        found = SourceCandidates(source=name, keys=keys, scores=scores)
        if name not in self.fusion:
            return found
        weight, offset = self.fusion[name]
        return replace(found, weight=weight, offset=offset)

    def _count_unknown(self, snapshot: Snapshot, keys: Keys) -> int:
        mine = keys[shard_of(keys, self.shards) == self.shard] if len(keys) else keys
        return int(np.count_nonzero(~snapshot.has(mine)))

    def _warm_up(self) -> None:
        liked = self.keys[:1]  # one item, so that every source has something to work on
        history = History(
            keys=liked,
            times_ms=np.full(len(liked), self.watermark_ms),
            weights=np.ones(len(liked), np.float32),
        )
        query = RetrieveQuery(
            request_id="warm-up",
            user=UserContext(user_key=0, history=history, time_ms=self.watermark_ms),
            quotas={},
            exclude=np.empty(0, np.uint64),
        )
        questions = self.published.questions(query)
        for name in self.sources:
            try:
                self._ask(self.published, name, questions, _WARM_UP_K)
            except Exception as error:
                raise ArtifactRefused(
                    f"{self.version}, shard {self.shard}: source {name} cannot answer: {error}"
                ) from error


def _dropped(questions: Sequence[Question]) -> dict[str, int]:
    """Items that the query did not want, by reason."""
    counts = {
        "excluded": sum(one.excluded for one in questions),
        "filtered": sum(one.filtered for one in questions),
    }
    return {reason: count for reason, count in counts.items() if count}


def _failure(source: str, detail: str) -> StageFailure:
    return StageFailure(stage=f"source/{source}", reason="SOURCE_FAILED", detail=detail)
