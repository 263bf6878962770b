"""The one feature spec of the ranker, computed by the same code in training and in serving.

A row is a candidate: what the sources said of it, what is known of the item, of the user, of the
moment, and of how the item relates to the user's history. `FeatureBuilder.names` lists the columns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ranking_svc.columns import (
    HISTORY_LENGTH,
    AgeColumns,
    BlendColumns,
    Columns,
    CooccurrenceColumns,
    EncodedColumns,
    ItemColumns,
    MatchColumns,
    MomentColumns,
    Past,
    PlaceColumns,
    Question,
    SimilarityColumns,
    SourceColumns,
    TasteColumns,
    TokenColumns,
)
from ranking_svc.item_table import ItemTable
from shortlist.errors import ArtifactCorrupt
from shortlist.features import Encoded, FeatureEncoder
from shortlist.tiers import Candidates, UserContext

__all__ = [
    "FORMAT",
    "FeatureBuilder",
    "FeatureRows",
    "FeatureSpec",
    "ItemTable",
    "embedded_slots",
]

FORMAT: Final = 3  # of the columns and of what they are made from; grows when either changes
_MOST_VALUES = 100  # between the two dozen genres that helped and the 400 creators that did not

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """What training decided and serving must repeat."""

    sources: tuple[str, ...]  # candidate sources with columns; others are ignored
    statistics: tuple[str, ...]  # names of ItemTable.statistics' columns
    has_time: bool

    def save(self, path: Path) -> None:
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        path.write_text(json.dumps({"format": FORMAT} | content), "utf-8")

    @staticmethod
    def load(path: Path) -> FeatureSpec:
        """Raises `ArtifactCorrupt` when the file is not what this release's `save` writes."""
        try:
            content = json.loads(path.read_text("utf-8"))
            if content.get("format") != FORMAT:
                raise ArtifactCorrupt(
                    f"{path}: features of format {content.get('format', 1)!r}, this release "
                    f"builds format {FORMAT}; train the ranking tier again"
                )
            return FeatureSpec(
                sources=tuple(content["sources"]),
                statistics=tuple(content["statistics"]),
                has_time=bool(content["has_time"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactCorrupt(f"{path} is not a feature spec: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRows:
    """The features of n candidates of one user."""

    numeric: Floats  # float32 [n, len(names)], finite
    items: Rows  # int64 [n], rows of the item table
    user: Encoded  # one row
    context: Encoded  # one row
    unknown: int  # candidates without a row of their own


def embedded_slots(item: FeatureEncoder, *, has_time: bool) -> tuple[tuple[int, int], ...]:
    """First and last + 1 slots of the features of an item whose values get an embedding.

    Words get none: they are too many for what a ranker learns from, and the history features know
    them. Nor does, where there are times, anything else of many values: networks learn by heart
    which of the creators people liked just then, and held-out users of the same days agree.
    """
    return tuple(
        (feature.first_slot, feature.first_slot + feature.slots)
        for feature in item.token_features
        if feature.role not in ("text", "title")
        and (len(feature.vocabulary) <= _MOST_VALUES or not has_time)
    )


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
        numbers = [feature.name for feature in item.numeric_features]
        self._groups: tuple[Columns, ...] = (
            SourceColumns(spec.sources),
            BlendColumns(spec.sources),
            ItemColumns(spec.statistics, numbers),
            AgeColumns(table, spec.has_time),
            SimilarityColumns("similarity", table, table.vectors),
            SimilarityColumns("factors", table, table.factors),
            CooccurrenceColumns(table),
            TokenColumns(table, item, spec.has_time),
            MatchColumns(item, user, context),
            PlaceColumns(table, user, context),
            TasteColumns(table, spec.statistics, numbers),
            MomentColumns(spec.has_time),
            EncodedColumns(user, context),
        )
        self.names: tuple[str, ...] = tuple(name for g in self._groups for name in g.names)
        self.item_slots = embedded_slots(item, has_time=spec.has_time)

    def over(self, table: ItemTable) -> FeatureBuilder:
        """The same features of other items."""
        return FeatureBuilder(self.spec, table, self.item, self.user, self.context)

    def build(
        self, user: UserContext, candidates: Candidates, chosen: Rows | None = None
    ) -> FeatureRows:
        """Features of all candidates, or of the rows `chosen` among them.

        Some columns are relative to all candidates of the request: to take rows of `candidates`
        before building would change them.
        """
        question = self._question(user, candidates, chosen)
        columns = np.zeros((len(self.names), len(question)), np.float32)
        start = 0
        for group in self._groups:
            stop = start + len(group.names)
            group.fill(question, columns[start:stop])
            start = stop
        return FeatureRows(
            numeric=np.ascontiguousarray(columns.T),
            items=question.items,
            user=question.about_user,
            context=question.about_context,
            unknown=int((question.items == len(self.table.keys)).sum()),
        )

    def _question(self, user: UserContext, candidates: Candidates, chosen: Rows | None) -> Question:
        rows = np.arange(len(candidates)) if chosen is None else chosen
        table = self.table
        items = table.rows_of(candidates.keys[rows])
        liked = user.history.weights > 0
        return Question(
            user=user,
            candidates=candidates,
            chosen=rows,
            items=items,
            statistics=np.ascontiguousarray(table.statistics_of(items).T),
            numeric=np.ascontiguousarray(table.numeric.take(items, axis=0).T),
            tokens=table.tokens.take(items, axis=0).T.astype(np.intp, order="C"),
            token_weights=np.ascontiguousarray(table.token_weights.take(items, axis=0).T),
            liked=self._past(user, liked),
            passed=self._past(user, ~liked),
            about_user=self.user.encode_one(user.attributes),
            about_context=self.context.encode_one(user.context),
        )

    def _past(self, user: UserContext, kind: npt.NDArray[np.bool_]) -> Past:
        """The newest known items of a kind of events."""
        rows = self.table.rows_of(user.history.keys[kind])
        known = np.flatnonzero(rows != len(self.table.keys))[-HISTORY_LENGTH:]
        return Past(rows=rows[known], times_ms=user.history.times_ms[kind][known])
