"""The ranker's lessons: what retrieval proposed at a moment, and what the user went on to like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from shortlist.errors import ArtifactRefused
from shortlist.staleness import believed_ms
from shortlist.tiers import (
    AttributeValue,
    Candidates,
    Keys,
    RetrieveQuery,
    SourceCandidates,
    UserContext,
)
from training.dataset import Dataset
from training.groups import Groups
from training.histories import UserRows, history_of, user_attributes
from training.rewards import Rewards
from training.windows import Window

__all__ = [
    "Moment",
    "Proposer",
    "lessons",
    "moments",
    "relevant_rows",
    "user_at",
    "users_at",
    "with_strangers",
]

Booleans = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_LATER_MOMENTS = 8  # at most, of users with much to come: what they want when they have begun
_BETWEEN_MOMENTS = 6  # interactions, at least
_STRANGER = 5  # interactions that are known of one, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A request that might have been made: a user, what is known by then, what is to come."""

    user: int  # row of Dataset.users
    known: Rows  # rows of Dataset.events, oldest first
    next: Rows  # rows of Dataset.events
    time_ms: int
    # Rows of Dataset.events: what came before, of which the request knows nothing. The items are
    # not proposed.
    hidden: Rows = field(default_factory=lambda: np.empty(0, np.int64))


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
    have in life, but no later than `max_staleness_days` after the window's end, as in serving
    (`shortlist.staleness`).
    Later moments, left out with `first_only`, know what came before them.
    """
    known, upcoming = UserRows(dataset, window.known), UserRows(dataset, window.next)
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
                    time_ms=believed_ms(time_ms, window.as_of_ms, max_staleness_days),
                )
            )
    chosen = np.random.default_rng(seed).permutation(len(found))[:limit]
    return [found[place] for place in np.sort(chosen)]


def _cuts(events: int, later: bool) -> list[int]:
    """Places in a user's upcoming interactions at which moments are."""
    parts = 1 + (min(events // _BETWEEN_MOMENTS, _LATER_MOMENTS) if later else 0)
    return [events * part // parts for part in range(parts)]


def with_strangers(todo: Sequence[Moment], share: float, seed: int) -> list[Moment]:
    """The moments, and some of them once more with little of the history, or nothing at all.

    Moments at which at most five interactions are known are `share` of all then, unless they are
    more already, or too many would have to be made up: rankers that never met a stranger have no
    idea what to show to one (DropoutNet: Volkovs, Yu & Poutanen, NIPS 2017).
    """
    rng = np.random.default_rng(seed)
    able = [place for place, moment in enumerate(todo) if len(moment.known) > _STRANGER]
    short = len(todo) - len(able)
    wanted = round((share * len(todo) - short) / (1 - share))
    chosen = np.sort(rng.permutation(np.array(able, np.intp))[: max(wanted, 0)])
    kept = rng.integers(1, _STRANGER + 1, len(chosen)) * rng.integers(0, 2, len(chosen))
    return [
        *todo,
        *(_forgetting(todo[place], n) for place, n in zip(chosen, kept.tolist(), strict=True)),
    ]


def _forgetting(moment: Moment, kept: int) -> Moment:
    """All but the newest `kept` interactions are not known."""
    cut = len(moment.known) - kept
    return replace(moment, known=moment.known[cut:], hidden=moment.known[:cut])


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

    def propose(self, user: UserContext, hidden: Keys | None = None) -> Candidates:
        """The blended candidates of a user, without what the user has seen; of `hidden` items
        nobody knows that."""
        retrieval = self._config.retrieval
        offered = self._generations[0].sources
        quotas = {name: quota for name, quota in retrieval.asked.items() if name in offered}
        proposals = tuple(self.sources(user, quotas, hidden).values())
        _, candidates = blend(proposals, retrieval.candidates, retrieval.guaranteed)
        return candidates

    def sources(
        self, user: UserContext, quotas: Mapping[str, int], hidden: Keys | None = None
    ) -> Mapping[str, SourceCandidates]:
        """Each source's best unseen items, by source. Raises `ArtifactRefused` when one fails."""
        seen = user.history.keys
        query = RetrieveQuery(
            request_id="lesson",
            user=user,
            quotas=quotas,
            exclude=np.unique(seen if hidden is None else np.concatenate([seen, hidden])),
        )
        slices = [generation.retrieve(query) for generation in self._generations]
        if failures := [failure for one in slices for failure in one.failures]:
            raise ArtifactRefused(f"{failures[0].stage} failed: {failures[0].detail}")
        return {one.source: one for one in merge_sources(slices, dict(quotas))}


def lessons(
    dataset: Dataset,
    todo: Sequence[Moment],
    proposer: Proposer,
    builder: FeatureBuilder,
    config: Config,
    rewards: Rewards,
    *,
    seed: int,
) -> Groups | None:
    """Groups of candidates with labels; moments whose liked items were not proposed are left out.

    A group holds the proposed items that the user liked, those of which the user went on to tell a
    value, and a sample of the others: half from the head of the fused order, where the page is
    decided, half from the rest.
    """
    rng = np.random.default_rng(seed)
    size = config.ranking.group_size
    groups = []
    for moment, user in zip(todo, users_at(dataset, todo), strict=True):
        hidden = dataset.item_keys[dataset.events.item[moment.hidden]]
        candidates = proposer.propose(user, hidden)
        labels, values = rewards.labels(dataset, moment.next, candidates.keys)
        liked: Booleans = np.any(labels > 0, axis=1)
        if liked.any():
            rows, mass = _sample(liked, ~np.isnan(values), size, rng)
            newest = replace(user, history=user.history.last(config.serving.history_length))
            features = builder.build(newest, candidates, rows)
            answers = _Answers(labels[rows], labels[rows] @ rewards.weights, values[rows], mass)
            groups.append(_group(features, builder, answers, size, moment.user))
    return Groups.concatenate(groups) if groups else None


def users_at(dataset: Dataset, todo: Sequence[Moment]) -> list[UserContext]:
    """`user_at` each moment, with the attributes that the data has."""
    attributes = user_attributes(dataset, [moment.user for moment in todo])
    return [user_at(dataset, moment, about) for moment, about in zip(todo, attributes, strict=True)]


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
    seen = np.concatenate([moment.known, moment.hidden])
    return frozenset(events.item[liked].tolist()) - set(events.item[seen].tolist())


def _sample(
    liked: Booleans,
    valued: Booleans,
    size: int,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.intp], Floats]:
    """Rows of at most `size` candidates in fused order, and what each stands for, `mass`."""
    told = np.flatnonzero(valued & ~liked)
    others = np.flatnonzero(~liked & ~valued)
    mass = np.zeros(len(liked), np.float32)

    def draw(kind: npt.NDArray[np.intp], count: int) -> int:
        drawn = rng.permutation(kind)[:count]
        mass[drawn] = len(kind) / max(len(drawn), 1)
        return len(drawn)

    wanted = size - draw(np.flatnonzero(liked), size // 2)
    wanted -= draw(told, size // 4)
    draw(others[: 2 * wanted], wanted - wanted // 2)
    draw(others[2 * wanted :], wanted // 2)
    rows = np.flatnonzero(mass)
    return rows, mass[rows]


@dataclass(frozen=True, slots=True)
class _Answers:
    """What happened to the drawn candidates of a moment."""

    head_labels: Floats  # [n, H]
    utility: npt.NDArray[np.float64]  # [n]
    values: Floats  # [n]
    mass: Floats  # [n]


def _group(
    features: FeatureRows, builder: FeatureBuilder, answers: _Answers, size: int, user: int
) -> Groups:
    """One group, padded to `size` candidates."""
    table, padding = builder.table, size - len(answers.mass)

    def padded(array: npt.NDArray[Any], fill: float = 0) -> npt.NDArray[Any]:
        filler = np.full((padding, *array.shape[1:]), fill, array.dtype)
        return np.concatenate([array, filler])[None]

    return Groups(
        numeric=padded(features.numeric),
        item_tokens=padded(table.tokens[features.items]),
        item_weights=padded(table.token_weights[features.items]),
        user_tokens=features.user.tokens,
        user_weights=features.user.weights,
        context_tokens=features.context.tokens,
        context_weights=features.context.weights,
        head_labels=padded(answers.head_labels),
        labels=padded(answers.utility.astype(np.float32)),
        values=padded(answers.values, np.nan),
        mass=padded(answers.mass),
        user=np.array([user], np.int32),
    )
