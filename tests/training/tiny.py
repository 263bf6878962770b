"""Data sets of a few rows in memory, laid out as an import would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shortlist.ids import keys_of
from shortlist.schema import Schema, SplitName
from training.dataset import SPLITS, UNKNOWN_TIME_MS, Dataset, DatasetInfo, Interactions

DAY_MS = 86_400_000


def tiny_dataset(
    user: Sequence[int] | npt.NDArray[Any],
    item: Sequence[int] | npt.NDArray[Any],
    *,
    users: int | None = None,
    items: int | None = None,
    time_ms: Sequence[int] | npt.NDArray[Any] | None = None,
    weight: Sequence[float] | npt.NDArray[Any] | None = None,
    value: Sequence[float] | npt.NDArray[Any] | None = None,
    split: Sequence[SplitName] | None = None,
    item_features: Mapping[str, tuple[str, Sequence[Any]]] | None = None,
    user_features: Mapping[str, tuple[str, Sequence[Any]]] | None = None,
    context: Mapping[str, Sequence[str | None]] | None = None,
    published_ms: Sequence[int | None] | None = None,
) -> Dataset:
    """One row an interaction; features are `name: (role, a value for each row)`."""
    item_features, user_features = item_features or {}, user_features or {}
    context = context or {}
    user, item = np.asarray(user, np.int32), np.asarray(item, np.int32)
    n_users = int(user.max()) + 1 if users is None else users
    n_items = int(item.max()) + 1 if items is None else items
    user_ids, user_keys = _entities("user", n_users)
    item_ids, item_keys = _entities("item", n_items)
    published = pa.array(published_ms or [None] * n_items, pa.int64())
    events = Interactions(
        user=user,
        item=item,
        event=np.zeros(len(user), np.int8),
        value=_floats(value, len(user), np.nan),
        weight=_floats(weight, len(user), 1.0),
        time_ms=np.zeros(len(user), np.int64) if time_ms is None else np.asarray(time_ms, np.int64),
        split=np.array([SPLITS.index(one) for one in split or ["train"] * len(user)], np.int8),
        context={name: pa.array(values, pa.string()) for name, values in context.items()},
    )
    return Dataset(
        items=pa.table(
            {
                "key": item_keys,
                "id": item_ids,
                "title": _titles(item_features, n_items),
                "published_ms": published,
                **_columns(item_features),
            }
        ),
        users=pa.table({"key": user_keys, "id": user_ids, **_columns(user_features)}),
        events=events,
        info=DatasetInfo(
            schema=_schema(item_features, user_features, context, timed=time_ms is not None),
            event_types=("interaction",),
            has_time=time_ms is not None,
            split_method="given",
        ),
        item_keys=item_keys,
        user_keys=user_keys,
        published_ms=published.fill_null(UNKNOWN_TIME_MS).to_numpy(),
    )


def with_events(dataset: Dataset, **columns: npt.NDArray[Any]) -> Dataset:
    """The data set with other columns of interactions."""
    return replace(dataset, events=replace(dataset.events, **columns))


def random_dataset(
    rows: int = 400, users: int = 25, items: int = 40, *, seed: int = 0, timed: bool = True
) -> Dataset:
    """Interactions at random, with weights 0, 1 and 2 and some values."""
    rng = np.random.default_rng(seed)
    return tiny_dataset(
        rng.integers(users, size=rows),
        rng.integers(items, size=rows),
        users=users,
        items=items,
        time_ms=np.sort(rng.integers(1, 90 * DAY_MS, size=rows)) if timed else None,
        weight=rng.choice([0.0, 1.0, 2.0], size=rows),
        value=np.where(rng.random(rows) < 0.3, np.nan, rng.normal(3, 1, rows)),
        split=rng.choice(SPLITS, size=rows, p=[0.8, 0.1, 0.1]).tolist(),
    )


def _entities(kind: str, count: int) -> tuple[list[str], npt.NDArray[np.uint64]]:
    ids = [f"{kind}-{number}" for number in range(count)]
    order = np.argsort(keys_of(ids))
    return [ids[at] for at in order], keys_of(ids)[order]


def _floats(values: Any, rows: int, default: float) -> npt.NDArray[np.float32]:
    return np.full(rows, default, np.float32) if values is None else np.asarray(values, np.float32)


def _titles(features: Mapping[str, tuple[str, Sequence[Any]]], rows: int) -> pa.Array:
    titles = [values for role, values in features.values() if role == "title"]
    return pa.array(titles[0] if titles else [None] * rows, pa.string())


def _columns(features: Mapping[str, tuple[str, Sequence[Any]]]) -> dict[str, pa.Array]:
    types = {"numeric": pa.float32(), "multi_categorical": pa.list_(pa.string())}
    columns = {}
    for name, (role, values) in features.items():
        if role == "geo" and not isinstance(values[0], str):
            columns[f"f_{name}_lat"] = pa.array([one[0] for one in values], pa.float32())
            columns[f"f_{name}_lon"] = pa.array([one[1] for one in values], pa.float32())
        elif role != "title":
            columns[f"f_{name}"] = pa.array(values, types.get(role, pa.string()))
    return columns


def _schema(
    item_features: Mapping[str, tuple[str, Sequence[Any]]],
    user_features: Mapping[str, tuple[str, Sequence[Any]]],
    context: Mapping[str, Any],
    *,
    timed: bool,
) -> Schema:
    def described(features: Mapping[str, tuple[str, Sequence[Any]]]) -> dict[str, Any]:
        return {
            name: {"role": role}
            | (
                {"latitude": "lat", "longitude": "lon"}
                if role == "geo" and not isinstance(values[0], str)
                else {}
            )
            for name, (role, values) in features.items()
        }

    interactions: dict[str, Any] = {
        "path": "events.csv",
        "context": {name: {"role": "categorical"} for name in context},
    }
    if timed:
        interactions["time"] = "time"
    return Schema.of(
        {
            "name": "tiny",
            "interactions": [interactions],
            "items": [{"path": "items.csv", "features": described(item_features)}],
            "users": [{"path": "users.csv", "features": described(user_features)}],
        }
    )
