"""An imported data set: columnar Parquet in one folder, numpy and Arrow in memory.

    items.parquet         sorted by key; the row number is the item's row everywhere
    users.parquet         sorted by key; likewise
    interactions.parquet  sorted by (time, order in the files)
    dataset.json          schema, event types, counts, cut times, bad rows, checksums

`write_dataset` is the only writer: importers and the simulator hand it tables in this layout.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shortlist.durable import sync, sync_tree
from shortlist.errors import ShortlistError
from shortlist.ids import key_of
from shortlist.schema import Feature, Schema, SplitName

__all__ = [
    "FORMAT",
    "SPLITS",
    "UNKNOWN_TIME_MS",
    "Dataset",
    "DatasetInfo",
    "DatasetUnreadable",
    "Interactions",
    "drop_users",
    "entity_fields",
    "once_in_order",
    "write_dataset",
]

FORMAT: Final = 1
SPLITS: Final[tuple[SplitName, ...]] = ("train", "validation", "test")  # in code order
UNKNOWN_TIME_MS: Final = int(np.iinfo(np.int64).min)

_ITEMS, _USERS, _INTERACTIONS = "items.parquet", "users.parquet", "interactions.parquet"
_INFO = "dataset.json"
_ROWS_PER_GROUP = 1 << 20
_CONTEXT = "ctx_"

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class DatasetUnreadable(ShortlistError):
    """The folder holds no data set of this format, or one of its files is missing or altered."""

    status_name = "FAILED_PRECONDITION"


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What `dataset.json` holds beside the tables. Times are milliseconds since 1970, UTC."""

    schema: Schema
    event_types: tuple[str, ...]  # the code of an event is its place here
    has_time: bool
    split_method: str  # the one that was used
    # Rows before the end belong to the part; None unless the split is by time.
    train_end_ms: int | None = None
    validation_end_ms: int | None = None
    test_end_ms: int | None = None
    notes: tuple[str, ...] = ()  # decisions that the import took by itself
    bad_rows: dict[str, Any] = field(default_factory=dict)  # table -> rows read, bad, by reason
    merged_rows: dict[str, int] = field(default_factory=dict)  # table -> repeated rows merged


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Aligned columns, one row an interaction, sorted by time."""

    user: Int32s  # row in users
    item: Int32s  # row in items
    event: npt.NDArray[np.int8]  # code in event_types
    value: Floats  # NaN where there is none
    weight: Floats  # 0 where the row is no positive
    time_ms: Int64s  # 0 everywhere when the data has no time
    split: npt.NDArray[np.int8]  # place in SPLITS
    context: dict[str, pa.Array]  # name -> strings, null where unknown

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """An imported data set in memory. Rows of items and users are sorted by key."""

    items: pa.Table  # key, id, title, published_ms, f_<feature> ...
    users: pa.Table  # key, id, f_<feature> ...
    events: Interactions
    info: DatasetInfo
    item_keys: npt.NDArray[np.uint64]  # [n_items], ascending
    user_keys: npt.NDArray[np.uint64]  # [n_users], ascending
    published_ms: Int64s  # [n_items], UNKNOWN_TIME_MS where unknown

    @classmethod
    def load(cls, path: Path | str) -> Dataset:
        """Read a folder that `write_dataset` wrote. Raises `DatasetUnreadable`."""
        folder = Path(path)
        document = _read_info(folder)
        _verify(folder, document["files"])
        items = pq.read_table(folder / _ITEMS).combine_chunks()
        users = pq.read_table(folder / _USERS).combine_chunks()
        return cls(
            items=items,
            users=users,
            events=_load_interactions(folder / _INTERACTIONS),
            info=_info_of(document),
            item_keys=_numpy(items["key"]),
            user_keys=_numpy(users["key"]),
            published_ms=_numpy(items["published_ms"].fill_null(UNKNOWN_TIME_MS)),
        )

    @property
    def schema(self) -> Schema:
        return self.info.schema

    @property
    def event_types(self) -> tuple[str, ...]:
        return self.info.event_types

    @property
    def has_time(self) -> bool:
        return self.info.has_time

    @property
    def train_end_ms(self) -> int | None:
        return self.info.train_end_ms

    @property
    def validation_end_ms(self) -> int | None:
        return self.info.validation_end_ms

    @property
    def test_end_ms(self) -> int | None:
        return self.info.test_end_ms

    @property
    def item_ids(self) -> pa.Array:
        """Strings [n_items]."""
        return _array(self.items["id"])

    @property
    def item_titles(self) -> pa.Array:
        """Strings [n_items], null where unknown."""
        return _array(self.items["title"])

    @property
    def user_ids(self) -> pa.Array:
        """Strings [n_users]."""
        return _array(self.users["id"])

    @property
    def n_items(self) -> int:
        return len(self.item_keys)

    @property
    def n_users(self) -> int:
        return len(self.user_keys)

    def digest(self) -> str:
        """sha256 over all that is in it: the same digest, the same lessons."""
        digest = hashlib.sha256()
        for table in (self.items, self.users, pa.table(dict(self.events.context))):
            with pa.ipc.new_stream(pa.PythonFile(_Hashing(digest), "w"), table.schema) as stream:
                stream.write_table(table.combine_chunks())
        for name in ("user", "item", "event", "value", "weight", "time_ms", "split"):
            digest.update(np.ascontiguousarray(getattr(self.events, name)).data)
        digest.update(repr((self.schema.digest(), self.event_types, self.has_time)).encode())
        return digest.hexdigest()

    def rows_of_split(self, *splits: SplitName) -> Int64s:
        """Rows of `events` in any of `splits`, ascending, so still sorted by time."""
        codes = [SPLITS.index(split) for split in splits]
        return np.flatnonzero(np.isin(self.events.split, codes))

    def item_row(self, item: str | int) -> int | None:
        """The row of an item, by id or by key; None for an unknown one."""
        return _row_of(self.item_keys, item)

    def user_row(self, user: str | int) -> int | None:
        """The row of a user, by id or by key; None for an unknown one."""
        return _row_of(self.user_keys, user)


class _Hashing(io.RawIOBase):
    """A file whose content is only hashed."""

    def __init__(self, digest: hashlib._Hash) -> None:
        self._digest = digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return memoryview(data).nbytes


def entity_fields(features: dict[str, Feature]) -> list[pa.Field]:
    """The `f_...` columns that features become. The title has a column of its own."""
    fields = []
    for name, feature in features.items():
        if feature.has_coordinates:
            fields.append(pa.field(f"f_{name}_lat", pa.float32()))
            fields.append(pa.field(f"f_{name}_lon", pa.float32()))
        elif feature.role != "title":
            fields.append(pa.field(f"f_{name}", _type_of(feature)))
    return fields


def once_in_order(
    user: npt.NDArray[Any], item: npt.NDArray[Any], kind: npt.NDArray[Any], time_ms: Int64s
) -> Int64s:
    """The rows by (time, place), each (user, item, kind, time) once.

    Of rows that repeat each other the last one stays: it holds the latest value.
    """
    pair = user.astype(np.int64) << 32 | item
    grouped = np.lexsort((kind, pair, time_ms))
    repeated = np.zeros(len(grouped), dtype=bool)
    same = np.ones(len(grouped) - 1, dtype=bool)
    for column in (time_ms, pair, kind):
        ordered = column[grouped]
        same &= ordered[1:] == ordered[:-1]
    repeated[grouped[:-1][same]] = True
    order = np.argsort(time_ms, kind="stable")
    return order[~repeated[order]]


def write_dataset(
    out: Path, *, items: pa.Table, users: pa.Table, interactions: pa.Table, info: DatasetInfo
) -> None:
    """Write the tables and `dataset.json` to `out` in one step.

    A data set that is there already stays until the new one is complete on disk, and is replaced
    then. Raises `ValueError` when a table is not in the layout of this module.
    """
    _check_layout(items, users, interactions, info)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _sole_writer(out):
        _write(out, items=items, users=users, interactions=interactions, info=info)


def _write(
    out: Path, *, items: pa.Table, users: pa.Table, interactions: pa.Table, info: DatasetInfo
) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        tables = {_ITEMS: items, _USERS: users, _INTERACTIONS: interactions}
        for name, table in tables.items():
            pq.write_table(
                table, temporary / name, compression="zstd", row_group_size=_ROWS_PER_GROUP
            )
        document = _document(info, tables, temporary)
        (temporary / _INFO).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        sync_tree(temporary)
        temporary.chmod(0o755)
        _replace(out, temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def drop_users(path: Path, is_gone: Callable[[Sequence[str]], npt.NDArray[np.bool_]]) -> int:
    """Write the data set at `path` anew without those of its users that `is_gone` marks.

    Their interactions go with them, and so do all examples of bad rows, which may be of anybody,
    and what a writer that was killed has left. Returns how many users went.
    """
    with _sole_writer(path):
        document = _read_info(path)
        _verify(path, document["files"])
        info = _info_of(document)
        users = pq.read_table(path / _USERS)
        gone = is_gone(users["id"].to_pylist())
        bad_rows = {table: _without_examples(counts) for table, counts in info.bad_rows.items()}
        if gone.any() or bad_rows != info.bad_rows:
            _write(
                path,
                items=pq.read_table(path / _ITEMS),
                users=users.filter(pa.array(~gone)),
                interactions=_of_users(pq.read_table(path / _INTERACTIONS), ~gone),
                info=replace(info, bad_rows=bad_rows),
            )
        return int(gone.sum())


def _of_users(interactions: pa.Table, stays: npt.NDArray[np.bool_]) -> pa.Table:
    """Those of users that stay, bool [n_users], who have new rows."""
    new_row = np.cumsum(stays, dtype=np.int32) - np.int32(1)
    kept = interactions.filter(pa.array(stays[_numpy(interactions["user"])]))
    rows = pa.array(new_row[_numpy(kept["user"])], pa.int32())
    return kept.set_column(kept.schema.get_field_index("user"), "user", rows)


def _without_examples(counts: Any) -> Any:
    if not isinstance(counts, dict) or "reasons" not in counts:
        return counts
    reasons = {reason: {**found, "examples": []} for reason, found in counts["reasons"].items()}
    return {**counts, "reasons": reasons}


def _type_of(feature: Feature) -> pa.DataType:
    if feature.is_list:
        return pa.list_(pa.string())
    return {"numeric": pa.float32(), "timestamp": pa.int64()}.get(feature.role, pa.string())


def _check_layout(
    items: pa.Table, users: pa.Table, interactions: pa.Table, info: DatasetInfo
) -> None:
    key = [pa.field("key", pa.uint64()), pa.field("id", pa.string())]
    own = [pa.field("title", pa.string()), pa.field("published_ms", pa.int64())]
    columns = [
        ("user", pa.int32()),
        ("item", pa.int32()),
        ("event", pa.int8()),
        ("value", pa.float32()),
        ("weight", pa.float32()),
        ("time_ms", pa.int64()),
        ("split", pa.int8()),
        *((_CONTEXT + name, pa.string()) for name in info.schema.context_features),
    ]
    wanted = [
        (_ITEMS, items, pa.schema(key + own + entity_fields(info.schema.item_features))),
        (_USERS, users, pa.schema(key + entity_fields(info.schema.user_features))),
        (_INTERACTIONS, interactions, pa.schema(columns)),
    ]
    for name, table, schema in wanted:
        if not table.schema.equals(schema):
            raise ValueError(f"{name} must have the columns\n{schema}\nnot\n{table.schema}")


def _document(info: DatasetInfo, tables: dict[str, pa.Table], folder: Path) -> dict[str, Any]:
    splits = np.bincount(_numpy(tables[_INTERACTIONS]["split"]), minlength=len(SPLITS))
    plain = {name: value for name, value in asdict(info).items() if name != "schema"}
    return {
        "format": FORMAT,
        "schema_sha256": info.schema.digest(),
        "counts": {
            "users": tables[_USERS].num_rows,
            "items": tables[_ITEMS].num_rows,
            "interactions": tables[_INTERACTIONS].num_rows,
            **{split: int(n) for split, n in zip(SPLITS, splits, strict=True)},
        },
        "files": {name: _sha256(folder / name) for name in tables},
        **plain,
        "schema": info.schema.model_dump(mode="json", exclude_defaults=True),
    }


def _info_of(document: dict[str, Any]) -> DatasetInfo:
    return DatasetInfo(
        schema=Schema.of(document["schema"], source=_INFO),
        event_types=tuple(document["event_types"]),
        has_time=document["has_time"],
        split_method=document["split_method"],
        train_end_ms=document["train_end_ms"],
        validation_end_ms=document["validation_end_ms"],
        test_end_ms=document["test_end_ms"],
        notes=tuple(document["notes"]),
        bad_rows=document["bad_rows"],
        merged_rows=document["merged_rows"],
    )


def _read_info(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / _INFO).read_bytes())
    except OSError as error:
        raise DatasetUnreadable(f"no data set in {folder}: {error.strerror} ({_INFO})") from None
    except ValueError as error:
        raise DatasetUnreadable(f"{folder / _INFO} is damaged: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DatasetUnreadable(f"{folder / _INFO} is not of format {FORMAT}; import again")
    return document


def _verify(folder: Path, files: dict[str, str]) -> None:
    for name in (_ITEMS, _USERS, _INTERACTIONS):
        try:
            digest = _sha256(folder / name)
        except OSError as error:
            raise DatasetUnreadable(f"{folder / name}: {error.strerror}; import again") from None
        if digest != files.get(name):
            raise DatasetUnreadable(f"{folder / name} does not match its checksum; import again")


def _load_interactions(path: Path) -> Interactions:
    table = pq.read_table(path)
    names = [name for name in table.column_names if not name.startswith(_CONTEXT)]
    return Interactions(
        **{name: _numpy(table[name]) for name in names},
        context={
            name.removeprefix(_CONTEXT): _array(table[name])
            for name in table.column_names
            if name.startswith(_CONTEXT)
        },
    )


def _row_of(keys: npt.NDArray[np.uint64], wanted: str | int) -> int | None:
    key = np.uint64(key_of(wanted) if isinstance(wanted, str) else wanted)
    row = int(np.searchsorted(keys, key))
    return row if row < len(keys) and keys[row] == key else None


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def _numpy(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    return column.to_numpy()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _sole_writer(out: Path) -> Iterator[None]:
    """One process at a time writes data sets into a folder; what one that was killed has left goes
    first. The kernel lets go of the lock when its process dies.
    """
    handle = os.open(out.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        _tidy(out)
        yield
    finally:
        os.close(handle)


def _tidy(out: Path) -> None:
    """A data set that was put aside comes back unless its successor is in its place."""
    for left in out.parent.glob(f".{out.name}-*"):
        if (left / out.name).exists() and not out.exists():
            (left / out.name).rename(out)
        shutil.rmtree(left)


def _replace(out: Path, new: Path) -> None:
    """Put `new` where `out` is; on failure `out` is what it was."""
    if not out.exists():
        new.rename(out)
    else:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-old-", dir=out.parent) as aside:
            old = Path(aside) / out.name
            out.rename(old)
            try:
                new.rename(out)
            except BaseException:
                old.rename(out)
                raise
    sync(out.parent)
