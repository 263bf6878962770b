"""The one feature spec of the ranker, computed by the same code in training and in serving.

A row is a candidate: what the sources said of it, what is known of the item, of the user, of the
moment, and of how the item relates to the user's history. `FeatureBuilder.names` lists the columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from shortlist.features import Encoded, FeatureEncoder, moment_points
from shortlist.tiers import Candidates, UserContext

__all__ = ["FeatureBuilder", "FeatureRows", "FeatureSpec", "ItemTable"]

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

HISTORY_LENGTH = 50  # newest liked items that history features look at
_UNRANKED = 2000  # the rank of an item that a source did not propose
_DAY_MS = 86_400_000.0
_SMOOTHING = 0.1  # share of the catalogue's taste mixed into a user's
_LOG_SCALE = 10.0  # log1p of days or counts is about this at most


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """What training decided and serving must repeat."""

    sources: tuple[str, ...]  # candidate sources with columns; others are ignored
    statistics: tuple[str, ...]  # names of ItemTable.statistics' columns
    has_time: bool

    def save(self, path: Path) -> None:
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        path.write_text(json.dumps(content), "utf-8")

    @staticmethod
    def load(path: Path) -> FeatureSpec:
        """Raises `ArtifactCorrupt` when the file is not what `save` writes."""
        try:
            content = json.loads(path.read_text("utf-8"))
            return FeatureSpec(
                sources=tuple(content["sources"]),
                statistics=tuple(content["statistics"]),
                has_time=bool(content["has_time"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactCorrupt(f"{path} is not a feature spec: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTable:
    """Everything about items, n rows in key order and a last row of zeros for unknown items."""

    keys: npt.NDArray[np.uint64]  # uint64 [n], ascending
    vectors: Floats  # float32 [n + 1, d], unit length
    statistics: Floats  # float32 [n + 1, k]: popularity at several speeds, mean value, ...
    published_ms: npt.NDArray[np.int64]  # int64 [n + 1], 0 = unknown
    first_event_ms: npt.NDArray[np.int64]  # int64 [n + 1], 0 = never
    tokens: npt.NDArray[np.int32]  # int32 [n + 1, slots]
    token_weights: Floats  # float32 [n + 1, slots]
    numeric: Floats  # float32 [n + 1, m]
    neighbours: npt.NDArray[np.int32]  # int32 [n + 1, j], rows of co-occurring items, n = none
    affinities: Floats  # float32 [n + 1, j], cosine of co-occurrence, 0 = none
    token_shares: Floats  # float32 [item vocabulary], share of all interactions

    def save(self, folder: Path) -> None:
        self.check()
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    @staticmethod
    def load(folder: Path) -> ItemTable:
        """Raises `ArtifactCorrupt` or `ArtifactRefused`."""
        table = ItemTable(**{field.name: _load(folder, field.name) for field in fields(ItemTable)})
        table.check()
        return table

    def check(self) -> None:
        """Refuse columns of other lengths and numbers that are not finite."""
        rows = len(self.keys) + 1
        for field in fields(self):
            column = getattr(self, field.name)
            if field.name not in ("keys", "token_shares") and len(column) != rows:
                raise ArtifactCorrupt(f"items/{field.name}.npy has {len(column)} rows, not {rows}")
            if column.dtype == np.float32 and not np.isfinite(column).all():
                raise ArtifactRefused(f"items/{field.name}.npy holds NaN or Inf")

    def rows_of(self, keys: npt.NDArray[np.uint64]) -> Rows:
        """Rows of `keys`; `len(self.keys)` for unknown ones."""
        unknown = len(self.keys)
        if unknown == 0:
            return np.zeros(len(keys), np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), unknown - 1)
        return np.where(self.keys[places] == keys, places, unknown)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRows:
    """The features of n candidates of one user."""

    numeric: Floats  # float32 [n, len(names)], finite
    items: Rows  # int64 [n], rows of the item table
    user: Encoded  # one row
    context: Encoded  # one row
    unknown: int  # candidates without a row of their own


class FeatureBuilder:
    """Builds `FeatureRows`; knows the order and the meaning of every column."""

    def __init__(
        self,
        spec: FeatureSpec,
        table: ItemTable,
        item: FeatureEncoder,
        user: FeatureEncoder,
        context: FeatureEncoder,
    ) -> None:
        self.spec, self.table = spec, table
        self.item, self.user, self.context = item, user, context
        self._shared = _shared_features(user, item)
        self._log_shares = np.log(np.maximum(table.token_shares, 1e-6))
        self.names: tuple[str, ...] = tuple(self._names())
        # Slots of the token features that get an embedding. Words get none: they are too many for
        # what a ranker learns from, and the history features know them.
        self.item_slots = tuple(
            (feature.first_slot, feature.first_slot + feature.slots)
            for feature in item.token_features
            if feature.role not in ("text", "title")
        )

    def build(self, user: UserContext, candidates: Candidates) -> FeatureRows:
        """Features of all candidates."""
        items = self.table.rows_of(candidates.keys)
        liked = self._liked(user)
        about_user = self.user.encode_one(user.attributes)
        about_context = self.context.encode_one(user.context)
        per_candidate = [
            self._source_features(candidates),
            self._item_features(items, user.time_ms),
            self._history_features(items, liked),
            self._match_features(items, about_user),
        ]
        per_user = np.concatenate(
            [self._user_features(user, liked), about_user.numeric[0], about_context.numeric[0]]
        )
        shared = np.broadcast_to(per_user, (len(items), len(per_user)))
        return FeatureRows(
            numeric=np.concatenate([*per_candidate, shared], axis=1, dtype=np.float32),
            items=items,
            user=about_user,
            context=about_context,
            unknown=int((items == len(self.table.keys)).sum()),
        )

    def _names(self) -> Sequence[str]:
        item = [feature.name for feature in self.item.token_features]
        numbers = [feature.name for feature in self.item.numeric_features]
        return [
            *(f"{part}:{name}" for name in self.spec.sources for part in _SOURCE_PARTS),
            *(f"item:{name}" for name in self.spec.statistics),
            *(f"item:{name}" for name in numbers),
            "item:age_published",
            "item:age_first_event",
            *(f"history:{name}" for name in _HISTORY_PARTS),
            *(f"history:distance:{name}" for name in numbers),
            *(f"history:{part}:{name}" for name in item for part in ("share", "lift")),
            *(f"match:{name}" for name, _, _ in self._shared),
            "user:events",
            "user:days_since_event",
            *(f"user:mean:{name}" for name in self.spec.statistics),
            *(f"user:mean:{name}" for name in numbers),
            "moment:day_sin",
            "moment:day_cos",
            "moment:week_sin",
            "moment:week_cos",
            *(f"user:{feature.name}" for feature in self.user.numeric_features),
            *(f"context:{feature.name}" for feature in self.context.numeric_features),
        ]

    def _liked(self, user: UserContext) -> Rows:
        """Rows of the newest liked and known items, newest last."""
        rows = self.table.rows_of(user.history.keys[user.history.weights > 0])
        return rows[rows < len(self.table.keys)][-HISTORY_LENGTH:]

    def _source_features(self, candidates: Candidates) -> Floats:
        """Score, log rank and presence by source, [n, 3 sources]."""
        columns = []
        for name in self.spec.sources:
            if name in candidates.source_names:
                place = candidates.source_names.index(name)
                columns += _source_columns(candidates.scores[place], candidates.ranks[place])
            else:
                absent = np.zeros(len(candidates), np.float32)
                columns += [absent, absent + np.float32(np.log1p(_UNRANKED)), absent]
        return _columns(columns, len(candidates))

    def _item_features(self, items: Rows, time_ms: int) -> Floats:
        """Statistics, numbers and ages, [n, k + m + 2]."""
        ages = _columns(
            [
                self._age(self.table.published_ms[items], time_ms),
                self._age(self.table.first_event_ms[items], time_ms),
            ],
            len(items),
        )
        return np.concatenate(
            [self.table.statistics[items], self.table.numeric[items], ages], axis=1
        )

    def _age(self, moments_ms: npt.NDArray[np.int64], now_ms: int) -> Floats:
        """log1p of days, scaled to about 0..1; -0.1 where unknown."""
        days = np.maximum(now_ms - moments_ms, 0) / _DAY_MS
        known = (moments_ms != 0) & self.spec.has_time
        return np.where(known, np.log1p(days) / _LOG_SCALE, -0.1).astype(np.float32)

    def _history_features(self, items: Rows, liked: Rows) -> Floats:
        """How candidates relate to what the user liked, [n, ...]; zeros without history."""
        table = self.table
        tokens = len(self.item.token_features)
        if len(liked) == 0:
            width = len(_HISTORY_PARTS) + table.numeric.shape[1] + 2 * tokens
            return np.zeros((len(items), width), np.float32)
        similarity = table.vectors[items] @ table.vectors[liked].T  # [n, h]
        together = self._cooccurrence(liked)[items]
        distance = np.abs(table.numeric[items] - table.numeric[liked].mean(axis=0))
        vectors = [
            similarity[:, -1],
            similarity[:, -3:].mean(axis=1),
            similarity.mean(axis=1),
            similarity.max(axis=1),
            together / np.sqrt(len(liked)),
            together / len(liked),
        ]
        taste = [
            column
            for feature in self.item.token_features
            for column in self._taste(
                items, liked, slice(feature.first_slot, feature.first_slot + feature.slots)
            )
        ]
        return np.concatenate(
            [_columns(vectors, len(items)), distance, _columns(taste, len(items))], axis=1
        )

    def _cooccurrence(self, liked: Rows) -> npt.NDArray[Any]:
        """Sum over the history of co-occurrence with every item, [n + 1]."""
        table = self.table
        together = np.bincount(
            table.neighbours[liked].ravel(),
            weights=table.affinities[liked].ravel(),
            minlength=len(table.keys) + 1,
        )
        together[-1] = 0.0
        return together

    def _taste(self, items: Rows, liked: Rows, slots: slice) -> list[Floats]:
        """Share of the candidate's values in the history, and its lift over everybody's share."""
        table = self.table
        mass = np.bincount(
            table.tokens[liked, slots].ravel(),
            weights=table.token_weights[liked, slots].ravel(),
            minlength=len(table.token_shares),
        ) / len(liked)
        tokens, weights = table.tokens[items, slots], table.token_weights[items, slots]
        share = (mass[tokens] * weights).sum(axis=1)
        mixed = (1 - _SMOOTHING) * mass + _SMOOTHING * table.token_shares
        lift = np.log(np.maximum(mixed, 1e-6)) - self._log_shares
        return [share.astype(np.float32), (lift[tokens] * weights).sum(axis=1).astype(np.float32)]

    def _match_features(self, items: Rows, about_user: Encoded) -> Floats:
        """1 where user and item have the same value of a feature that both have, [n, shared]."""
        columns: list[npt.NDArray[Any]] = []
        for _, user_slots, translation in self._shared:
            wanted = translation[about_user.tokens[0, user_slots]]
            wanted = wanted[wanted > 0]
            columns.append(np.any(np.isin(self.table.tokens[items], wanted), axis=1))
        return _columns(columns, len(items))

    def _user_features(self, user: UserContext, liked: Rows) -> Floats:
        """Size and age of the history, what it is like, and the moment."""
        table, times = self.table, user.history.times_ms
        known = self.spec.has_time and len(times) > 0
        since = max(user.time_ms - int(times[-1]), 0) / _DAY_MS if known else 0.0
        mean = [table.statistics[liked].sum(axis=0), table.numeric[liked].sum(axis=0)]
        size = max(len(liked), 1)
        return np.concatenate(
            [
                [np.log1p(len(user.history)) / 5, np.log1p(since) / _LOG_SCALE],
                mean[0] / size,
                mean[1] / size,
                moment_points(np.array([user.time_ms]), self.spec.has_time)[0],
            ]
        ).astype(np.float32)


_SOURCE_PARTS = ("score", "log_rank", "proposed")
_HISTORY_PARTS = (
    "similarity_newest",
    "similarity_newest_3",
    "similarity_mean",
    "similarity_max",
    "cooccurrence",
    "cooccurrence_mean",
)


def _source_columns(scores: Floats, ranks: npt.NDArray[np.int32]) -> list[Floats]:
    """A source that did not propose an item is taken to score it as low as its worst."""
    proposed = ranks >= 0
    worst = scores[proposed].min() if proposed.any() else np.float32(0)
    return [
        np.where(proposed, scores, worst).astype(np.float32),
        np.log1p(np.where(proposed, ranks, _UNRANKED)).astype(np.float32),
        proposed.astype(np.float32),
    ]


def _shared_features(
    user: FeatureEncoder, item: FeatureEncoder
) -> list[tuple[str, slice, npt.NDArray[np.int32]]]:
    """Features of both sides: name, the user's slots, and item token by user token (0 = none)."""
    shared = []
    by_name = {feature.name: feature for feature in item.token_features}
    for mine in user.token_features:
        if mine.name in by_name:
            theirs = by_name[mine.name]
            codes = {value: theirs.first_token + i for i, value in enumerate(theirs.vocabulary)}
            translation = np.zeros(user.vocabulary_size, np.int32)
            stop = mine.first_token + len(mine.vocabulary)
            translation[mine.first_token : stop] = [codes.get(v, 0) for v in mine.vocabulary]
            slots = slice(mine.first_slot, mine.first_slot + mine.slots)
            shared.append((mine.name, slots, translation))
    return shared


def _columns(columns: Sequence[npt.NDArray[Any]], rows: int) -> Floats:
    """Stack columns side by side; [rows, 0] without any."""
    if not columns:
        return np.zeros((rows, 0), np.float32)
    return np.stack(columns, axis=1).astype(np.float32)


def _load(folder: Path, name: str) -> npt.NDArray[Any]:
    try:
        return np.load(folder / f"{name}.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"items/{name}.npy is unreadable: {error}") from error
