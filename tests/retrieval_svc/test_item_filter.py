"""Filters over the columns of a slice, against the same question asked item by item."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from retrieval_svc.item_table import ItemTable
from shortlist.errors import InvalidField
from shortlist.filters import (
    And,
    Comparator,
    Compare,
    Exists,
    Expression,
    Has,
    In,
    Moment,
    Not,
    Or,
    Unless,
    Value,
    normal,
    text_of,
)

ROLES = {"genre": "categorical", "tags": "multi_categorical", "price": "numeric", "aired": "time"}
TESTS: Mapping[Comparator, Any] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
DAY_MS = 86_400_000
Item = Mapping[str, Any]  # what an item has; what it lacks is not there

ITEMS: list[Item] = [
    {"genre": "drama", "tags": ["old", "good"], "price": 3.0, "published_at": 5 * DAY_MS},
    {"genre": "Drama", "tags": ["good"], "price": 0.1, "aired": 0},
    {"tags": ["new"], "price": -1.5, "published_at": 0},
    {"genre": "jazz", "published_at": 3 * DAY_MS},
    {"genre": "", "tags": [], "price": 16777216.0},
]


def table_of(items: list[Item]) -> ItemTable:
    def column(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([item.get(name) for item in items], kind)

    columns = {
        "id": pa.array([f"i{n}" for n in range(len(items))], pa.string()),
        "title": pa.array([None if n % 2 else f"T {n}" for n in range(len(items))], pa.string()),
        "published_ms": column("published_at", pa.int64()),
        "f_genre": column("genre", pa.string()),
        "f_tags": column("tags", pa.list_(pa.string())),
        "f_price": column("price", pa.float32()),
        "f_aired": column("aired", pa.int64()),
    }
    return ItemTable(pa.table(columns), ROLES)


def matching(filter: str, items: list[Item] = ITEMS) -> list[int]:
    mask = table_of(items).matching(filter)
    assert mask is not None
    assert len(mask) == len(items)
    return mask.rows.tolist()


@pytest.mark.parametrize(
    ("filter", "rows"),
    [
        ('genre = "drama"', [0]),
        ('genre != "drama"', [1, 3, 4]),
        ('genre IN ("jazz", "drama", "x")', [0, 3]),
        ('genre >= "drama"', [0, 3]),
        ("EXISTS(genre)", [0, 1, 3, 4]),
        ("genre IS NULL", [2]),
        ('tags = "good"', [0, 1]),
        ('tags HAS "old"', [0]),
        ('tags != "good"', [2]),
        ('tags NOT IN ("new", "old")', [1]),
        ("EXISTS(tags)", [0, 1, 2]),
        ("price = 0.1", [1]),
        ("price < 0", [2]),
        ("price <= 3 AND price != 3", [1, 2]),
        ("price < 1e300", [0, 1, 2, 4]),
        ("price > -1e300", [0, 1, 2, 4]),
        ("price IS NULL", [3]),
        ('published_at >= "1970-01-04"', [0, 3]),
        ('published_at = "1970-01-04T02:00:00+02:00"', [3]),
        (f"published_at > time({3 * DAY_MS})", [0]),
        (f"published_at IN (0, {3 * DAY_MS})", [2, 3]),
        ("published_at < 1e300", [0, 2, 3]),
        ("aired <= 0.4", [1]),
        ('id IN ("i4", "i0")', [0, 4]),
        ('title = "T 2"', [2]),
        ('NOT (genre = "drama" OR price < 0)', [1, 4]),
        ('genre = "jazz" OR price > 100', [3, 4]),
        ('NOT (genre = "jazz" AND price > 100)', [0, 1, 2, 4]),
        ('UNLESS genre = "drama"', [1, 2, 3, 4]),
        ('NOT UNLESS genre = "drama"', [0]),
        ('UNLESS NOT genre = "drama"', [0, 2]),
    ],
)
def test_a_filter_says_which_items_match(filter: str, rows: list[int]) -> None:
    assert matching(filter) == rows


def test_no_filter_is_no_mask() -> None:
    assert table_of(ITEMS).matching("") is None


def test_an_empty_slice_matches_nothing() -> None:
    assert matching('tags = "good" OR price > 3 AND UNLESS genre = "x"', []) == []


@pytest.mark.parametrize(
    ("filter", "error"),
    [
        (
            "mood = 1",
            "no attribute 'mood'; there are: id, title, published_at, genre, tags, price, aired",
        ),
        ("genre = 3", "'genre' holds texts, so 'genre = 3' cannot be"),
        ('price = "3"', "'price' holds numbers"),
        ("price > time(3)", "'price' holds numbers"),
        ("genre = time(3)", "'genre' holds texts"),
        ('genre HAS "x"', "'genre' has one value; ask with ="),
        ('tags < "x"', "'tags' has several values; ask with =, IN or HAS, not <"),
        ('aired = "yesterday"', "'aired' holds times: .*'yesterday' is none of these"),
        ("aired < now()", "now\\(\\) must be fixed"),
        ("genre =", "at character 8"),
        ('mood = 1 AND genre = "x"', "no attribute 'mood'"),
        ("EXISTS(mood)", "no attribute 'mood'"),
    ],
)
def test_what_the_items_cannot_answer_is_an_error(filter: str, error: str) -> None:
    with pytest.raises(InvalidField, match=error) as refused:
        matching(filter)
    assert refused.value.violations[0][0] == "filter"


def test_without_a_column_of_times_published_at_is_unknown() -> None:
    table = ItemTable(pa.table({"id": ["a"], "title": ["b"]}), {})
    with pytest.raises(InvalidField, match="there are: id, title"):
        table.matching("published_at > 0")


def test_a_feature_goes_before_what_every_item_has_of_that_name() -> None:
    table = pa.table({"id": ["a"], "title": ["b"], "f_title": ["c"]})
    found = ItemTable(table, {"title": "text"}).matching('title = "c"')
    assert found is not None
    assert found.count == 1


def test_any_filter_matches_what_it_says_item_by_item() -> None:
    rng = np.random.default_rng(3)
    items = [random_item(rng) for _ in range(200)]
    table = table_of(items)
    found = 0
    for _ in range(300):
        expression = random_expression(rng, 3)
        expected = [n for n, item in enumerate(items) if truth(expression, item) is True]
        mask = table.matching(text_of(normal(expression)))
        assert mask is not None
        assert mask.rows.tolist() == expected, text_of(expression)
        found += len(expected)
    assert 0.1 < found / (300 * len(items)) < 0.9


def test_part_of_a_table_answers_for_its_part() -> None:
    """Columns that begin in the middle of their buffers, and come in several pieces."""
    whole = table_of(ITEMS)._table
    parts = ItemTable(pa.concat_tables([whole.slice(3, 1), whole.slice(0, 2)]), ROLES)
    found = parts.matching('tags = "good" OR genre = "jazz"')
    assert found is not None
    assert found.rows.tolist() == [0, 1, 2]


def test_the_same_text_is_answered_by_the_same_mask() -> None:
    table = table_of(ITEMS)
    first = table.matching("price > 0")
    assert table.matching("price > 0") is first
    assert table.matching("price > 1") is not first


def truth(expression: Expression, item: Item) -> bool | None:
    """As SQL has it; None = not known."""
    match expression:
        case Exists(name):
            return present(item, name)
        case Not(inner):
            known = truth(inner, item)
            return None if known is None else not known
        case Unless(inner):
            return truth(inner, item) is not True
        case And(parts):
            found = [truth(part, item) for part in parts]
            return False if False in found else None if None in found else True
        case Or(parts):
            found = [truth(part, item) for part in parts]
            return True if True in found else None if None in found else False
    if not present(item, expression.attribute):
        return None
    own = item[expression.attribute]
    match expression:
        case In(_, values):
            wanted = [plain(value) for value in values]
            return any(one in wanted for one in own) if isinstance(own, list) else own in wanted
        case Has(_, value):
            return plain(value) in own
        case Compare(_, comparator, value):
            return bool(TESTS[comparator](own, plain(value)))


def present(item: Item, name: str) -> bool:
    return item.get(name) not in (None, [])


def plain(value: Value) -> Any:
    return value.ms if isinstance(value, Moment) else value


def random_item(rng: np.random.Generator) -> Item:
    item = {
        "genre": str(rng.choice(["a", "b", "c"])),
        "tags": [str(tag) for tag in rng.choice(["p", "q", "r"], int(rng.integers(0, 3)))],
        "price": float(rng.integers(-2, 3)) / 4,
        "published_at": int(rng.integers(0, 5)),
    }
    return {name: value for name, value in item.items() if rng.random() < 0.8}


def random_expression(rng: np.random.Generator, depth: int) -> Expression:
    kind = int(rng.integers(5 if depth == 0 else 9))
    if kind == 0:
        return In("genre", tuple(rng.choice(["a", "b", "d"], 2).tolist()))
    if kind == 1:
        return In("tags", tuple(rng.choice(["p", "q", "s"], 2).tolist()))
    if kind == 2:
        return Has("tags", str(rng.choice(["p", "q"])))
    if kind == 3:
        name = str(rng.choice(["genre", "tags", "price", "published_at"]))
        return Exists(name)
    if kind == 4:
        comparator = list(TESTS)[int(rng.integers(4))]
        if rng.random() < 0.5:
            return Compare("price", comparator, float(rng.integers(-2, 3)) / 4)
        return Compare("published_at", comparator, Moment(int(rng.integers(0, 5))))
    if kind == 5:
        return Not(random_expression(rng, depth - 1))
    if kind == 6:
        return Unless(random_expression(rng, depth - 1))
    parts = tuple(random_expression(rng, depth - 1) for _ in range(int(rng.integers(2, 4))))
    return And(parts) if kind == 7 else Or(parts)
