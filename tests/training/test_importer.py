from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shortlist import ids
from shortlist.ids import KeyCollision, key_of
from shortlist.schema import Schema
from training import importer
from training.bad_rows import TooManyBadRows
from training.dataset import SPLITS, UNKNOWN_TIME_MS, Dataset, DatasetUnreadable
from training.importer import ImportReport, NoPositives, TooManyEventTypes, import_dataset
from training.presets import load_preset
from training.readers import EmptySource, MissingColumn, SourceMissing
from training.splits import SplitImpossible

EVENTS = """\
visitor,sku,at,kind,price,device
ann,007,2024-01-01T10:00:00Z,view,,mobile
bob,7,2024-01-02T10:00:00Z,view,,desktop
ann,7,2024-01-03T10:00:00+02:00,buy,9.5,
ann,007,2024-01-04T10:00:00Z,rate,8,mobile
bob,x9,2024-01-05T10:00:00Z,rate,3,mobile
bob,007,2024-01-06T10:00:00Z,buy,5,mobile
ann,x9,2024-01-07T10:00:00Z,view,,mobile
bob,007,2024-01-08T10:00:00Z,view,,mobile
ann,7,2024-01-09T10:00:00Z,view,,mobile
ann,007,2024-01-10T10:00:00Z,view,,mobile
"""
ITEMS = """\
sku,name,tags,maker,lat,lon,published,price
007,Lamp (1999),home| light,Acme,51.5,-0.1,2023-12-01,10
7,Desk,,,,,,NULL
ghost,Chair (2001),home,Acme;Bolt,48.8,2.3,2023-12-02T12:00:00,1e2
"""
USERS = 'id,place,age\nann,"Lyon, france",31\nzoe,Oslo,\n'
SCHEMA = r"""
name: shop
interactions:
  - path: events.csv
    user: visitor
    item: sku
    time: at
    event: kind
    value: price
    context: {device: {role: categorical}}
events:
  view: {weight: 0.5}
  rate: {weight: 1.0, positive_at: 7}
  buy: {weight: 3.0}
items:
  - path: items.csv
    id: sku
    features:
      name: {role: title}
      tags: {role: multi_categorical}
      maker: {role: creator, separator: ";"}
      year: {role: numeric, column: name, extract: "\\((\\d{4})\\)"}
      price: {role: numeric}
      where: {role: geo, latitude: lat, longitude: lon}
      published: {role: timestamp}
users:
  - path: users.csv
    features:
      country: {role: geo, column: place, extract: "([^,]+)$"}
      age: {role: numeric}
"""


class Shop:
    """A folder with files, a schema, and what the import makes of them."""

    def __init__(self, folder: Path) -> None:
        self.source, self.out = folder / "source", folder / "work" / "dataset"
        self.source.mkdir()
        self.schema = SCHEMA
        self.write("events.csv", EVENTS)
        self.write("items.csv", ITEMS)
        self.write("users.csv", USERS)

    def write(self, name: str, text: str | bytes) -> None:
        (self.source / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    def replace(self, old: str, new: str) -> None:
        """In the schema."""
        assert old in self.schema
        self.schema = self.schema.replace(old, new)

    def run(self) -> ImportReport:
        return import_dataset(Schema.parse(self.schema), self.source, self.out)

    def load(self) -> Dataset:
        self.run()
        return Dataset.load(self.out)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def log(shop: Shop) -> Callable[..., Shop]:
    """A shop with nothing but interactions of the given rows, `user,item,time`, and a schema."""

    def build(*rows: str, header: str = "user,item,time", more: str = "") -> Shop:
        shop.write("events.csv", "\n".join([header, *rows]) + "\n")
        time = ", time: time" if "time" in header else ""
        shop.schema = f"name: s\ninteractions: [{{path: events.csv{time}}}]\n{more}"
        return shop

    return build


def bad_rows(report: ImportReport, table: str) -> dict[str, int]:
    return next(log.counts for log in report.bad_rows if log.table == table)


# --- what comes out ---


def test_a_strangers_files_become_a_data_set(shop: Shop) -> None:
    report = shop.run()
    assert (report.users, report.items, report.interactions) == (3, 4, 10)
    assert (report.train, report.validation, report.test) == (8, 1, 1)
    assert report.event_types == ("view", "rate", "buy")
    assert report.split_method == "time"
    assert (report.users_without_features, report.items_without_features) == (1, 1)


def test_rows_are_sorted_by_key_and_found_by_id_or_key(shop: Shop) -> None:
    data = shop.load()
    assert (np.diff(data.item_keys.astype(object)) > 0).all()
    assert data.item_keys.tolist() == [key_of(id) for id in data.item_ids.to_pylist()]
    row = data.item_row("007")
    assert row is not None
    assert data.item_ids[row].as_py() == "007"
    assert data.item_row(key_of("007")) == row
    assert data.item_row("never seen") is None
    assert data.user_ids[data.user_row("zoe")].as_py() == "zoe"


def test_features_take_the_types_of_their_roles(shop: Shop) -> None:
    data = shop.load()
    lamp = data.items.slice(data.item_row("007"), 1).to_pylist()[0]
    assert lamp["title"] == "Lamp (1999)"
    assert lamp["f_tags"] == ["home", "light"]
    assert lamp["f_maker"] == ["Acme"]
    assert lamp["f_year"] == 1999.0
    assert lamp["f_where_lat"] == 51.5
    assert lamp["published_ms"] == lamp["f_published"] == 1701388800000
    desk = data.items.slice(data.item_row("7"), 1).to_pylist()[0]
    assert {name for name, value in desk.items() if value is None} == {
        "published_ms",
        "f_tags",
        "f_maker",
        "f_year",
        "f_price",
        "f_where_lat",
        "f_where_lon",
        "f_published",
    }
    assert data.published_ms[data.item_row("7")] == UNKNOWN_TIME_MS
    ann = data.users.slice(data.user_row("ann"), 1).to_pylist()[0]
    assert (ann["f_country"], ann["f_age"]) == ("france", 31.0)


def test_an_item_known_from_interactions_only_has_no_features(shop: Shop) -> None:
    data = shop.load()
    assert data.item_titles[data.item_row("x9")].as_py() is None


def test_interactions_are_sorted_by_time_and_carry_weights(shop: Shop) -> None:
    data = shop.load()
    events = data.events
    assert (np.diff(events.time_ms) > 0).all()
    users = [data.user_ids[int(row)].as_py() for row in events.user]
    assert users == ["ann", "bob", "ann", "ann", "bob", "bob", "ann", "bob", "ann", "ann"]
    assert events.weight.tolist() == [0.5, 0.5, 3, 1, 0, 3, 0.5, 0.5, 0.5, 0.5]
    assert events.value[[2, 4]].tolist() == [9.5, 3.0]
    assert np.isnan(events.value[0])
    assert events.context["device"].to_pylist()[:3] == ["mobile", "desktop", None]
    assert [data.event_types[code] for code in events.event[:3]] == ["view", "view", "buy"]


def test_the_time_split_separates_past_from_future(shop: Shop) -> None:
    data = shop.load()
    train, test = data.rows_of_split("train"), data.rows_of_split("test")
    assert data.train_end_ms is not None
    assert data.events.time_ms[train].max() < data.train_end_ms
    assert data.events.time_ms[test].min() >= data.validation_end_ms
    assert data.events.time_ms[test].max() < data.test_end_ms
    assert len(data.rows_of_split(*SPLITS)) == len(data.events)


def test_the_schema_comes_back_as_it_went_in(shop: Shop) -> None:
    data = shop.load()
    assert data.schema == Schema.parse(SCHEMA)
    document = json.loads((shop.out / "dataset.json").read_text())
    assert document["counts"]["interactions"] == 10
    assert document["schema_sha256"] == data.schema.digest()


def test_the_same_files_give_the_same_bytes(shop: Shop) -> None:
    shop.run()
    first = {path.name: path.read_bytes() for path in shop.out.iterdir()}
    shop.run()
    assert first == {path.name: path.read_bytes() for path in shop.out.iterdir()}


def test_event_types_are_found_when_the_schema_names_none(shop: Shop) -> None:
    shop.replace(SCHEMA[SCHEMA.index("events:\n") : SCHEMA.index("items:\n")], "")
    report = shop.run()
    assert report.event_types == ("buy", "rate", "view")
    assert set(Dataset.load(shop.out).events.weight) == {1.0}


def test_every_format_gives_the_same_data_set(shop: Shop) -> None:
    expected = shop.load()
    header, *rows = [line.split(",") for line in EVENTS.splitlines()]
    columns = {name: [row[at] for row in rows] for at, name in enumerate(header)}
    pq.write_table(pa.table(columns), shop.source / "events.parquet")
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    shop.write("events.jsonl", "".join(json.dumps(row) + "\n" for row in cells))
    shop.write("events.tsv", EVENTS.replace(",", "\t"))
    shop.write("events.dat", EVENTS.replace(",", "::"))
    for path in ("events.parquet", "events.jsonl", "events.tsv", "events.dat"):
        shop.schema = SCHEMA.replace("events.csv", path)
        if path == "events.dat":
            shop.replace(path, f"{path}\n    format: {{type: separated, separator: '::'}}")
        data = shop.load()
        for name in ("user", "item", "event", "weight", "time_ms", "split"):
            assert (getattr(data.events, name) == getattr(expected.events, name)).all()


def test_many_files_of_one_glob_are_one_table(shop: Shop) -> None:
    header, *rows = EVENTS.splitlines(keepends=True)
    (shop.source / "events.csv").unlink()
    for at, row in enumerate(rows):
        shop.write(f"events-{at:02}.csv", header + row)
    shop.replace("path: events.csv", 'path: "events-*.csv"')
    assert shop.run().interactions == 10


def test_tables_with_other_features_are_joined_by_id(shop: Shop) -> None:
    shop.write("stock.csv", "id,left\n007,3\nx9,4\n")
    shop.replace("users:\n", "  - path: stock.csv\n    features: {left: {role: numeric}}\nusers:\n")
    data = shop.load()
    assert data.items["f_left"][data.item_row("x9")].as_py() == 4.0
    assert data.items["f_left"][data.item_row("7")].as_py() is None


# --- repeated rows ---


def test_a_repeated_interaction_is_merged_and_the_last_value_stays(log: Any) -> None:
    shop = log("u,i,5,1", "v,i,6,1", "u,i,5,2", "u,j,5,1", header="user,item,time,stars")
    shop.replace("time: time", "time: time, value: stars")
    shop.schema += "split: {method: random}"
    report = shop.run()
    data = Dataset.load(shop.out)
    assert report.interactions == 3
    assert report.merged_rows["interactions"] == 1
    row = (data.events.user == data.user_row("u")) & (data.events.item == data.item_row("i"))
    assert data.events.value[row].tolist() == [2.0]


def test_equal_times_keep_the_order_of_the_file(log: Any) -> None:
    names = [f"u{n}" for n in np.random.default_rng(0).permutation(50)]
    data = log(*(f"{name},i,7" for name in names), more="split: {method: random}").load()
    assert [data.user_ids[int(row)].as_py() for row in data.events.user] == names


def test_a_repeated_item_is_merged_and_a_conflicting_one_is_bad(shop: Shop) -> None:
    shop.schema += "bad_rows: {max_fraction: 0.5}\n"
    shop.write("items.csv", ITEMS + "7,Desk,,,,,,NULL\n007,Other,,,,,,\n")
    report = shop.run()
    assert report.merged_rows["items[0]"] == 1
    assert bad_rows(report, "items[0]") == {"duplicate id": 1}
    example = report.bad_rows[1].examples["duplicate id"][0]
    assert example.where == "items.csv:6"
    data = Dataset.load(shop.out)
    assert data.item_titles[data.item_row("007")].as_py() == "Lamp (1999)"


# --- bad rows ---


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",7,2024-01-01,view,,", "empty user id"),
        ("ann,,2024-01-01,view,,", "empty item id"),
        ("ann,7,,view,,", "empty time"),
        ("ann,7,soon,view,,", "unparsable time"),
        ("ann,7,2024-01-01,view,dear,", "unparsable value"),
        ("ann,7,2024-01-01,view,NaN,", "value is NaN or infinite"),
        ("ann,7,2024-01-01,view,-inf,", "value is NaN or infinite"),
        ("ann,7,2024-01-01,view,1e300,", "value is NaN or infinite"),
        ("ann,7,2024-01-01,wave,,", "unknown event type"),
        ("ann,7,2024-01-01,,,", "empty event type"),
        ("ann,7", "wrong number of columns"),
        ('"a\nb",7,2024-01-01,view,,', "line break in user id"),
    ],
)
def test_a_bad_interaction_is_counted_by_its_reason(shop: Shop, row: str, reason: str) -> None:
    shop.schema += "bad_rows: {max_fraction: 0.1}\n"
    shop.write("events.csv", EVENTS + row + "\n")
    report = shop.run()
    assert report.interactions == 10
    assert bad_rows(report, "interactions[0]") == {reason: 1}
    example = report.bad_rows[0].examples[reason][0]
    assert example.where == "events.csv:12"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",Name,,,,,,", "empty id"),
        ("a,Name,,,,,,cheap", "unparsable number in `price`"),
        ("a,Name,,,,,,inf", "infinite number in `price`"),
        ("a,Name,,,91,0,,", "`lat` is beyond 90 degrees"),
        ("a,Name,,,0,181,,", "`lon` is beyond 180 degrees"),
        ("a,Name,,,,,last year,", "unparsable time in `published`"),
    ],
)
def test_a_bad_item_is_counted_by_its_reason(shop: Shop, row: str, reason: str) -> None:
    shop.schema += "bad_rows: {max_fraction: 0.3}\n"
    shop.write("items.csv", ITEMS + row + "\n")
    assert bad_rows(shop.run(), "items[0]") == {reason: 1}


def test_too_many_bad_rows_are_refused_with_their_reasons(shop: Shop) -> None:
    shop.write("events.csv", EVENTS + "ann,,2024-01-01,view,,\n,7,2024-01-01,view,,\n")
    with pytest.raises(TooManyBadRows) as refused:
        shop.run()
    text = str(refused.value)
    assert "interactions[0]: 2 of 12 rows are bad" in text
    assert "1  empty item id" in text
    assert "events.csv:12: visitor=ann, sku=, at=2024-01-01" in text
    assert not shop.out.exists()


def test_a_table_of_bad_rows_only_is_refused(shop: Shop) -> None:
    shop.schema += "bad_rows: {max_fraction: 1}\n"
    shop.write("events.csv", EVENTS.splitlines()[0] + "\nann,,2024-01-01,view,,\n")
    with pytest.raises(EmptySource, match="empty item id"):
        shop.run()


def test_bad_rows_are_kept_in_the_data_set(shop: Shop) -> None:
    shop.schema += "bad_rows: {max_fraction: 0.1}\n"
    shop.write("events.csv", EVENTS + "ann,,2024-01-01,view,,\n")
    found = shop.load().info.bad_rows["interactions[0]"]
    assert (found["rows"], found["bad"]) == (11, 1)
    assert found["reasons"]["empty item id"]["examples"][0]["where"] == "events.csv:12"


# --- what is refused as a whole ---


def test_a_missing_file_is_refused(shop: Shop) -> None:
    (shop.source / "items.csv").unlink()
    with pytest.raises(SourceMissing, match=r"items\.csv.*events\.csv, users\.csv"):
        shop.run()


def test_a_missing_column_is_refused(shop: Shop) -> None:
    shop.replace("time: at", "time: when")
    with pytest.raises(MissingColumn, match="'when'"):
        shop.run()


def test_an_id_column_taken_for_the_event_type_is_refused(log: Any) -> None:
    shop = log(*(f"u{n},i,{n}" for n in range(300)))
    shop.replace("time: time", "time: time, event: user")
    with pytest.raises(TooManyEventTypes, match="300 event types"):
        shop.run()


def test_events_without_any_positive_are_refused(shop: Shop) -> None:
    for weight in ("0.5", "1.0", "3.0"):
        shop.replace(f"weight: {weight}", "weight: 0")
    with pytest.raises(NoPositives):
        shop.run()


def test_two_ids_with_one_key_are_refused_by_name(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_bit = lambda texts: ids.keys_of(texts) & np.uint64(1)  # noqa: E731
    monkeypatch.setattr(importer, "keys_of", one_bit)
    with pytest.raises(KeyCollision, match="have the same key"):
        shop.run()


# --- splits ---


def test_without_times_and_without_a_wish_the_split_is_random_and_says_so(log: Any) -> None:
    shop = log(*(f"u{n % 9},i{n}" for n in range(200)), header="user,item")
    report = shop.run()
    assert report.split_method == "random"
    assert any("no times" in note for note in report.notes)
    data = Dataset.load(shop.out)
    assert not data.has_time
    assert not data.events.time_ms.any()
    assert data.train_end_ms is None


def test_a_wish_for_a_time_split_without_times_is_refused(log: Any) -> None:
    shop = log("u,i", header="user,item", more="split: {method: time}")
    with pytest.raises(SplitImpossible, match=r"interactions\[0\] has none"):
        shop.run()


def test_leave_last_out_holds_out_each_users_last_item(log: Any) -> None:
    rows = [f"u{n % 3},i{n},{n}" for n in range(30)]
    data = log(*rows, more="split: {method: leave_last_out}").load()
    test = data.rows_of_split("test")
    assert sorted(data.events.time_ms[test].tolist()) == [27_000, 28_000, 29_000]


def test_given_files_keep_their_parts(shop: Shop) -> None:
    shop.write("train.txt", "a 1 2 3\nb 2 3\n")
    shop.write("test.txt", "a 4\nb 1\n")
    shop.schema = """
name: lists
interactions:
  - {path: train.txt, format: lists, split: train}
  - {path: valid.txt, format: lists, split: validation, optional: true}
  - {path: test.txt, format: lists, split: test}
split: {method: given, validation_fraction: 0.3}
"""
    report = shop.run()
    assert report.test == 2
    assert report.train + report.validation == 5
    assert any("valid.txt is absent" in note for note in report.notes)
    assert any("no validation file" in note for note in report.notes)
    shop.write("valid.txt", "a 9\n")
    report = shop.run()
    assert (report.train, report.validation, report.test) == (5, 1, 2)


def test_a_pair_given_to_two_parts_stays_in_both(shop: Shop) -> None:
    shop.write("train.txt", "a 1 2 2\n")
    shop.write("test.txt", "a 1\n")
    shop.schema = """
name: lists
interactions:
  - {path: train.txt, format: lists, split: train}
  - {path: test.txt, format: lists, split: test}
split: {method: given, validation_fraction: 0}
"""
    report = shop.run()
    assert (report.train, report.test, report.merged_rows["interactions"]) == (2, 1, 1)


# --- on disk ---


def test_a_failed_import_leaves_the_old_data_set_alone(shop: Shop) -> None:
    shop.run()
    before = (shop.out / "dataset.json").read_bytes()
    shop.write("events.csv", "")
    with pytest.raises(EmptySource):
        shop.run()
    assert (shop.out / "dataset.json").read_bytes() == before


def test_a_failure_while_writing_leaves_the_old_data_set_and_no_litter(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.run()
    before = (shop.out / "dataset.json").read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("training.dataset.pq.write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        shop.run()
    assert (shop.out / "dataset.json").read_bytes() == before
    assert [path.name for path in shop.out.parent.iterdir()] == ["dataset"]
    assert Dataset.load(shop.out).n_items == 4


def test_a_new_import_replaces_the_old_data_set(shop: Shop) -> None:
    shop.run()
    (shop.out / "leftover").touch()
    shop.write("events.csv", EVENTS + "cid,7,2024-02-01T00:00:00Z,view,,\n")
    assert shop.load().user_row("cid") is not None
    assert not (shop.out / "leftover").exists()
    assert [path.name for path in shop.out.parent.iterdir()] == ["dataset"]


@pytest.mark.parametrize("name", ["items.parquet", "users.parquet", "interactions.parquet"])
def test_an_altered_or_missing_table_is_not_loaded(shop: Shop, name: str) -> None:
    shop.run()
    path = shop.out / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetUnreadable, match=f"{name} does not match"):
        Dataset.load(shop.out)
    path.unlink()
    with pytest.raises(DatasetUnreadable, match=name):
        Dataset.load(shop.out)


def test_a_folder_without_a_data_set_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnreadable, match="no data set in"):
        Dataset.load(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": 99}')
    with pytest.raises(DatasetUnreadable, match="format"):
        Dataset.load(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": ')
    with pytest.raises(DatasetUnreadable, match="damaged"):
        Dataset.load(tmp_path)


def test_progress_is_told(shop: Shop) -> None:
    told: list[str] = []
    import_dataset(
        Schema.parse(shop.schema),
        shop.source,
        shop.out,
        progress=lambda what, done, total: told.append(what),
    )
    assert told[0] == "reading events.csv"
    assert told[-1] == "writing"


# --- real data ---


@pytest.mark.parametrize(
    ("preset", "folder", "users", "items", "interactions", "bad"),
    [
        ("movietweetings", "movietweetings-100k", 16_554, 10_506, 100_000, 0),
        ("movielens", "ml-latest-small", 610, 9_742, 100_836, 0),
        ("book-crossing", "book-crossing", 2_946, 17_384, 335_334, 266),
        ("gowalla", "gowalla", 29_858, 40_981, 1_027_370, 0),
    ],
)
def test_presets_import_real_data(
    preset: str,
    folder: str,
    users: int,
    items: int,
    interactions: int,
    bad: int,
    data_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    source = data_folder(folder)
    report = import_dataset(load_preset(preset, source), source, tmp_path / "dataset")
    assert (report.users, report.items, report.interactions) == (users, items, interactions)
    assert sum(log.bad for log in report.bad_rows) == bad
    data = Dataset.load(tmp_path / "dataset")
    assert len(data.events) == interactions
    assert min(report.train, report.validation, report.test) > 0
