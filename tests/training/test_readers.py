from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shortlist.schema import FileFormat
from training import byte_blocks
from training.bad_rows import BadRowLog
from training.readers import (
    EmptySource,
    MissingColumn,
    SourceMissing,
    SourceUnreadable,
    UnknownFormat,
    find_files,
    read_file,
)

TSV = FileFormat(type="tsv")
DOUBLE_COLON = FileFormat(type="separated", separator="::", columns=("user", "item"))


class Read:
    """Everything that `read_file` gives for one file."""

    def __init__(self, path: Path, file_format: FileFormat | None, columns: list[str]) -> None:
        self.log = BadRowLog(table="t")
        batches = list(read_file(path, file_format, columns, self.log))
        self.rows = [
            tuple(batch.columns[name][row].as_py() for name in columns)
            for batch in batches
            for row in range(len(batch))
        ]
        self.lines = [int(line) for batch in batches for line in batch.lines]


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(
        content: str | bytes,
        *columns: str,
        name: str = "t.csv",
        file_format: FileFormat | None = None,
    ) -> Read:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return Read(path, file_format, list(columns or ("user", "item")))

    return read


def test_csv_keeps_what_quotes_enclose(read: Any) -> None:
    found = read('user,item\nu1,"a, ""b"""\n"u\n2",c\n')
    assert found.rows == [("u1", 'a, "b"'), ("u\n2", "c")]


def test_columns_are_found_by_name_and_others_are_ignored(read: Any) -> None:
    assert read("x, item ,user\n1,i,u\n").rows == [("u", "i")]


def test_stray_quotes_in_tsv_swallow_nothing(read: Any) -> None:
    found = read('user\titem\nu1\t"open\nu2\t7" single\n', file_format=TSV)
    assert found.rows == [("u1", '"open'), ("u2", '7" single')]


def test_a_separator_may_have_several_characters(read: Any) -> None:
    found = read("u1::a: b\nu2::c,d\n", name="t.dat", file_format=DOUBLE_COLON)
    assert found.rows == [("u1", "a: b"), ("u2", "c,d")]
    assert found.lines == [1, 2]


def test_ids_stay_strings(read: Any) -> None:
    assert read("user,item\n007,1e5\n").rows == [("007", "1e5")]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_line_ends_and_blank_lines_do_not_matter(read: Any, line_end: str) -> None:
    found = read(line_end.join(["user,item", "u1,a", "", "u2,b", "", ""]))
    assert found.rows == [("u1", "a"), ("u2", "b")]
    assert found.log.bad == 0


def test_a_byte_order_mark_is_no_part_of_a_name(read: Any) -> None:
    assert read(b"\xef\xbb\xbfuser,item\nu,i\n").rows == [("u", "i")]


def test_rows_of_another_width_are_bad(read: Any) -> None:
    found = read("user\titem\nu1\ta\nu2\nu3\tb\tc\nu4\td\n", file_format=TSV)
    assert found.rows == [("u1", "a"), ("u4", "d")]
    assert found.lines == [2, 5]
    assert found.log.rows == 4
    assert found.log.counts == {"wrong number of columns": 2}
    examples = found.log.examples["wrong number of columns"]
    assert [(row.where, row.text) for row in examples] == [
        ("t.csv:3", "u2"),
        ("t.csv:4", "u3\tb\tc"),
    ]


def test_line_numbers_hold_over_many_batches_and_bad_rows(
    read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_blocks, "BLOCK_BYTES", 512)
    lines = [f"u{n}::i{n}" if n % 7 else f"u{n}" for n in range(1, 1001)]
    found = read("\n".join(lines), name="t.dat", file_format=DOUBLE_COLON)
    assert found.log.bad == 1000 // 7
    assert found.lines == [n for n in range(1, 1001) if n % 7]
    assert all(user == f"u{line}" for (user, _), line in zip(found.rows, found.lines, strict=True))
    assert found.log.examples["wrong number of columns"][2].where == "t.dat:21"


def test_an_empty_last_cell_that_the_header_lacks_is_dropped(read: Any) -> None:
    found = read("user\titem\nu1\ta\t\nu2\tb\t\n", file_format=TSV)
    assert found.rows == [("u1", "a"), ("u2", "b")]
    assert found.log.bad == 0


def test_bytes_that_are_not_utf8_make_a_bad_row(read: Any) -> None:
    content = b"user,item\nu1,caf\xe9\nu2,b\n"
    found = read(content)
    assert found.rows == [("u2", "b")]
    assert found.log.counts == {"not UTF-8": 1}
    assert found.log.examples["not UTF-8"][0].where == "t.csv:2"


def test_a_row_that_is_bad_twice_does_not_hide_its_bytes(read: Any) -> None:
    found = read(b"user,item\nu1,a\n\xff\xfe\nu2,b\n")
    assert found.rows == [("u1", "a"), ("u2", "b")]
    assert found.log.counts == {"wrong number of columns": 1}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_converted(read: Any, encoding: str) -> None:
    content = "user,item\nu1,café\n".encode(encoding)
    assert read(content, file_format=FileFormat(type="csv", encoding=encoding)).rows == [
        ("u1", "café")
    ]


def test_rows_in_another_encoding_than_said_are_bad(read: Any) -> None:
    ascii = FileFormat(type="csv", encoding="ascii")
    found = read("user,item\nu1,café\nu2,b\n", file_format=ascii)
    assert found.rows == [("u2", "b")]
    assert found.log.counts == {"not ASCII": 1}


def test_a_character_across_two_blocks_is_whole(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_blocks, "BLOCK_BYTES", 16)
    found = read("u1::ééééééééééééééé\nu2::é\n", name="t.dat", file_format=DOUBLE_COLON)
    assert found.rows == [("u1", "é" * 15), ("u2", "é")]


def test_compressed_files_are_read(read: Any) -> None:
    content = gzip.compress(b"user,item\nu,i\n")
    assert read(content, name="t.csv.gz").rows == [("u", "i")]


def test_a_damaged_compressed_file_is_told(read: Any) -> None:
    with pytest.raises(SourceUnreadable, match=r"t\.csv\.gz"):
        read(gzip.compress(b"user,item\nu,i\n")[:-12] + b"garbage", name="t.csv.gz")


def test_a_quote_that_never_ends_is_told(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_blocks, "BLOCK_BYTES", 512)
    with pytest.raises(SourceUnreadable, match="quote: false"):
        read('user,item\nu1,"open\n' + "u2,b\n" * 2000)


def test_a_line_without_end_is_told(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_blocks, "BLOCK_BYTES", 512)
    monkeypatch.setattr(byte_blocks, "_LONGEST_LINE_BYTES", 2048)
    for file_format in (TSV, FileFormat(type="lists")):
        with pytest.raises(SourceUnreadable, match="a line is longer"):
            read("user\titem\nu1\t" + "a" * 10_000, file_format=file_format)


def test_a_missing_column_is_named_with_those_there(read: Any) -> None:
    with pytest.raises(MissingColumn, match=r"no column 'item'; there are: user, sku"):
        read("user,sku\nu,i\n")


def test_a_column_that_is_there_twice_is_refused(read: Any) -> None:
    with pytest.raises(SourceUnreadable, match="2 columns named 'item'"):
        read("user,item,item\nu,i,j\n")


@pytest.mark.parametrize("content", ["", "user,item\n", "user,item\n\n\n"])
def test_a_file_without_rows_is_refused(read: Any, content: str) -> None:
    with pytest.raises(EmptySource, match=r"t\.csv"):
        read(content)


def test_an_unknown_ending_asks_for_the_format(read: Any) -> None:
    with pytest.raises(UnknownFormat, match=r"t\.dat"):
        read("user,item\nu,i\n", name="t.dat")


# --- lists ---


def test_a_line_of_a_list_is_a_user_and_the_items(read: Any) -> None:
    found = read("u1 a b\nu2\n\nu3  c \r\n", file_format=FileFormat(type="lists"))
    assert found.rows == [("u1", "a"), ("u1", "b"), ("u3", "c")]
    assert found.lines == [1, 1, 4]
    assert found.log.rows == 3


def test_lists_may_have_a_separator(read: Any) -> None:
    found = read("u1,a b,c\n", file_format=FileFormat(type="lists", separator=","))
    assert found.rows == [("u1", "a b"), ("u1", "c")]


def test_lists_survive_block_ends(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_blocks, "BLOCK_BYTES", 64)
    content = "".join(f"u{n} a{n} b{n}\n" for n in range(100))
    found = read(content, file_format=FileFormat(type="lists"))
    assert found.rows == [(f"u{n}", f"{x}{n}") for n in range(100) for x in "ab"]
    assert found.lines == [n for n in range(1, 101) for _ in "ab"]


def test_a_list_line_that_is_not_utf8_is_bad(read: Any) -> None:
    found = read(b"u1 a\nu2 \xff\n", file_format=FileFormat(type="lists"))
    assert found.rows == [("u1", "a")]
    assert found.log.counts == {"not UTF-8": 1}


# --- JSON lines ---


def test_json_lines_keep_text_numbers_and_lists(read: Any) -> None:
    content = '{"user": 7, "item": "007", "tags": ["a", "b"]}\n\n{"user": 8.0, "item": true}\n'
    found = read(content, "user", "item", "tags", name="t.jsonl")
    assert found.rows == [("7", "007", ["a", "b"]), ("8", "true", None)]
    assert found.lines == [1, 3]


def test_lines_that_are_no_json_object_are_bad(read: Any) -> None:
    content = (
        b'{"user": "u", "item": "i"}\n{"user"\n[1]\n"\xff"\n{"user": "\\ud800", "item": "x"}\n'
    )
    found = read(content, name="t.jsonl")
    assert found.rows == [("u", "i")]
    assert found.log.counts == {
        "not JSON": 1,
        "not a JSON object": 1,
        "not UTF-8": 1,
        "half a character": 1,
    }
    assert found.log.examples["not JSON"][0].where == "t.jsonl:2"
    assert found.log.rows == 5


def test_json_without_the_column_anywhere_is_refused(read: Any) -> None:
    with pytest.raises(MissingColumn, match="there are: sku, user"):
        read('{"user": "u", "sku": "i"}\n', name="t.jsonl")


# --- Parquet ---


def test_parquet_columns_keep_their_types(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table(
        {
            "user": pa.array([1, 2], pa.int32()),
            "item": pa.array(["a", None]).dictionary_encode(),
            "at": pa.array(np.array(["2024-01-01T00:00:00.123456"] * 2, "datetime64[us]")),
            "tags": pa.array([["x"], []]),
            "value": pa.array([1.5, None], pa.float32()),
        }
    )
    pq.write_table(table, path)
    log = BadRowLog(table="t")
    (batch,) = read_file(path, None, table.column_names, log)
    kinds = {name: column.type for name, column in batch.columns.items()}
    assert kinds == {
        "user": pa.int64(),
        "item": pa.string(),
        "at": pa.timestamp("ms"),
        "tags": pa.list_(pa.string()),
        "value": pa.float64(),
    }
    assert log.rows == 2


@pytest.mark.parametrize("content", [b"PAR1 not really", b"\x00" * 64])
def test_a_file_that_is_no_parquet_is_refused(read: Any, content: bytes) -> None:
    with pytest.raises(SourceUnreadable, match="parquet"):
        read(content, name="t.parquet")


def test_parquet_with_a_nested_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"user": [{"id": 1}]}), path)
    with pytest.raises(SourceUnreadable, match="struct"):
        list(read_file(path, None, ["user"], BadRowLog(table="t")))


def test_a_missing_parquet_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(MissingColumn, match="'user'; there are: a"):
        list(read_file(path, None, ["user"], BadRowLog(table="t")))


# --- finding files ---


def test_globs_are_sorted_and_no_file_comes_twice(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).touch()
    found = find_files(["*.csv", "b.csv", "c.txt"], tmp_path)
    assert [path.name for path in found] == ["a.csv", "b.csv", "c.txt"]


def test_a_missing_file_is_named_with_the_folder_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "other.csv").touch()
    with pytest.raises(SourceMissing, match=r"no file events\.csv in .*; there is: other\.csv"):
        find_files(["events.csv"], tmp_path)
    with pytest.raises(SourceMissing, match="the folder does not exist"):
        find_files(["events.csv"], tmp_path / "nowhere")


def test_an_optional_file_may_be_absent(tmp_path: Path) -> None:
    assert find_files(["events.csv"], tmp_path, optional=True) == []
