"""The ranker's lessons: what retrieval proposed at a moment, and what the user went on to like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.blend import blend
from orchestrator.fanout import merge_sources
from ranking_svc.features import FeatureBuilder, FeatureRows
from retrieval_svc.generation import Generation
from retrieval_svc.slice_files import RetrievalMeta
from shortlist.artifacts import ArtifactStore
from shortlist.config import Config
from shortlist.tiers import AttributeValue, Candidates, RetrieveQuery, SourceCandidates, UserContext
from training.dataset import Dataset
from training.groups import Groups
from training.histories import UserRows, history_of, user_attributes
from training.windows import Window

__all__ = ["Moment", "Proposer", "labels_of", "lessons", "moments", "relevant_rows", "user_at"]

Rows = npt.NDArray[np.int64]

_DAY_MS = 86_400_000
_LATER_MOMENTS = 8  # at most, of users with much to come: what they want when they have begun
_BETWEEN_MOMENTS = 6  # interactions, at least


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A request that might have been made: a user, what is known by then, what is to come."""

    user: int  # row of Dataset.users
    known: Rows  # rows of Dataset.events, oldest first
    next: Rows  # rows of Dataset.events
    time_ms: int


def moments(
    dataset: Dataset,
    window: Window,
    *,
    limit: int,
    max_staleness_days: float,
    seed: int,
    first_only: bool = False,
) -> list[Moment]:
    """One moment for each user with something to come, more for those with much; at most `limit`.

    A moment is when the first thing to come happens, so that requests have the times of day they
    have in life, but no later than `max_staleness_days` after the window's end, as in serving.
    Later moments, left out with `first_only`, know what came before them.
    """
    known, upcoming = UserRows(dataset, window.known), UserRows(dataset, window.next)
    latest = window.as_of_ms + int(max_staleness_days * _DAY_MS)
    found = []
    for user in np.unique(dataset.events.user[window.next]):
        before, after = known.of(int(user)), upcoming.of(int(user))
        for cut in _cuts(len(after), dataset.has_time and not first_only):
            time_ms = int(dataset.events.time_ms[after[cut]])
            found.append(
                Moment(
                    user=int(user),
                    known=np.concatenate([before, after[:cut]]),
                    next=after[cut:],
                    time_ms=min(time_ms, latest),
                )
            )
    chosen = np.random.default_rng(seed).permutation(len(found))[:limit]
    return [found[place] for place in np.sort(chosen)]


def _cuts(events: int, later: bool) -> list[int]:
    """Places in a user's upcoming interactions at which moments are."""
    parts = 1 + (min(events // _BETWEEN_MOMENTS, _LATER_MOMENTS) if later else 0)
    return [events * part // parts for part in range(parts)]


class Proposer:
    """Retrieval and blending as served, without the network: the same code, one process."""

    def __init__(self, generations: Sequence[Generation], config: Config) -> None:
        self._generations, self._config = generations, config

    @staticmethod
    def open(store: ArtifactStore, tier: str, version: str | None, config: Config) -> Proposer:
        """Load every shard of a retrieval artifact."""
        artifact = store.open(tier, version)
        shards = RetrievalMeta.of(artifact).shards
        return Proposer([Generation.open(artifact, shard) for shard in range(shards)], config)

    def propose(self, user: UserContext) -> Candidates:
        """The blended candidates of a user, without what the user has seen."""
        retrieval = self._config.retrieval
        proposals = self.sources(user, retrieval.quotas)
        _, candidates = blend(tuple(proposals.values()), retrieval.candidates)
        return candidates

    def sources(
        self, user: UserContext, quotas: Mapping[str, int]
    ) -> Mapping[str, SourceCandidates]:
        """Each source's best unseen items, by source."""
        query = RetrieveQuery(
            request_id="lesson",
            user=user,
            quotas=quotas,
            exclude=np.unique(user.history.keys),
        )
        slices = [generation.retrieve(query) for generation in self._generations]
        return {one.source: one for one in merge_sources(slices, dict(quotas))}


def lessons(
    dataset: Dataset,
    todo: Sequence[Moment],
    proposer: Proposer,
    builder: FeatureBuilder,
    config: Config,
    *,
    seed: int,
) -> Groups | None:
    """Groups of candidates with labels; moments whose liked items were not proposed are left out.

    A group holds the proposed items that the user liked, and a sample of the others: half from the
    head of the fused order, where the page is decided, half from the rest.
    """
    rng = np.random.default_rng(seed)
    size = config.ranking.group_size
    attributes = user_attributes(dataset, [moment.user for moment in todo])
    groups = []
    for moment, about in zip(todo, attributes, strict=True):
        user = user_at(dataset, moment, about)
        candidates = proposer.propose(user)
        weights = labels_of(dataset, moment, candidates)
        if (weights > 0).any():
            rows, mass = _sample(weights, size, rng)
            newest = replace(user, history=user.history.last(config.serving.history_length))
            features = builder.build(newest, candidates.take(rows))
            groups.append(_group(features, builder, weights[rows], mass, size, moment.user))
    return Groups.concatenate(groups) if groups else None


def user_at(
    dataset: Dataset, moment: Moment, attributes: Mapping[str, AttributeValue]
) -> UserContext:
    """The user at the moment, with the whole history and the context of what comes next."""
    first = int(moment.next[0])
    context = {
        name: value
        for name, column in dataset.events.context.items()
        if (value := column[first].as_py()) is not None
    }
    return UserContext(
        user_key=int(dataset.user_keys[moment.user]),
        history=history_of(dataset, moment.known),
        attributes=attributes,
        context=context,
        time_ms=moment.time_ms,
    )


def relevant_rows(dataset: Dataset, moment: Moment) -> frozenset[int]:
    """Item rows that the user went on to like and had not seen before."""
    events = dataset.events
    liked = moment.next[events.weight[moment.next] > 0]
    return frozenset(events.item[liked].tolist()) - set(events.item[moment.known].tolist())


def labels_of(dataset: Dataset, moment: Moment, candidates: Candidates) -> npt.NDArray[np.float32]:
    """The weight of the heaviest event to come on each candidate, [n]; 0 = none."""
    labels = np.zeros(len(candidates), np.float32)
    if not len(candidates):  # the user has seen everything
        return labels
    events = dataset.events
    keys = dataset.item_keys[events.item[moment.next]]
    order = np.argsort(candidates.keys)
    places = np.minimum(
        np.searchsorted(candidates.keys, keys, sorter=order), len(candidates.keys) - 1
    )
    rows = order[places]
    hit = candidates.keys[rows] == keys
    np.maximum.at(labels, rows[hit], events.weight[moment.next][hit])
    return labels


def _sample(
    labels: npt.NDArray[np.float32], size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Rows of at most `size` candidates in fused order, and what each stands for, `mass`."""
    liked, others = np.flatnonzero(labels > 0), np.flatnonzero(labels == 0)
    wanted = size - min(len(liked), size // 2)
    head, rest = others[: 2 * wanted], others[2 * wanted :]
    mass = np.zeros(len(labels), np.float32)
    for kind, count in ((liked, size // 2), (head, wanted - wanted // 2), (rest, wanted // 2)):
        if len(kind):
            drawn = rng.permutation(kind)[:count]
            mass[drawn] = len(kind) / len(drawn)
    rows = np.flatnonzero(mass)
    return rows, mass[rows]


def _group(
    features: FeatureRows,
    builder: FeatureBuilder,
    labels: npt.NDArray[np.float32],
    mass: npt.NDArray[np.float32],
    size: int,
    user: int,
) -> Groups:
    """One group, padded to `size` candidates."""
    table, n = builder.table, len(labels)
    padding = size - n

    def padded(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        filler = np.zeros((padding, *array.shape[1:]), array.dtype)
        return np.concatenate([array, filler])[None]

    return Groups(
        numeric=padded(features.numeric),
        item_tokens=padded(table.tokens[features.items]),
        item_weights=padded(table.token_weights[features.items]),
        user_tokens=features.user.tokens,
        user_weights=features.user.weights,
        context_tokens=features.context.tokens,
        context_weights=features.context.weights,
        labels=padded(labels),
        mass=padded(mass),
        user=np.array([user], np.int32),
    )
