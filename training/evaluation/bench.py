"""The trained system, taken apart: sources, blend, rankers and slate, each by itself.

All of it is the code that serves, in one process and without the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from orchestrator.blend import blend
from orchestrator.fanout import join_cards, merge_sources
from orchestrator.minimums import needed
from orchestrator.slate import Minimum, choose
from ranking_svc.features import FeatureRows
from ranking_svc.models import Model, Outputs, combine
from ranking_svc.models.ensemble import Ensemble
from ranking_svc.ranker import RankerGeneration
from retrieval_svc.generation import Generation
from retrieval_svc.slice_files import RetrievalMeta
from retrieval_svc.source_data import SharedData
from retrieval_svc.sources.fresh import FreshSource
from shortlist.artifacts import Artifact
from shortlist.config import Config, RankingConfig
from shortlist.errors import TierUnavailable
from shortlist.tiers import (
    Candidates,
    ItemCards,
    Keys,
    RetrieveQuery,
    SourceCandidates,
    UserContext,
)

__all__ = ["Bench", "Rankers", "Scored", "Shards", "SlateRules", "ordered"]

Floats = npt.NDArray[np.float32]


class Shards:
    """Every slice of one retrieval version."""

    def __init__(self, artifact: Artifact) -> None:
        meta = RetrievalMeta.of(artifact)
        self.version = artifact.version
        self.sources = tuple(meta.sources)
        self.absent = meta.absent  # source -> why the version has none
        self.fresh_after_ms = _fresh_after_ms(artifact, self.sources)
        self.generations = [Generation.open(artifact, shard) for shard in range(meta.shards)]
        keys = np.concatenate([one.keys for one in self.generations])
        vectors = np.concatenate([one.vectors for one in self.generations])
        order = np.argsort(keys)
        self._keys: Keys = keys[order]
        self.vectors: Floats = vectors[order]  # [items, dim], unit length, by ascending key

    def ask(
        self, user: UserContext, quotas: Mapping[str, int], exclude: Keys
    ) -> Mapping[str, SourceCandidates]:
        """Each source's best items that are not in `exclude` (ascending, unique).

        Raises `TierUnavailable` when a source fails: figures without it would say nothing.
        """
        query = RetrieveQuery(request_id="evaluate", user=user, quotas=quotas, exclude=exclude)
        slices = [generation.retrieve(query) for generation in self.generations]
        if failed := [failure for one in slices for failure in one.failures]:
            raise TierUnavailable(f"a source failed during the evaluation: {failed[0]}")
        return {one.source: one for one in merge_sources(slices, dict(quotas))}

    def cards(self, keys: Keys, *, groups: bool) -> ItemCards:
        """What the slate needs to know of items, in the order of `keys`; groups only for caps."""
        if groups:
            return join_cards(keys, [one.describe(keys, ()) for one in self.generations])
        return ItemCards(
            index_version=self.version,
            keys=keys,
            ids=("",) * len(keys),
            titles=("",) * len(keys),
            vectors=self.vectors[np.searchsorted(self._keys, keys)],
            groups={},
            attributes=({},) * len(keys),
        )


class Rankers:
    """The models of one ranking version, over features that are built once for all of them."""

    def __init__(self, artifact: Artifact, config: RankingConfig) -> None:
        self.version = artifact.version
        self._generation = RankerGeneration.open(artifact, config)
        self.default = self._generation.default
        self._models = _sharing(self._generation.models)
        self.names = tuple(self._models)

    def score(
        self, user: UserContext, candidates: Candidates, models: Sequence[str] | None = None
    ) -> dict[str, Floats]:
        """The scores that serving gives the candidates, by model; all models unless named."""
        rows = self._generation.builder.build(user, candidates)
        asked = {name: self._models[name] for name in models or self.names}
        return {
            name: combine(model.score(rows), model.heads, self._generation.worth)
            for name, model in asked.items()
        }


class _Remembering:
    """A model that answers the same question twice without thinking twice."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._rows: FeatureRows | None = None
        self._outputs: Outputs | None = None

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def heads(self) -> tuple[str, ...]:
        return self._model.heads

    def score(self, rows: FeatureRows) -> Outputs:
        if self._outputs is None or rows is not self._rows:
            self._rows, self._outputs = rows, self._model.score(rows)
        return self._outputs

    def refresh(self, items: npt.NDArray[np.int64]) -> None:
        self._rows = self._outputs = None
        self._model.refresh(items)


def _sharing(models: Mapping[str, Model]) -> Mapping[str, Model]:
    """The same models, of which the ensemble mixes the answers that the others gave."""
    shared: dict[str, Model] = {name: _Remembering(model) for name, model in models.items()}
    ensemble = models.get(Ensemble.name)
    if isinstance(ensemble, Ensemble):
        shared[Ensemble.name] = ensemble.over(shared)
    return shared


@dataclass(frozen=True, slots=True, kw_only=True)
class SlateRules:
    """What an experiment may turn about the slate."""

    diversity: float
    minimums: Mapping[str, int]  # source -> fewest items of a page


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """n candidates, S sources in the order of the quotas."""

    keys: Keys  # [n]
    scores: Floats  # [n]
    sources: npt.NDArray[np.bool_]  # [S, n], who proposed what


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The parts, and the configuration that they serve with."""

    config: Config
    shards: Shards
    rankers: Rankers

    @property
    def quotas(self) -> Mapping[str, int]:
        """Of the sources that are on and that the version has, in the version's order."""
        asked = self.config.retrieval.asked
        return {name: asked[name] for name in self.shards.sources if name in asked}

    def depths(self, least: int) -> Mapping[str, int]:
        """Quotas of at least `least`, for lists that are as long as they are compared."""
        return {name: max(least, quota) for name, quota in self.quotas.items()}

    @property
    def rules(self) -> SlateRules:
        """Those that serve."""
        slate = self.config.slate
        return SlateRules(diversity=slate.diversity, minimums=slate.minimums)

    def blend(self, proposals: Mapping[str, SourceCandidates]) -> tuple[int, Candidates]:
        """How many items are proposed within the quotas, and the candidates."""
        retrieval = self.config.retrieval
        within = tuple(_first(one, self.quotas[one.source]) for one in proposals.values())
        return blend(within, retrieval.candidates, retrieval.guaranteed)

    def page(self, scored: Scored, size: int, rules: SlateRules) -> list[int]:
        """Places among the candidates, in page order, by the rules of the slate."""
        order = ordered(scored.keys, scored.scores)
        head = min(len(order), max(self.config.slate.pool, size))
        while True:
            offered = self._offered(order, scored, head, rules.minimums)
            chosen = offered[self._choose(scored, offered, size, rules, head)]
            if len(chosen) == size or head == len(order):
                return [int(place) for place in chosen]
            head = min(len(order), 2 * head)  # caps bite: look further down

    def _offered(
        self,
        order: npt.NDArray[np.intp],
        scored: Scored,
        head: int,
        minimums: Mapping[str, int],
    ) -> npt.NDArray[np.intp]:
        """The first `head` places, and more of the sources that have a minimum."""
        names = list(self.quotas)
        proposed = {
            name: scored.sources[names.index(name)][order] for name in self._of_present(minimums)
        }
        promoted = needed(proposed, minimums, head, len(order))
        return np.concatenate([order[:head], order[promoted]])

    def _choose(
        self,
        scored: Scored,
        offered: npt.NDArray[np.intp],
        size: int,
        rules: SlateRules,
        head: int,
    ) -> list[int]:
        names, caps = list(self.quotas), self.config.slate.caps
        return choose(
            scored.scores[offered],
            self.shards.cards(scored.keys[offered], groups=bool(caps)),
            size,
            strength=rules.diversity,
            caps=caps,
            head=head,
            minimums=[
                Minimum(least=least, rows=scored.sources[names.index(name)][offered])
                for name, least in self._of_present(rules.minimums).items()
            ],
        )

    def _of_present(self, minimums: Mapping[str, int]) -> Mapping[str, int]:
        return {name: least for name, least in minimums.items() if name in self.quotas}


def ordered(keys: npt.NDArray[np.integer], scores: Floats) -> npt.NDArray[np.intp]:
    """Places by descending score; ties go to the smaller key, as on a page."""
    return np.lexsort((keys, -scores))


def _fresh_after_ms(artifact: Artifact, sources: Sequence[str]) -> int | None:
    """From when on an item is fresh, as the source of fresh items has it; None without one."""
    if FreshSource.name not in sources:
        return None
    return int(SharedData.load(artifact.path / FreshSource.name).settings["after_ms"])


def _first(one: SourceCandidates, quota: int) -> SourceCandidates:
    return replace(one, keys=one.keys[:quota], scores=one.scores[:quota])
