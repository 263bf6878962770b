"""Attributes of items, users and contexts as numbers: token slots and standardised numerics.

One `FeatureEncoder` a side is fitted at training time, saved as JSON inside the artifact, and used
unchanged at serving time, so training and serving cannot disagree about a value's code.

Every value of a categorical feature is a *token*, an int32 in one vocabulary per side (0 = none).
A feature owns a fixed range of slots in a row; a multi-valued feature's tokens share its weight, so
a weighted sum over slots is a sum of per-feature means.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import ArtifactCorrupt
from shortlist.places import place_names
from shortlist.tiers import AttributeValue

__all__ = ["Encoded", "FeatureEncoder", "NumericFeature", "TokenFeature", "moment_points"]

_SLOTS = {"categorical": 1, "creator": 4, "geo": 2, "multi_categorical": 10, "text": 16, "title": 8}
_WORDS = re.compile(r"\w{2,}")
_COMMON_WORD = 0.3  # a word in more than this share of the texts says nothing
_SKEWED = 20.0  # max/median beyond which a non-negative number is taken as log1p
_HOUR_MS = 3_600_000
_CLIP = 5.0  # standard deviations

Tokens = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFeature:
    """A feature whose values are tokens `first_token .. first_token + len(vocabulary) - 1`."""

    name: str
    role: str
    first_slot: int
    slots: int
    first_token: int
    vocabulary: tuple[str, ...]  # most frequent first


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericFeature:
    """A number, standardised as `(x - mean) / std` after log1p where `log` is set."""

    name: str
    log: bool
    mean: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """n rows of one side."""

    tokens: Tokens  # int32 [n, slots], 0 = none
    weights: Floats  # float32 [n, slots], 1 / number of the feature's tokens in the row
    numeric: Floats  # float32 [n, numerics], standardised, 0 where missing


class FeatureEncoder:
    """The token and numeric features of one side (item, user or context)."""

    def __init__(self, tokens: Sequence[TokenFeature], numeric: Sequence[NumericFeature]) -> None:
        self.token_features = tuple(tokens)
        self.numeric_features = tuple(numeric)
        self._codes = {
            feature.name: {
                value: feature.first_token + rank for rank, value in enumerate(feature.vocabulary)
            }
            for feature in tokens
        }

    @property
    def slots(self) -> int:
        return sum(feature.slots for feature in self.token_features)

    @property
    def vocabulary_size(self) -> int:
        """Tokens of all features, with the empty token 0."""
        return 1 + sum(len(feature.vocabulary) for feature in self.token_features)

    @staticmethod
    def fit(
        columns: Mapping[str, Sequence[Any]],
        roles: Mapping[str, str],
        *,
        min_count: int = 2,
        max_vocabulary: int = 50_000,
    ) -> FeatureEncoder:
        """Learn vocabularies and scales.

        `columns` holds one value a row by feature name (None = missing); `roles` the schema's role
        of each. A categorical value seen fewer than `min_count` times gets no token. Values of a
        geo feature are what `shortlist.places.place_names` reads: names, or coordinates as pairs
        (from tables) or as texts (from profiles and requests). Timestamps are left to the tiers.
        """
        tokens: list[TokenFeature] = []
        numeric: list[NumericFeature] = []
        for name, role in roles.items():
            if role == "numeric":
                numeric.extend(_fit_numeric(name, columns[name]))
            elif role in _SLOTS:
                previous = tokens[-1] if tokens else None
                vocabulary = _fit_vocabulary(columns[name], role, min_count, max_vocabulary)
                if vocabulary:
                    tokens.append(_token_feature(name, role, vocabulary, previous))
        return FeatureEncoder(tokens, numeric)

    def encode(self, columns: Mapping[str, Sequence[Any]], rows: int) -> Encoded:
        """Encode `rows` rows; a feature that `columns` lacks is missing in every row."""
        encoded = Encoded(
            tokens=np.zeros((rows, self.slots), np.int32),
            weights=np.zeros((rows, self.slots), np.float32),
            numeric=np.zeros((rows, len(self.numeric_features)), np.float32),
        )
        for feature in self.token_features:
            if feature.name in columns:
                self._encode_tokens(feature, columns[feature.name], encoded)
        for place, scale in enumerate(self.numeric_features):
            if scale.name in columns:
                encoded.numeric[:, place] = _standardise(columns[scale.name], scale)
        return encoded

    def encode_one(self, attributes: Mapping[str, AttributeValue]) -> Encoded:
        """Encode one row of request attributes; names and values it does not know are ignored."""
        return self.encode({name: [value] for name, value in attributes.items()}, 1)

    def document(self) -> dict[str, Any]:
        """All of it as JSON, for `of_document`."""
        return {
            "tokens": [asdict(feature) for feature in self.token_features],
            "numeric": [asdict(feature) for feature in self.numeric_features],
        }

    @staticmethod
    def of_document(content: Any, origin: str) -> FeatureEncoder:
        """Raises `ArtifactCorrupt` naming `origin` when it is not what `document` gives."""
        try:
            return FeatureEncoder(
                [
                    TokenFeature(**{**entry, "vocabulary": tuple(entry["vocabulary"])})
                    for entry in content["tokens"]
                ],
                [NumericFeature(**entry) for entry in content["numeric"]],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactCorrupt(f"{origin} is not a feature encoder: {error}") from error

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.document(), ensure_ascii=False), "utf-8")

    @staticmethod
    def load(path: Path) -> FeatureEncoder:
        """Raises `ArtifactCorrupt` when the file is not what `save` writes."""
        try:
            content = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactCorrupt(f"{path} is not a feature encoder: {error}") from error
        return FeatureEncoder.of_document(content, str(path))

    def _encode_tokens(
        self, feature: TokenFeature, values: Sequence[Any], encoded: Encoded
    ) -> None:
        codes = self._codes[feature.name]
        for row, value in enumerate(values):
            known = [codes[term] for term in _terms(value, feature.role) if term in codes]
            known = list(dict.fromkeys(known))[: feature.slots]
            if known:
                stop = feature.first_slot + len(known)
                encoded.tokens[row, feature.first_slot : stop] = known
                encoded.weights[row, feature.first_slot : stop] = 1.0 / len(known)


def moment_points(times_ms: npt.NDArray[np.int64], has_time: bool) -> Floats:
    """Time of day and day of week in UTC as points on two circles, [n, 4]; zeros without times."""
    if not has_time:
        return np.zeros((len(times_ms), 4), np.float32)
    hours = times_ms / _HOUR_MS
    day, week = 2 * np.pi * hours / 24, 2 * np.pi * hours / (24 * 7)
    points = [np.sin(day), np.cos(day), np.sin(week), np.cos(week)]
    return np.stack(points, axis=1).astype(np.float32)


def _terms(value: Any, role: str) -> Iterable[str]:
    """The categorical values that one cell stands for."""
    if value is None or value == "":
        return ()
    if role in ("text", "title"):
        return _WORDS.findall(str(value).lower())
    if role == "geo":
        return place_names(value)
    if isinstance(value, list | tuple):
        return [str(entry) for entry in value]
    return (str(value),)


def _fit_vocabulary(
    values: Sequence[Any], role: str, min_count: int, max_vocabulary: int
) -> tuple[str, ...]:
    counts: Counter[str] = Counter()
    for value in values:
        counts.update(set(_terms(value, role)))
    most = _COMMON_WORD * len(values) if role in ("text", "title") else math.inf
    kept = [(-n, term) for term, n in counts.items() if min_count <= n <= most]
    return tuple(term for _, term in sorted(kept)[:max_vocabulary])


def _token_feature(
    name: str, role: str, vocabulary: tuple[str, ...], previous: TokenFeature | None
) -> TokenFeature:
    first_slot = previous.first_slot + previous.slots if previous else 0
    first_token = previous.first_token + len(previous.vocabulary) if previous else 1
    return TokenFeature(
        name=name,
        role=role,
        first_slot=first_slot,
        slots=_SLOTS[role],
        first_token=first_token,
        vocabulary=vocabulary,
    )


def _as_floats(values: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Numbers with NaN for what is missing or not a number."""
    out = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        if isinstance(value, int | float) and math.isfinite(value):
            out[row] = value
    return out


def _fit_numeric(name: str, values: Sequence[Any]) -> Iterable[NumericFeature]:
    known = _as_floats(values)
    known = known[~np.isnan(known)]
    if len(known) == 0 or known.min() == known.max():
        return ()
    median = float(np.median(known))
    log = bool(known.min() >= 0 and known.max() > _SKEWED * max(median, 1e-9))
    scaled = np.log1p(known) if log else known
    return (NumericFeature(name=name, log=log, mean=float(scaled.mean()), std=float(scaled.std())),)


def _standardise(values: Sequence[Any], scale: NumericFeature) -> Floats:
    numbers = _as_floats(values)
    if scale.log:
        numbers = np.log1p(np.maximum(numbers, 0))
    standard = (numbers - scale.mean) / scale.std
    return np.nan_to_num(np.clip(standard, -_CLIP, _CLIP)).astype(np.float32)
