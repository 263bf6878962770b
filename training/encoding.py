"""From a data set's tables to the columns that feature encoders read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from shortlist.features import FeatureEncoder
from shortlist.schema import Feature
from training.dataset import Dataset

__all__ = ["Encoders", "context_columns", "entity_columns", "fit_encoders"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """One encoder a side."""

    item: FeatureEncoder
    user: FeatureEncoder
    context: FeatureEncoder


def entity_columns(table: pa.Table, features: Mapping[str, Feature]) -> dict[str, Sequence[Any]]:
    """Values by feature name, None where missing; coordinates as (latitude, longitude) pairs."""
    columns: dict[str, Sequence[Any]] = {}
    for name, feature in features.items():
        if feature.role == "timestamp":
            continue
        if feature.has_coordinates:
            latitudes = table[f"f_{name}_lat"].to_pylist()
            longitudes = table[f"f_{name}_lon"].to_pylist()
            columns[name] = list(zip(latitudes, longitudes, strict=True))
        else:
            columns[name] = table["title" if feature.role == "title" else f"f_{name}"].to_pylist()
    return columns


def context_columns(dataset: Dataset, rows: np.ndarray) -> dict[str, Sequence[Any]]:
    """Context values of the interactions `rows`, by feature name."""
    return {name: column.take(rows).to_pylist() for name, column in dataset.events.context.items()}


def fit_encoders(dataset: Dataset, rows: np.ndarray) -> Encoders:
    """Fit all sides on the catalogue, the users and the interactions `rows`."""
    schema = dataset.schema
    return Encoders(
        item=_fit(entity_columns(dataset.items, schema.item_features), schema.item_features),
        user=_fit(entity_columns(dataset.users, schema.user_features), schema.user_features),
        context=_fit(context_columns(dataset, rows), schema.context_features),
    )


def _fit(columns: Mapping[str, Sequence[Any]], features: Mapping[str, Feature]) -> FeatureEncoder:
    return FeatureEncoder.fit(columns, {name: features[name].role for name in columns})
