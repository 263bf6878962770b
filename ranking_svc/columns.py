"""The groups of feature columns: each knows the names of its columns and how to fill them.

Whatever is unknown leaves zeros: without a history every `history:` column is 0. Where more is
nearer, a column falls with the logarithm of the distance, from 1 at none towards 0 at the most, so
that 0 is both "never" and "as far as it gets".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ranking_svc.item_table import ItemTable
from shortlist.features import Encoded, FeatureEncoder, TokenFeature, moment_points
from shortlist.places import coordinates_of, nearest_km, points_on_earth
from shortlist.tiers import Candidates, UserContext

__all__ = [
    "HISTORY_LENGTH",
    "AgeColumns",
    "BlendColumns",
    "Columns",
    "CooccurrenceColumns",
    "EncodedColumns",
    "ItemColumns",
    "MatchColumns",
    "MomentColumns",
    "Past",
    "PlaceColumns",
    "Question",
    "SimilarityColumns",
    "SourceColumns",
    "TasteColumns",
    "TokenColumns",
]

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

HISTORY_LENGTH = 50  # newest liked items, and newest others, that history features look at
LOG_SCALE = 10.0  # log1p of days, kilometres or counts is about this at most
UNRANKED = 2000  # the rank of an item that a source did not propose
_DAY_MS = 86_400_000.0
_SMOOTHING = 0.1  # share of the catalogue's taste mixed into a user's
_LEAST_SHARE = 1e-6
_FADING = 0.5 ** (1 / 5)  # what an event counts beside the next newer one: half after five
_RANK_OFFSET = 10.0
_TASTE = ("popularity_all", "value")  # statistics in which users differ by how wide their taste is


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Some of what a user did with known items, oldest first."""

    rows: Rows  # int64 [h], rows of the item table
    times_ms: npt.NDArray[np.int64]  # int64 [h]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request as columns see it, with what several of them need."""

    user: UserContext
    candidates: Candidates  # all of the request: m
    chosen: Rows  # int64 [n], the candidates that features are wanted of
    items: Rows  # int64 [n], their rows in the item table
    statistics: Floats  # float32 [k, n]
    numeric: Floats  # float32 [numbers, n]
    tokens: npt.NDArray[np.intp]  # intp [item slots, n]
    token_weights: Floats  # float32 [item slots, n]
    liked: Past
    passed: Past  # seen, not liked
    about_user: Encoded
    about_context: Encoded

    def __len__(self) -> int:
        return len(self.items)


class Columns(Protocol):
    """A group of columns."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def fill(self, question: Question, out: Floats) -> None:
        """Write float32 [names, n] to `out`, which holds zeros."""
        ...


class SourceColumns:
    """What each source said of a candidate.

    A source that did not propose an item is taken to score it as low as its worst.
    """

    _PARTS = ("score", "relative", "log_rank", "reciprocal_rank", "proposed")

    def __init__(self, sources: Sequence[str]) -> None:
        self._sources = sources
        self.names = tuple(f"{part}:{name}" for part in self._PARTS for name in sources)

    def fill(self, question: Question, out: Floats) -> None:
        asked, chosen = question.candidates, question.chosen
        score, relative, log_rank, reciprocal_rank, proposed = _parts(out, len(self._sources))
        log_rank[:] = np.log1p(UNRANKED)
        mine = [place for place, name in enumerate(self._sources) if name in asked.source_names]
        if not mine or len(asked) == 0:
            return
        theirs = [asked.source_names.index(self._sources[place]) for place in mine]
        scores, ranks = asked.scores[theirs].astype(np.float64), asked.ranks[theirs]
        known = (ranks >= 0) & np.isfinite(scores)
        worst = np.where(known, scores, np.inf).min(axis=1, keepdims=True)
        best = np.where(known, scores, -np.inf).max(axis=1, keepdims=True)
        empty = ~known.any(axis=1, keepdims=True)
        worst[empty], best[empty] = 0, 0
        known, scores, ranks = known[:, chosen], scores[:, chosen], ranks[:, chosen]
        span = best - worst
        above = np.where(known, scores - worst, 0)
        score[mine] = worst + above
        relative[mine] = np.where(span > 0, above / np.where(span > 0, span, 1), known)
        log_rank[mine] = np.log1p(np.where(known, ranks, UNRANKED))
        reciprocal_rank[mine] = np.where(known, 1 / (_RANK_OFFSET + np.maximum(ranks, 0)), 0)
        proposed[mine] = known


EVENTS = "user:events"  # 0 of whom nothing is known
FUSED = "blend:fused"  # the logarithm of the blend's fused score


class BlendColumns:
    """How the blend ordered candidates, and how many of the known sources agree on them."""

    names = (FUSED, "blend:sources")

    def __init__(self, sources: Sequence[str]) -> None:
        self._sources = sources

    def fill(self, question: Question, out: Floats) -> None:
        asked, chosen = question.candidates, question.chosen
        fused = np.nan_to_num(asked.fused[chosen], posinf=0, neginf=0)
        out[0] = np.log(np.maximum(fused, 1e-6))
        mask = sum(1 << i for i, name in enumerate(asked.source_names) if name in self._sources)
        out[1] = np.bitwise_count(asked.sources[chosen] & np.uint32(mask))


class ItemColumns:
    """Statistics and numbers of items."""

    def __init__(self, statistics: Sequence[str], numbers: Sequence[str]) -> None:
        self.names = tuple(f"item:{name}" for name in (*statistics, *numbers))

    def fill(self, question: Question, out: Floats) -> None:
        out[:] = np.concatenate([question.statistics, question.numeric])


class AgeColumns:
    """log1p of days, scaled to about 0..1, since three moments of an item; -0.1 where unknown."""

    names = ("item:age_published", "item:age_first_event", "item:age_last_event")

    def __init__(self, table: ItemTable, has_time: bool) -> None:
        self._moments = (table.published_ms, table.first_event_ms, table.last_event_ms)
        self._has_time = has_time

    def fill(self, question: Question, out: Floats) -> None:
        for place, moments in enumerate(self._moments):
            moment = moments[question.items]
            age = np.log1p(_days(question.user.time_ms, moment)) / LOG_SCALE
            out[place] = np.where((moment != 0) & self._has_time, age, -0.1)


class SimilarityColumns:
    """Cosines of a candidate with the items of the history, by one kind of vectors."""

    _PARTS = ("newest", "newest_3", "recent", "mean", "max", "passed")

    def __init__(self, kind: str, table: ItemTable, vectors: Floats) -> None:
        self._table = table
        self._vectors = vectors  # float32 [n + 1, d], a column of the table, unit length or zeros
        self.names = tuple(f"history:{kind}_{part}" for part in self._PARTS)

    def fill(self, question: Question, out: Floats) -> None:
        liked, passed = question.liked, question.passed
        if len(liked) + len(passed) == 0:
            return
        mine = self._of(question.items)
        if len(liked):
            recency = _recency(len(liked))
            similarity = self._of(liked.rows) @ mine.T  # [h, n]
            out[0] = similarity[-1]
            out[1] = similarity[-3:].mean(axis=0)
            out[2] = (recency / recency.sum()).astype(np.float32) @ similarity
            out[3] = similarity.mean(axis=0)
            out[4] = similarity.max(axis=0)
        if len(passed):
            out[5] = mine @ self._of(passed.rows).mean(axis=0)

    def _of(self, rows: Rows) -> Floats:
        return self._vectors.take(self._table.learned_rows(rows), axis=0)


class CooccurrenceColumns:
    """How often users who like the items of the history like a candidate, too."""

    names = (
        "history:cooccurrence",
        "history:cooccurrence_mean",
        "history:cooccurrence_recent",
        "history:cooccurrence_passed",
    )

    def __init__(self, table: ItemTable) -> None:
        self._table = table

    def fill(self, question: Question, out: Floats) -> None:
        liked, passed = question.liked, question.passed
        if len(question) == 0 or len(liked) + len(passed) == 0:
            return
        among = _Finder(question.items)
        if len(liked):
            together, lately = self._together(among, liked.rows, _recency(len(liked)))
            out[0] = together / np.sqrt(len(liked))
            out[1] = together / len(liked)
            out[2] = lately
        if len(passed):
            together, _ = self._together(among, passed.rows, _recency(len(passed)))
            out[3] = together / np.sqrt(len(passed))

    def _together(
        self, among: _Finder, past: Rows, recency: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Sum over the past of co-occurrence with each candidate, plain and fading with age, [n].

        Costs what candidates and history cost, whatever the size of the catalogue.
        """
        past = self._table.learned_rows(past)
        neighbours = self._table.neighbours[past].ravel()
        affinities = self._table.affinities[past]
        found, columns = among.find(neighbours, unknown=len(self._table.keys))
        plain = affinities.ravel()[found]
        fading = (affinities * recency[:, None]).ravel()[found]
        return among.sums(columns, plain), among.sums(columns, fading)


class _Finder:
    """Finds rows of items among the candidates."""

    def __init__(self, items: Rows) -> None:
        self._order = np.argsort(items)
        self._items = items[self._order].astype(np.int32)

    def find(
        self, rows: npt.NDArray[np.int32], *, unknown: int
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Which of `rows` are candidates, and which candidates these are."""
        places = np.searchsorted(self._items, rows)
        np.minimum(places, len(self._items) - 1, out=places)
        found = np.flatnonzero((self._items[places] == rows) & (rows < unknown))
        return found, self._order[places[found]]

    def sums(
        self, columns: npt.NDArray[np.intp], weights: npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        """Sum of weights by candidate, [n]."""
        return np.bincount(columns, weights=weights, minlength=len(self._items)).astype(np.float64)


class TasteColumns:
    """What liked items are like in numbers, and how far candidates are from that."""

    def __init__(self, table: ItemTable, statistics: Sequence[str], numbers: Sequence[str]) -> None:
        self._table = table
        taste = [name for name in statistics if name in _TASTE]
        self._taste = [statistics.index(name) for name in taste]
        self.names = (
            *(f"user:mean:{name}" for name in (*statistics, *numbers)),
            *(f"user:std:{name}" for name in taste),
            *(f"history:distance:{name}" for name in (*taste, *numbers)),
        )

    def fill(self, question: Question, out: Floats) -> None:
        liked = question.liked.rows
        if len(liked) == 0:
            return
        statistics, numbers = self._table.statistics_of(liked), self._table.numeric[liked]
        means = np.concatenate([statistics.mean(axis=0), numbers.mean(axis=0)])
        deviations = statistics[:, self._taste].std(axis=0)
        about_user = np.concatenate([means, deviations])
        out[: len(about_user)] = about_user[:, None]
        centre = np.concatenate([means[self._taste], means[statistics.shape[1] :]])
        mine = np.concatenate([question.statistics[self._taste], question.numeric])
        out[len(about_user) :] = np.abs(mine - centre[:, None])


class TokenColumns:
    """How often, and how lately, the history has had the values that a candidate has.

    By token feature: `share` of the history that has the candidate's values; its `lift` over
    everybody's share; `count` of liked items with one of the values (log1p); `recency`, how few
    newer events there are than the last with one of them; `recency_days`, how few days ago that
    was; `passed`, the share among what was seen and not liked.
    """

    def __init__(self, table: ItemTable, item: FeatureEncoder, has_time: bool) -> None:
        self._table, self._has_time = table, has_time
        self._slots = [slice(f.first_slot, f.first_slot + f.slots) for f in item.token_features]
        self._vocabulary = item.vocabulary_size
        self._shares = np.maximum(table.token_shares, _LEAST_SHARE).astype(np.float64)
        # The lift of a value that the history lacks.
        unseen = np.log(np.maximum(_SMOOTHING * self._shares, _LEAST_SHARE)) - np.log(self._shares)
        self._unseen = unseen.astype(np.float32)
        days = ("recency_days",) if has_time else ()
        self._parts = ("share", "lift", "count", "recency", *days, "passed")
        self.names = tuple(
            f"history:{part}:{feature.name}"
            for part in self._parts
            for feature in item.token_features
        )

    def fill(self, question: Question, out: Floats) -> None:
        liked, passed = question.liked, question.passed
        if not self._slots or len(liked) + len(passed) == 0:
            return
        # The tokens of the history get small numbers, so that what is known of them fits a cache.
        numbers, tokens = self._numbered(liked, passed)
        local = numbers.take(question.tokens)
        columns = dict(zip(self._parts, _parts(out, len(self._slots)), strict=True))
        if len(liked):
            about = self._about(liked, numbers, tokens, question.user.time_ms)
            for part in ("count", "recency", *(("recency_days",) if self._has_time else ())):
                self._most(about[part].take(local), columns[part])
            lift = self._unseen.take(question.tokens) + about["lift"].take(local)
            self._mean(lift, question, columns["lift"])
            self._mean(about["mass"].take(local), question, columns["share"])
        if len(passed):
            mass = self._mass(passed, numbers, len(tokens))
            self._mean(mass.take(local), question, columns["passed"])

    def _mean(self, values: Floats, question: Question, out: Floats) -> None:
        """By feature, the mean over a candidate's tokens of values [slots, n]."""
        values *= question.token_weights
        for slots, column in zip(self._slots, out, strict=True):
            values[slots].sum(axis=0, out=column)

    def _most(self, values: Floats, out: Floats) -> None:
        """By feature, the most over a candidate's tokens of values [slots, n]."""
        for slots, column in zip(self._slots, out, strict=True):
            values[slots].max(axis=0, out=column)

    def _numbered(
        self, liked: Past, passed: Past
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Small numbers by token, 0 for those that the history lacks; and the tokens by number."""
        present = np.zeros(self._vocabulary, bool)
        present[self._table.tokens[np.concatenate([liked.rows, passed.rows])]] = True
        present[0] = False
        found = np.flatnonzero(present)
        numbers = np.zeros(self._vocabulary, np.intp)
        numbers[found] = np.arange(1, len(found) + 1)
        return numbers, np.concatenate([[0], found])

    def _mass(self, past: Past, numbers: npt.NDArray[np.intp], count: int) -> Floats:
        """Share of the past that each numbered token has, [count]."""
        local = numbers[self._table.tokens[past.rows]].ravel()
        weights = self._table.token_weights[past.rows].ravel()
        mass = np.bincount(local, weights=weights, minlength=count) / len(past)
        return mass.astype(np.float32)

    def _about(
        self,
        liked: Past,
        numbers: npt.NDArray[np.intp],
        tokens: npt.NDArray[np.intp],
        now_ms: int,
    ) -> Mapping[str, Floats]:
        """What is known of each numbered token, [count]; zeros for number 0 and the unliked."""
        local = numbers[self._table.tokens[liked.rows]]
        events = np.bincount(local.ravel(), minlength=len(tokens))
        events[0] = 0
        newest = np.zeros(len(tokens), np.int64)  # place in the history, from 1
        np.maximum.at(newest, local, np.arange(1, len(liked) + 1)[:, None])
        seen = events > 0
        mass = self._mass(liked, numbers, len(tokens))
        share = self._shares[tokens]
        mixed = np.maximum((1 - _SMOOTHING) * mass + _SMOOTHING * share, _LEAST_SHARE)
        newer = np.log1p(len(liked) - newest) / np.log1p(HISTORY_LENGTH)
        days = np.log1p(_days(now_ms, liked.times_ms[newest - 1])) / LOG_SCALE
        about = {
            "mass": mass,
            "lift": np.log(mixed) - np.log(share) - self._unseen[tokens],
            "count": np.log1p(events),
            "recency": 1 - newer,
            "recency_days": np.maximum(1 - days, 0),
        }
        return {part: np.where(seen, of, 0).astype(np.float32) for part, of in about.items()}


class PlaceColumns:
    """How near an item is: to the user's coordinates, and to the nearest liked item."""

    def __init__(self, table: ItemTable, user: FeatureEncoder, context: FeatureEncoder) -> None:
        self._table = table
        self._features = [
            feature.name
            for feature in (*user.token_features, *context.token_features)
            if feature.role == "geo"
        ]
        located = table.places.shape[1] > 0
        self.names = ("place:nearness", "history:nearness") if located else ()

    def fill(self, question: Question, out: Floats) -> None:
        if not self.names:
            return
        places = self._table.places
        mine = places[question.items]
        for column, others in enumerate(
            (self._whereabouts(question.user), places[question.liked.rows].reshape(-1, 3))
        ):
            distances = nearest_km(mine.reshape(-1, 3), others).reshape(mine.shape[:2])
            nearness = 1 - np.log1p(distances.min(axis=1)) / LOG_SCALE
            out[column] = np.maximum(nearness, 0)

    def _whereabouts(self, user: UserContext) -> Floats:
        """All places that the user's attributes and the context give coordinates of, [q, 3]."""
        points = [
            point
            for about in (user.attributes, user.context)
            for name in self._features
            if (point := coordinates_of(about.get(name)))
        ]
        return points_on_earth([p[0] for p in points], [p[1] for p in points])


class MatchColumns:
    """1 where user and item, or context and item, have the same value of a feature.

    Features are held together when they have one name, or when both tell places.
    """

    def __init__(self, item: FeatureEncoder, user: FeatureEncoder, context: FeatureEncoder) -> None:
        self._pairs = [
            _Pair.of(side, mine, theirs, encoder.vocabulary_size)
            for side, encoder in (("user", user), ("context", context))
            for mine in encoder.token_features
            for theirs in item.token_features
            if mine.name == theirs.name or mine.role == theirs.role == "geo"
        ]
        self.names = tuple(pair.name for pair in self._pairs)

    def fill(self, question: Question, out: Floats) -> None:
        sides = {"user": question.about_user, "context": question.about_context}
        for pair, column in zip(self._pairs, out, strict=True):
            wanted = pair.translation[sides[pair.side].tokens[0, pair.mine]]
            for token in wanted[wanted > 0]:
                column[np.any(question.tokens[pair.theirs] == token, axis=0)] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """A feature of a side, and the feature of items that may have the same values."""

    side: str
    name: str
    mine: slice  # slots of the side
    theirs: slice  # slots of the item
    translation: npt.NDArray[np.int32]  # item token by the side's token, 0 = none

    @staticmethod
    def of(side: str, mine: TokenFeature, theirs: TokenFeature, vocabulary_size: int) -> _Pair:
        codes = {value: theirs.first_token + i for i, value in enumerate(theirs.vocabulary)}
        translation = np.zeros(vocabulary_size, np.int32)
        stop = mine.first_token + len(mine.vocabulary)
        translation[mine.first_token : stop] = [codes.get(v, 0) for v in mine.vocabulary]
        return _Pair(
            side=side,
            name=f"match:{side}:{mine.name}:{theirs.name}",
            mine=slice(mine.first_slot, mine.first_slot + mine.slots),
            theirs=slice(theirs.first_slot, theirs.first_slot + theirs.slots),
            translation=translation,
        )


class MomentColumns:
    """How much the user did, how long ago, and what time it is."""

    names = (
        EVENTS,
        "user:days_since_event",
        "moment:day_sin",
        "moment:day_cos",
        "moment:week_sin",
        "moment:week_cos",
    )

    def __init__(self, has_time: bool) -> None:
        self._has_time = has_time

    def fill(self, question: Question, out: Floats) -> None:
        user = question.user
        out[0] = np.log1p(len(user.history)) / 5
        if self._has_time and len(user.history):
            out[1] = np.log1p(_days(user.time_ms, user.history.times_ms[-1:])) / LOG_SCALE
        out[2:] = moment_points(np.array([user.time_ms]), self._has_time).T


class EncodedColumns:
    """The numbers of the user and of the context."""

    def __init__(self, user: FeatureEncoder, context: FeatureEncoder) -> None:
        self.names = (
            *(f"user:{feature.name}" for feature in user.numeric_features),
            *(f"context:{feature.name}" for feature in context.numeric_features),
        )

    def fill(self, question: Question, out: Floats) -> None:
        numbers = [question.about_user.numeric[0], question.about_context.numeric[0]]
        out[:] = np.concatenate(numbers)[:, None]


def _parts(out: Floats, size: int) -> Iterator[Floats]:
    """Consecutive groups of `size` columns."""
    return (out[start : start + size] for start in range(0, len(out), size))


def _recency(events: int) -> npt.NDArray[Any]:
    """How much each event counts, oldest first, 1 for the newest, [events]."""
    return _FADING ** np.arange(events - 1, -1, -1)


def _days(now_ms: int, moments_ms: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Days from moments to now; 0 for what is still to come."""
    return np.maximum(now_ms - moments_ms.astype(np.float64), 0) / _DAY_MS
