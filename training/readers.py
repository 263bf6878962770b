"""Files to batches of rows, in bounded memory: CSV, TSV, any separator, JSON lines, Parquet, lists.

A row that is no row (wrong number of columns, not UTF-8, not JSON) goes to the `BadRowLog`; what
its cells mean is the business of `cells`. A file that cannot be read at all is an error.
"""

from __future__ import annotations

import codecs
import csv
import glob
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from shortlist.errors import ShortlistError
from shortlist.schema import FileFormat
from training import byte_blocks
from training.bad_rows import BadRowLog, RowCheck

__all__ = [
    "DataError",
    "EmptySource",
    "MissingColumn",
    "RawBatch",
    "SourceMissing",
    "SourceUnreadable",
    "UnknownFormat",
    "find_files",
    "read_file",
]

_PARQUET_ROWS: Final = 1 << 18
# Stands for a separator of several characters while Arrow parses: the ASCII unit separator.
_UNIT_SEPARATOR: Final = b"\x1f"


class DataError(ShortlistError):
    """The data cannot be imported as it is."""

    status_name = "INVALID_ARGUMENT"


class SourceMissing(DataError):
    """A file that the schema names is not there."""

    def __init__(self, path: str, folder: Path) -> None:
        self.path, self.folder = path, folder
        there = sorted(p.name for p in folder.iterdir())[:20] if folder.is_dir() else None
        found = "the folder does not exist" if there is None else ", ".join(there) or "nothing"
        super().__init__(f"no file {path} in {folder}; there is: {found}")


class SourceUnreadable(DataError):
    """A file is damaged, or not of the format that the schema says."""


class EmptySource(DataError):
    """A file, or a whole table, has no rows."""


class UnknownFormat(DataError):
    """The file's ending does not tell its format, and the schema does not either."""


class MissingColumn(DataError):
    """The schema names a column that the file does not have."""

    def __init__(self, column: str, path: Path, there: Sequence[str]) -> None:
        self.column, self.path, self.there = column, path, tuple(there)
        super().__init__(f"{path} has no column {column!r}; there are: {', '.join(there)}")


@dataclass(frozen=True, kw_only=True)
class RawBatch:
    """Some rows of a file. Cells are strings, lists of strings, int64, float64 or timestamp[ms]."""

    columns: dict[str, pa.Array]
    path: Path
    # Place of each row in the file from 1, the header included; blank lines and line breaks inside
    # quotes are not counted. int64 [n]
    lines: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        return f"{self.path.name}:{self.lines[row]}"

    def show(self, row: int) -> str:
        cells = ((name, column[row].as_py()) for name, column in self.columns.items())
        return ", ".join(f"{name}={'' if cell is None else cell}" for name, cell in cells)

    def keep(self, rows: npt.NDArray[np.bool_]) -> RawBatch:
        """The batch without the rows where `rows` (bool [n]) is False."""
        if rows.all():
            return self
        columns = {name: column.filter(pa.array(rows)) for name, column in self.columns.items()}
        return RawBatch(columns=columns, path=self.path, lines=self.lines[rows])


def find_files(patterns: Sequence[str], folder: Path, *, optional: bool = False) -> list[Path]:
    """The files that paths and globs, relative to `folder`, stand for, in the order given.

    Raises `SourceMissing` for a pattern without a file, unless `optional`.
    """
    found: list[Path] = []
    for pattern in patterns:
        paths = sorted(Path(p) for p in glob.glob(str(folder / pattern), recursive=True))
        files = [path for path in paths if path.is_file()]
        if not files and not optional:
            raise SourceMissing(pattern, folder)
        found += files
    return list(dict.fromkeys(found))


def read_file(
    path: Path, file_format: FileFormat | None, columns: Sequence[str], log: BadRowLog
) -> Iterator[RawBatch]:
    """The named columns of a file, batch by batch.

    Rows are counted in `log`, bad ones with their reason. Raises `UnknownFormat`, `EmptySource`,
    `MissingColumn` and `SourceUnreadable`.
    """
    known = file_format or FileFormat.of(path)
    if known is None:
        raise UnknownFormat(
            f"cannot tell the format of {path.name} by its ending; "
            "set `format` to csv, tsv, separated, jsonl, parquet or lists"
        )
    if path.stat().st_size == 0:
        raise EmptySource(f"{path} is empty")
    reader: _Reader = {"jsonl": _read_jsonl, "parquet": _read_parquet, "lists": _read_lists}.get(
        known.type, _read_delimited
    )
    try:
        yield from reader(path, known, columns, log)
    except (pa.ArrowException, OSError) as error:
        raise SourceUnreadable(_explain(path, known, error)) from error


_Reader = Callable[[Path, FileFormat, Sequence[str], BadRowLog], Iterator[RawBatch]]


def _explain(path: Path, file_format: FileFormat, error: Exception) -> str:
    if "straddling object" in str(error):
        return (
            f"{path}: a quoted cell does not end within {byte_blocks.BLOCK_BYTES >> 20} MB. "
            "Close the quote, or switch quotes off: `format: {type: csv, quote: false}`"
        )
    return f"{path} cannot be read as {file_format.type}: {error}"


# --- CSV, TSV and other separators ---


def _read_delimited(
    path: Path, file_format: FileFormat, columns: Sequence[str], log: BadRowLog
) -> Iterator[RawBatch]:
    with byte_blocks.open_binary(path) as stream:
        content = byte_blocks.Content(byte_blocks.utf8_blocks(stream, file_format.encoding))
        names = _column_names(content, file_format)
        if not content.peek_line():
            raise EmptySource(f"{path} has a header and no rows")
        places = _places(columns, names, path)
        names += _trailing_cell(content, file_format, names)
        rows = _parse(content, file_format, names, places, path, log)
        for batch in rows:
            log.rows += len(batch)
            yield from _decoded_rows(batch, file_format, log)


def _column_names(content: byte_blocks.Content, file_format: FileFormat) -> list[str]:
    header = _cells_of(content.take_line(), file_format) if file_format.has_header else []
    return list(file_format.columns or [name.strip() for name in header])


def _trailing_cell(
    content: byte_blocks.Content, file_format: FileFormat, names: list[str]
) -> list[str]:
    """One more, unnamed column when rows end with a separator that the header does not have."""
    first = _cells_of(content.peek_line(), file_format)
    return [""] if len(first) == len(names) + 1 and not first[-1] else []


def _cells_of(line: bytes, file_format: FileFormat) -> list[str]:
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    if file_format.quotes:
        return next(csv.reader([text], delimiter=file_format.field_separator), [])
    return text.split(file_format.field_separator)


def _places(columns: Sequence[str], names: Sequence[str], path: Path) -> dict[str, int]:
    for column in columns:
        if column not in names:
            raise MissingColumn(column, path, names)
        if names.count(column) > 1:
            raise SourceUnreadable(f"{path} has {names.count(column)} columns named {column!r}")
    return {column: names.index(column) for column in columns}


def _parse(
    content: byte_blocks.Content,
    file_format: FileFormat,
    names: Sequence[str],
    places: Mapping[str, int],
    path: Path,
    log: BadRowLog,
) -> Iterator[RawBatch]:
    """Batches of all rows of the right width."""
    separator = file_format.field_separator.encode()
    delimiter = separator if len(separator) == 1 else _UNIT_SEPARATOR
    blocks = content.blocks()
    if not file_format.quotes:
        blocks = byte_blocks.replaced(byte_blocks.whole_lines(blocks), separator, delimiter)
    lines = _LineCounter(header=int(file_format.has_header))

    def skip(row: Any) -> str:
        log.rows += 1
        shown = row.text.replace(delimiter.decode(), file_format.field_separator)
        where = f"{path.name}:{lines.skip(row.number)}"
        log.add("wrong number of columns", where, _printable(shown))
        return "skip"

    reader = pa_csv.open_csv(
        pa.PythonFile(byte_blocks.BlockStream(blocks), mode="r"),
        read_options=pa_csv.ReadOptions(
            column_names=[str(place) for place in range(len(names))],
            block_size=2 * byte_blocks.BLOCK_BYTES,
            use_threads=False,
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter=delimiter.decode(),
            quote_char='"' if file_format.quotes else False,
            newlines_in_values=file_format.quotes,
            invalid_row_handler=skip,
        ),
        convert_options=pa_csv.ConvertOptions(
            include_columns=[str(place) for place in places.values()],
            column_types={str(place): pa.string() for place in places.values()},
            strings_can_be_null=False,
            check_utf8=False,  # `utf8_blocks` has
        ),
    )
    for batch in reader:
        if batch.num_rows:
            cells = {name: batch.column(str(place)) for name, place in places.items()}
            yield RawBatch(columns=cells, path=path, lines=lines.take(batch.num_rows))


class _LineCounter:
    """Gives rows their line numbers while invalid ones are skipped in between."""

    def __init__(self, header: int) -> None:
        self._header = header
        self._next = 1  # of the rows after the header
        self._skipped: list[int] = []

    def skip(self, row: int) -> int:
        self._skipped.append(row)
        return row + self._header

    def take(self, rows: int) -> npt.NDArray[np.int64]:
        candidates = np.arange(self._next, self._next + rows + len(self._skipped))
        taken = candidates[~np.isin(candidates, self._skipped)][:rows]
        self._next = int(taken[-1]) + 1
        self._skipped = [row for row in self._skipped if row >= self._next]
        return taken + self._header


def _decoded_rows(batch: RawBatch, file_format: FileFormat, log: BadRowLog) -> Iterator[RawBatch]:
    """The rows whose cells are text; the others are bad."""
    check = RowCheck(len(batch))
    for column in batch.columns.values():
        undecoded = pc.match_substring(column, byte_blocks.UNDECODED)
        check.fail(undecoded.to_numpy(zero_copy_only=False), _not_text(file_format))
    check.report(log, batch.where, lambda row: _printable(batch.show(row)))
    good = batch.keep(check.good)
    if len(good):
        yield good


# --- lists: a user and the items, one line each ---


def _read_lists(
    path: Path, file_format: FileFormat, columns: Sequence[str], log: BadRowLog
) -> Iterator[RawBatch]:
    user_column, item_column = columns
    with byte_blocks.open_binary(path) as stream:
        blocks = byte_blocks.whole_lines(byte_blocks.utf8_blocks(stream, file_format.encoding))
        line = 1 + int(file_format.header or False)
        for at, block in enumerate(blocks):
            rows = block.split(b"\n")
            rows = rows[:-1] if not rows[-1] else rows
            rows = rows[1:] if file_format.header and at == 0 else rows
            numbers = np.arange(line, line + len(rows))
            line += len(rows)
            users, items, row_of_item = _split_lists(rows, file_format, path, numbers, log)
            log.rows += len(items)
            if len(items):
                yield RawBatch(
                    columns={user_column: users, item_column: items},
                    path=path,
                    lines=numbers[row_of_item],
                )


def _split_lists(
    rows: list[bytes],
    file_format: FileFormat,
    path: Path,
    numbers: npt.NDArray[np.int64],
    log: BadRowLog,
) -> tuple[pa.Array, pa.Array, npt.NDArray[np.int64]]:
    """User and item of each pair, and the line it stands in."""
    text = pa.array([row.decode() for row in rows], pa.string())
    undecoded = pc.match_substring(text, byte_blocks.UNDECODED).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(undecoded):
        log.rows += 1
        where = f"{path.name}:{numbers[row]}"
        log.add(_not_text(file_format), where, _printable(text[row].as_py()))
    text = pc.utf8_trim_whitespace(pc.if_else(pa.array(undecoded), "", text))
    separator = file_format.field_separator
    cells = pc.split_pattern(text, separator) if separator else pc.utf8_split_whitespace(text)
    parts, line_of_part = pc.list_flatten(cells), pc.list_parent_indices(cells).to_numpy()
    is_item = np.concatenate([[False], line_of_part[1:] == line_of_part[:-1]])[: len(parts)]
    line_of_item = line_of_part[is_item]
    users = pc.list_element(cells, 0).take(pa.array(line_of_item))
    return users, parts.filter(pa.array(is_item)), line_of_item


# --- JSON lines ---


def _read_jsonl(
    path: Path, file_format: FileFormat, columns: Sequence[str], log: BadRowLog
) -> Iterator[RawBatch]:
    with byte_blocks.open_binary(path) as stream:
        first = 1
        for block in byte_blocks.whole_lines(byte_blocks.utf8_blocks(stream, file_format.encoding)):
            lines = block.split(b"\n")
            objects, numbers = _parse_json(lines, first, path, file_format, log)
            if first == 1:
                _check_json_columns(objects, columns, path)
            first += len(lines) - 1
            if objects:
                cells = {name: _json_column([o.get(name) for o in objects]) for name in columns}
                yield RawBatch(columns=cells, path=path, lines=np.array(numbers))


def _parse_json(
    lines: list[bytes], first: int, path: Path, file_format: FileFormat, log: BadRowLog
) -> tuple[list[dict[str, Any]], list[int]]:
    objects, numbers = [], []
    for number, line in enumerate(lines, start=first):
        if not line.strip():
            continue
        log.rows += 1
        row, reason = _json_object(line.decode(), file_format)
        if row is None:
            log.add(reason, f"{path.name}:{number}", _printable(line.decode()))
        else:
            objects.append(row)
            numbers.append(number)
    return objects, numbers


def _json_object(line: str, file_format: FileFormat) -> tuple[dict[str, Any] | None, str]:
    """The object of a line, or None and the reason."""
    if byte_blocks.UNDECODED in line:
        return None, _not_text(file_format)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None, "not JSON"
    if not isinstance(row, dict):
        return None, "not a JSON object"
    if _SURROGATE.search(line) and not _is_encodable(row):
        return None, "half a character"
    return row, ""


_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def _is_encodable(row: dict[str, Any]) -> bool:
    """False for half a surrogate pair: JSON can write it, UTF-8 cannot."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_json_columns(objects: list[dict[str, Any]], columns: Sequence[str], path: Path) -> None:
    there = {name for row in objects for name in row}
    for column in columns:
        if objects and column not in there:
            raise MissingColumn(column, path, sorted(there))


def _json_column(cells: list[Any]) -> pa.Array:
    if any(isinstance(cell, list) for cell in cells):
        as_lists = [cell if isinstance(cell, list) or cell is None else [cell] for cell in cells]
        texts = [None if row is None else [_json_text(c) for c in row] for row in as_lists]
        return pa.array(texts, pa.list_(pa.string()))
    return pa.array([_json_text(cell) for cell in cells], pa.string())


def _json_text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    return json.dumps(cell, ensure_ascii=False)


# --- Parquet ---


def _read_parquet(
    path: Path, _: FileFormat, columns: Sequence[str], log: BadRowLog
) -> Iterator[RawBatch]:
    with pq.ParquetFile(path) as file:
        _places(columns, file.schema_arrow.names, path)
        if file.metadata.num_rows == 0:
            raise EmptySource(f"{path} has no rows")
        first = 1
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=list(columns)):
            cells = {name: _plain(batch.column(name), name, path) for name in columns}
            lines = np.arange(first, first + batch.num_rows)
            first += batch.num_rows
            log.rows += batch.num_rows
            yield RawBatch(columns=cells, path=path, lines=lines)


def _plain(column: pa.Array, name: str, path: Path) -> pa.Array:
    """One of the few types that `RawBatch` promises."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.dictionary_decode(), name, path)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column.cast(pa.timestamp("ms"), safe=False)
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return column.cast(pa.int64())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return column.cast(pa.list_(pa.string()))
    if pa.types.is_nested(kind):
        raise SourceUnreadable(
            f"{path}: column {name!r} is of type {kind}, which has no meaning here"
        )
    return column.cast(pa.string())


# --- text ---


def _not_text(file_format: FileFormat) -> str:
    return f"not {codecs.lookup(file_format.encoding).name.upper()}"


def _printable(text: str) -> str:
    return text.replace(byte_blocks.UNDECODED, "\N{REPLACEMENT CHARACTER}")
