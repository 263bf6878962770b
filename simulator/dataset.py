"""Writes a world as ordinary files, with the schema that the generic import needs to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import yaml

from simulator.arrays import Indices
from simulator.geography import COUNTRIES
from simulator.log import EVENT_TYPES, Events
from simulator.population import AGE_BANDS, DEVICES
from simulator.vocabulary import CATEGORIES
from simulator.world import World

FileFormat = Literal["csv", "parquet"]
Progress = Callable[[str, int, int], None]  # what is written, rows so far, rows expected

_ROWS_PER_BLOCK = 50_000
_SEPARATOR = "|"
_UTC = pa.timestamp("ms", tz="UTC")


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenDataset:
    """What `write_dataset` wrote."""

    schema: Path
    users: int
    items: int
    events: int


def write_dataset(
    world: World,
    folder: Path | str,
    *,
    file_format: FileFormat = "csv",
    progress: Progress | None = None,
) -> WrittenDataset:
    """Write a world's events, items and users and a `schema.yaml` into a folder, made if need be.

    Files of the same names are replaced. Memory is bounded by a block of rows; choose parquet for
    large worlds. In CSV, times are ISO 8601 in UTC with milliseconds; in parquet, timestamps.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    writer = _TableWriter(target, file_format, progress or _silent)
    users = writer.write("users", _user_tables(world), expected=world.config.users)
    items = writer.write("items", _item_tables(world), expected=world.config.items)
    events = writer.write("events", _event_tables(world), expected=world.config.events)
    schema = target / "schema.yaml"
    schema.write_text(_schema_text(file_format), encoding="utf-8")
    return WrittenDataset(schema=schema, users=users, items=items, events=events)


class _TableWriter:
    """Writes tables block by block in one format."""

    def __init__(self, folder: Path, file_format: FileFormat, progress: Progress) -> None:
        self._folder = folder
        self._format = file_format
        self._progress = progress

    def write(self, name: str, tables: Iterator[pa.Table], *, expected: int) -> int:
        """Write the tables, of which there is at least one; returns the number of rows."""
        path = self._folder / f"{name}.{self._format}"
        first = self._as_written(next(tables))
        rows = first.num_rows
        with self._open(path, first.schema) as out:
            out.write_table(first)
            self._progress(name, rows, expected)
            for table in tables:
                out.write_table(self._as_written(table))
                rows += table.num_rows
                self._progress(name, rows, expected)
        return rows

    def _open(self, path: Path, schema: pa.Schema) -> Any:
        if self._format == "parquet":
            return pa_parquet.ParquetWriter(path, schema)
        options = pa_csv.WriteOptions(quoting_style="needed")
        return pa_csv.CSVWriter(path, schema, write_options=options)

    def _as_written(self, table: pa.Table) -> pa.Table:
        if self._format == "parquet":
            return table
        for at, field in enumerate(table.schema):
            if field.type == _UTC:
                table = table.set_column(at, field.name, _iso(table.column(at)))
        return table


def _event_tables(world: World) -> Iterator[pa.Table]:
    for impressions in world.blocks():
        yield _event_table(world, impressions.events())


def _event_table(world: World, events: Events) -> pa.Table:
    return pa.table(
        {
            "visitor": pa.array(world.user_ids(events.user), pa.string()),
            "item": pa.array(world.item_ids(events.item), pa.string()),
            "time": pa.array(events.time_ms).cast(_UTC),
            "event": _names(EVENT_TYPES, events.kind),
            "device": _names(DEVICES, events.device),
        }
    )


def _item_tables(world: World) -> Iterator[pa.Table]:
    for index in _blocks(world.config.items):
        items = world.items(index)
        texts = world.item_texts(index)
        country = world.creator_countries(items.creator)
        yield pa.table(
            {
                "id": world.item_ids(index),
                "title": [text.title for text in texts],
                "description": [text.description for text in texts],
                "category": _category_cells(items.category, items.second_category),
                "creator": world.creator_names(items.creator),
                "country": _names([c.code for c in COUNTRIES], country),
                "published": pa.array(items.published_ms).cast(_UTC),
                "price": items.price,
            }
        )


def _user_tables(world: World) -> Iterator[pa.Table]:
    for index in _blocks(world.config.users):
        users = world.users(index)
        yield pa.table(
            {
                "id": world.user_ids(index),
                "country": _names([c.code for c in COUNTRIES], users.homes.country),
                "age_band": _names(AGE_BANDS, users.age_band),
                "language": users.language,
            }
        )


def _blocks(count: int) -> Iterator[Indices]:
    for start in range(0, count, _ROWS_PER_BLOCK):
        yield np.arange(start, min(start + _ROWS_PER_BLOCK, count))


def _names(names: tuple[str, ...] | list[str], index: Indices) -> pa.Array:
    return pa.array(list(names), pa.string()).take(pa.array(index))


def _category_cells(first: Indices, second: Indices) -> list[str]:
    names = [category.name for category in CATEGORIES]
    return [
        names[a] if b < 0 else f"{names[a]}{_SEPARATOR}{names[b]}"
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]


def _iso(times: pa.ChunkedArray) -> pa.Array:
    milliseconds = times.cast(pa.int64()).to_numpy().astype("datetime64[ms]")
    return pa.array([f"{text}Z" for text in np.datetime_as_string(milliseconds)], pa.string())


def _silent(what: str, done: int, expected: int) -> None:
    """The progress of a caller who does not want any."""


def _schema_text(file_format: FileFormat) -> str:
    def features(**roles: str) -> dict[str, dict[str, str]]:
        return {name: {"role": role} for name, role in roles.items()}

    item_features = features(
        title="title",
        description="text",
        category="multi_categorical",
        creator="creator",
        country="geo",
        published="timestamp",
        price="numeric",
    )
    item_features["category"]["separator"] = _SEPARATOR
    document = {
        "name": "simulated",
        "interactions": [
            {
                "path": f"events.{file_format}",
                "user": "visitor",
                "item": "item",
                "time": "time",
                "event": "event",
                "context": features(device="categorical"),
            }
        ],
        "events": {"click": {"weight": 1.0}, "like": {"weight": 2.0}},
        "items": [{"path": f"items.{file_format}", "id": "id", "features": item_features}],
        "users": [
            {
                "path": f"users.{file_format}",
                "id": "id",
                "features": features(country="geo", age_band="categorical", language="categorical"),
            }
        ],
        "split": {"method": "time", "validation_fraction": 0.1, "test_fraction": 0.1},
    }
    return yaml.safe_dump(document, sort_keys=False)
