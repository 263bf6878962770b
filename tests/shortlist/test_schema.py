from __future__ import annotations

from pathlib import Path

import pytest

from shortlist.schema import FileFormat, InvalidSchema, Schema

SHOP = r"""
name: my-shop
interactions:
  - path: events.csv
    user: visitor
    item: sku
    time: at
    event: kind
    value: price
    context: {device: {role: categorical}}
events:
  view: {weight: 1}
  purchase: {weight: 3.0, positive_at: 1, head: buy}
items:
  - path: items.csv
    id: sku
    features:
      name: {role: title}
      year: {role: numeric, column: name, extract: "\\((\\d{4})\\)$"}
users:
  - path: users.csv
    features:
      place: {role: geo, latitude: lat, longitude: lon}
"""


def refused(text: str) -> dict[str, str]:
    with pytest.raises(InvalidSchema) as error:
        Schema.parse(text, source="shop.yaml")
    assert "shop.yaml" in str(error.value)
    return dict(error.value.violations)


def test_a_shop_needs_few_lines() -> None:
    schema = Schema.parse(SHOP)
    table = schema.interactions[0]
    assert table.path == ("events.csv",)
    assert table.source_columns == ("visitor", "sku", "at", "kind", "price", "device")
    assert schema.items[0].source_columns == ("sku", "name")
    assert schema.users[0].source_columns == ("id", "lat", "lon")
    assert list(schema.item_features) == ["name", "year"]
    assert schema.split is None


def test_the_smallest_schema_is_one_file() -> None:
    schema = Schema.parse("{name: s, interactions: [{path: events.csv}]}")
    assert schema.interactions[0].constant_event == "interaction"
    assert schema.event("interaction").weight == 1.0
    assert schema.bad_rows.max_fraction == 0.01


def test_a_head_is_the_event_unless_named() -> None:
    schema = Schema.parse(SHOP)
    assert schema.head_of("view") == "view"
    assert schema.head_of("purchase") == "buy"


def test_a_dump_is_the_same_schema() -> None:
    schema = Schema.parse(SHOP)
    for full in (True, False):
        dump = schema.model_dump(mode="json", exclude_defaults=not full)
        assert Schema.of(dump) == schema
    assert Schema.of(schema.model_dump(mode="json")).digest() == schema.digest()


def test_the_digest_follows_the_meaning(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text("# a comment\n" + SHOP)
    assert Schema.load(path).digest() == Schema.parse(SHOP).digest()
    assert Schema.parse(SHOP.replace("sku", "id")).digest() != Schema.parse(SHOP).digest()


@pytest.mark.parametrize(
    ("old", "new", "path", "text"),
    [
        ("role: numeric", "role: nummeric", "items[0].features.year.role", "'numeric'"),
        ("name: my-shop", "", "name", "is required"),
        ("user: visitor", "usr: visitor", "interactions[0].usr", "did you mean `user`"),
        ("weight: 1}", "weight: -1}", "events.view.weight", "greater than or equal to 0"),
        ("weight: 1}", "weight: .inf}", "events.view.weight", "finite"),
        ("weight: 1}", "weight: '1'}", "events.view.weight", "number"),
        ("  view:", "  1:", "events[1]", "string"),
        ("(\\\\d{4})", "\\\\d{4}", "items[0].features.year", "group"),
        ("(\\\\d{4})", "(\\\\d{4}", "items[0].features.year", "regular expression"),
        ("latitude: lat, ", "", "users[0].features.place", "come together"),
        ("event: kind", "event: kind\n    event_type: view", "interactions[0]", "either"),
        ("user: visitor", "user: sku", "interactions[0]", "same column"),
        ("path: events.csv", "path: a.txt\n    format: lists", "interactions[0]", "items only"),
        ("role: categorical", "role: numeric", "interactions[0]", "context `device`"),
        ("      name:", "      na me:", "items[0].features.na me", "letters"),
        ("path: events.csv", "path: []", "interactions[0].path", "at least 1"),
    ],
)
def test_a_mistake_is_named_by_its_path(old: str, new: str, path: str, text: str) -> None:
    assert old in SHOP
    violations = refused(SHOP.replace(old, new, 1))
    assert list(violations) == [path]
    assert text in violations[path]


def test_all_mistakes_are_told_at_once() -> None:
    violations = refused(SHOP.replace("weight: 1}", "weight: x}").replace("name: my-shop", ""))
    assert set(violations) == {"name", "events.view.weight"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "not YAML"),
        ("just text", "mapping"),
        ("", "mapping"),
        ("name: a\nname: b", "`name` appears twice"),
        ("{name: a, interactions: {path: x}}", "must be a list"),
        ("{name: a, interactions: []}", "at least 1"),
    ],
)
def test_what_is_no_schema_is_refused(text: str, said: str) -> None:
    assert any(said in description for description in refused(text).values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("interactions: [{path: a.txt, split: train}]", "needs `split: {method: given}`"),
        ("interactions: [{path: a.txt}]\nsplit: {method: given}", "split: is required"),
        (
            "interactions: [{path: a.txt, split: test}]\nsplit: {method: given}",
            "no table has `split: train`",
        ),
        (
            "interactions: [{path: a.csv}]\nsplit: {validation_fraction: 0.5, test_fraction: 0.5}",
            "below 1",
        ),
        ("interactions: [{path: a.csv, event_type: b}]\nevents: {view: {}}", "not among events"),
        ("interactions: [{path: a.csv}]\nevents: {interaction: {positive_at: 3}}", "`value`"),
        (
            "interactions: [{path: a.csv}]\n"
            "items: [{path: b.csv, features: {t: {role: text}}}, "
            "{path: c.csv, features: {t: {role: text}}}]",
            "`t` is defined by two tables",
        ),
        (
            "interactions: [{path: a.csv}]\n"
            "users: [{path: b.csv, features: {name: {role: title}}}]",
            "users: role title belongs to items",
        ),
    ],
)
def test_parts_that_contradict_each_other_are_refused(text: str, said: str) -> None:
    assert any(said in description for description in refused(f"name: s\n{text}").values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{type: separated}", "needs a `separator`"),
        ("{type: csv, header: false}", "`columns`"),
        ("{type: parquet, separator: ';'}", "neither"),
        ("{type: csv, separator: '::'}", "one byte"),
        ("{type: csv, encoding: latin-99}", "unknown encoding"),
        ("xml", "'csv'"),
    ],
)
def test_formats_that_cannot_be_are_refused(text: str, said: str) -> None:
    violations = refused(f"{{name: s, interactions: [{{path: a.csv, format: {text}}}]}}")
    assert any(said in description for description in violations.values())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.csv", "csv"), ("a.TSV", "tsv"), ("a.jsonl.gz", "jsonl"), ("a.parquet", "parquet")],
)
def test_the_ending_tells_the_format(name: str, kind: str) -> None:
    known = FileFormat.of(Path(name))
    assert known is not None
    assert known.type == kind
    assert FileFormat.of(Path("ratings.dat")) is None


def test_columns_stand_in_for_a_header() -> None:
    named = FileFormat(type="csv", columns=("a", "b"))
    assert not named.has_header
    assert FileFormat(type="csv").has_header
