from __future__ import annotations

import csv
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import pyarrow.parquet as pa_parquet
import pytest
from click.testing import CliRunner

from shortlist.schema import Schema
from simulator import World, write_dataset
from simulator.__main__ import main
from tests.simulator.conftest import SMALL
from training.importer import import_dataset

TINY = replace(SMALL, users=150, items=400, events=1_500, days=10)

COLUMNS = {
    "events": ["visitor", "item", "time", "event", "device"],
    "items": [
        *("id", "title", "description", "category"),
        *("creator", "country", "published", "price"),
    ],
    "users": ["id", "country", "age_band", "language"],
}


def _rows(path):
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def progress():
    """What was told of the progress of `written`."""
    return []


@pytest.fixture(scope="module")
def written(tmp_path_factory, progress):
    """By format."""
    folder = tmp_path_factory.mktemp("world") / "new" / "folder"
    return {
        "csv": write_dataset(World(TINY), folder, progress=lambda *call: progress.append(call)),
        "parquet": write_dataset(
            World(TINY), tmp_path_factory.mktemp("parquet"), file_format="parquet"
        ),
    }


@pytest.fixture(scope="module")
def folder(written):
    return written["csv"].schema.parent


@pytest.mark.parametrize("table", COLUMNS)
def test_csv_files_have_the_promised_columns(folder, table):
    assert list(_rows(folder / f"{table}.csv")[0]) == COLUMNS[table]


@pytest.mark.parametrize("table", COLUMNS)
def test_parquet_files_have_the_promised_columns(written, table):
    path = written["parquet"].schema.with_name(f"{table}.parquet")
    assert pa_parquet.read_schema(path).names == COLUMNS[table]


def test_ids_and_times_read_back_as_what_they_are(folder):
    events = _rows(folder / "events.csv")
    items = {row["id"] for row in _rows(folder / "items.csv")}
    users = {row["id"] for row in _rows(folder / "users.csv")}
    assert len(items) == TINY.items
    assert len(users) == TINY.users
    assert {row["item"] for row in events} <= items
    assert {row["visitor"] for row in events} <= users
    assert {row["event"] for row in events} == {"click", "like"}
    times = [datetime.fromisoformat(row["time"]) for row in events]
    assert all(a <= b for a, b in pairwise(times))
    assert times[0].tzinfo is not None


def test_equal_worlds_write_equal_bytes(folder, tmp_path):
    write_dataset(World(TINY), tmp_path)
    for path in sorted(folder.iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_progress_ends_at_the_number_of_rows(written, progress):
    last = {what: (done, expected) for what, done, expected in progress}
    assert last == {
        "users": (150, 150),
        "items": (400, 400),
        "events": (written["csv"].events, TINY.events),
    }


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_the_generic_import_loads_every_row(written, tmp_path, file_format):
    files = written[file_format]
    report = import_dataset(Schema.load(files.schema), files.schema.parent, tmp_path)
    assert report.interactions == files.events
    assert report.users == TINY.users
    assert report.items == TINY.items
    assert report.event_types == ("click", "like")
    assert report.has_time
    assert not any(log.counts for log in report.bad_rows)


def test_the_command_line_writes_a_world(tmp_path):
    sizes = ["--users", "50", "--items", "200", "--events", "300", "--start", "2024-02-29"]
    result = CliRunner().invoke(main, [str(tmp_path), *sizes])
    assert result.exit_code == 0, result.output
    assert _rows(tmp_path / "events.csv")[0]["time"].startswith("2024-02-29T")
    assert len(_rows(tmp_path / "items.csv")) == 200


def test_the_command_line_names_an_option_out_of_range(tmp_path):
    result = CliRunner().invoke(main, [str(tmp_path), "--users", "0"])
    assert result.exit_code == 1
    assert "users: must be at least 1, got 0" in result.output
    assert not list(tmp_path.iterdir())
