from __future__ import annotations

import numpy as np
import pytest

from shortlist.errors import InvalidField
from shortlist.filters import (
    CLIENT_LIMITS,
    And,
    Comparator,
    Compare,
    Exists,
    Expression,
    FilterLimits,
    Has,
    In,
    Moment,
    Not,
    Now,
    Or,
    Unless,
    Value,
    all_of,
    at_moment,
    none_of,
    normal,
    parse,
    text_of,
)

DAY_MS = 86_400_000
_COMPARATORS: tuple[Comparator, ...] = ("<", "<=", ">", ">=")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a = 1", In("a", (1.0,))),
        ("a == 'x'", In("a", ("x",))),
        ("a != -2.5e1", Not(In("a", (-25.0,)))),
        ('a <> "x"', Not(In("a", ("x",)))),
        ("a < .5", Compare("a", "<", 0.5)),
        ("a<=1.", Compare("a", "<=", 1.0)),
        ("a >= now()", Compare("a", ">=", Now(0))),
        ("a > now() - 30d", Compare("a", ">", Now(-30 * DAY_MS))),
        ("a > NOW ( )+2w", Compare("a", ">", Now(14 * DAY_MS))),
        ("a > time(-5)", Compare("a", ">", Moment(-5))),
        ("a IN ('x', 2)", In("a", ("x", 2.0))),
        ("a not in ('x')", Not(In("a", ("x",)))),
        ("a HAS 'x'", Has("a", "x")),
        ("a contains 'x'", Has("a", "x")),
        ("EXISTS(a)", Exists("a")),
        ("a IS NULL", Not(Exists("a"))),
        ("a is Not null", Exists("a")),
        ("UNLESS a = 1", Unless(In("a", (1.0,)))),
        ("`not` = 1", In("not", (1.0,))),
        ("`a b` = 1", In("a b", (1.0,))),
        (r'a = "say \"hi\" \\ \'"', In("a", ('say "hi" \\ \'',))),
        ("a = '\"\n€'", In("a", ('"\n€',))),
        ("a = -0", In("a", (0.0,))),
        (" \n((a = 1)) ", In("a", (1.0,))),
    ],
)
def test_a_text_means_an_expression(text: str, meant: Expression) -> None:
    assert parse(text) == meant


def test_and_binds_more_than_or_and_not_more_than_both() -> None:
    a, b, c = (In(name, (1.0,)) for name in "abc")
    assert parse("a=1 OR b=1 AND c=1") == Or((a, And((b, c))))
    assert parse("(a=1 OR b=1) AND c=1") == And((Or((a, b)), c))
    assert parse("NOT a=1 AND b=1") == And((Not(a), b))
    assert parse("NOT (a=1 AND b=1)") == Not(And((a, b)))
    assert parse("not unless not a=1") == Not(Unless(Not(a)))


@pytest.mark.parametrize(
    ("duration", "ms"),
    [("500ms", 500), ("45s", 45_000), ("90m", 5_400_000), ("12h", 43_200_000), ("1d", DAY_MS)],
)
def test_durations_have_units(duration: str, ms: int) -> None:
    assert parse(f"a < now() + {duration}") == Compare("a", "<", Now(ms))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "at character 1: expected the name of an attribute, found the end"),
        ("a", "at character 2: expected =, !="),
        ("a = b", "at character 5: expected a text in quotes, a number or now\\(\\), found b"),
        ("a in ()", "at character 7: expected a text"),
        ("a in (1", "at character 8: expected \\), found the end"),
        ("a in (1,)", "at character 9: expected a text"),
        ("(a=1", "at character 5: expected \\)"),
        ("a=1)", "at character 4: expected AND, OR or the end, found \\)"),
        ("a=1 b=2", "at character 5: expected AND, OR or the end, found b"),
        ("a=1 AND", "at character 8: expected the name"),
        ("a='x", "at character 3: a text that is not closed"),
        (r"a='\n'", "at character 3: a text that is not closed, or has an escape other"),
        ("a=30dd", "at character 3: '30dd' is neither a number nor a duration"),
        ("a=1e999", "at character 3: 1e999 is too large"),
        ("a=now()-3", "at character 9: expected a duration"),
        ("a=now()-9999999999999999d", "at character 9: 9999999999999999d is too far away"),
        ("a=time(1.5)", "at character 8: 1.5 is no whole number"),
        ("a=time(1e17)", "at character 8: 1e17 is too far away"),
        ("and = 3", "found and; a name like that goes in backticks"),
        ("exists a", "at character 8: expected \\(, found a"),
        ("a not = 1", "at character 7: expected IN, found ="),
        ("a is 1", "at character 6: expected NULL, found 1"),
        ("a = €", "at character 5: unexpected '€'"),
        ("`` = 1", "at character 1: a name that is empty or not closed"),
        ("a = 1;", "at character 6: unexpected ';'"),
        ("a\x00 = 1", "at character 2: unexpected"),
        ("a = \ud800", "surrogates not allowed at character 5"),
        ("١ = 1", "at character 1: unexpected|neither a number"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, error: str) -> None:
    with pytest.raises(InvalidField, match=error) as refused:
        parse(text)
    assert refused.value.violations[0][0] == "filter"


def test_a_mistake_can_be_of_another_field() -> None:
    with pytest.raises(InvalidField, match=r"serving\.filter: at character 4"):
        parse("a =", field="serving.filter")


def test_filters_have_limits() -> None:
    assert FilterLimits(bytes=4096, depth=32, literals=1000) == CLIENT_LIMITS
    parse("a=1" + " " * 4093)
    with pytest.raises(InvalidField, match="at most 4096 bytes, got 4097"):
        parse("a=1" + " " * 4094)
    with pytest.raises(InvalidField, match="at most 4096 bytes"):
        parse(f"a='{'€' * 1400}'")
    parse("(" * 32 + "a=1" + ")" * 32)
    for opening, closing in (("(", ")"), ("NOT ", ""), ("unless ", "")):
        with pytest.raises(InvalidField, match="nested more than 32 deep"):
            parse(opening * 33 + "a=1" + closing * 33)
    parse(f"a in ({','.join('1' * 1000)})")
    with pytest.raises(InvalidField, match="has more than 1000 values"):
        parse(f"a in ({','.join('1' * 1001)})")


def test_long_chains_are_not_deep() -> None:
    assert len(parse(" or ".join(["a=1"] * 500)).parts) == 500  # type: ignore[union-attr]


def test_now_is_fixed_everywhere() -> None:
    text = "a > now()-1d AND (b IN (now(), 3) OR NOT c < now() AND UNLESS d HAS now() + 1s)"
    fixed = text_of(at_moment(parse(text), 5 * DAY_MS))
    assert "now" not in fixed
    assert fixed == (
        f"a > time({4 * DAY_MS}) AND (b IN (time({5 * DAY_MS}), 3) OR "
        f"NOT c < time({5 * DAY_MS}) AND UNLESS d HAS time({5 * DAY_MS + 1000}))"
    )
    assert at_moment(Exists("a"), 1) == Exists("a")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("b=2 and a=1", "a = 1 AND b = 2"),
        ("b=2 and (a=1 and c=3)", "a = 1 AND b = 2 AND c = 3"),
        ("a=1 or a=1.0", "a = 1"),
        ("a in (2,1,'x',2)", 'a IN ("x", 1, 2)'),
        ("a in (1)", "a = 1"),
        ("not not a != 1", "NOT a = 1"),
        ("not (not a=1 and not a=1)", "a = 1"),
        ("unless (b=1 or a=1)", "UNLESS (a = 1 OR b = 1)"),
    ],
)
def test_what_means_the_same_has_one_normal_form(text: str, form: str) -> None:
    assert text_of(normal(parse(text))) == form


def test_any_expression_survives_its_text_and_its_normal_form() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        expression = random_expression(rng, 4)
        assert parse(text_of(expression)) == expression
        form = normal(expression)
        assert parse(text_of(form)) == form == normal(form)


def test_blocked_values_leave_items_without_the_attribute() -> None:
    assert none_of({}) is None
    assert none_of({"a": ()}) is None
    assert none_of({"a": ("x",), "b": ("y", "z")}) == And(
        (Unless(In("a", ("x",))), Unless(In("b", ("y", "z"))))
    )


def test_a_name_cannot_say_more_than_a_name() -> None:
    blocked = none_of({"a` = 1 OR `a": ("x",)})
    assert blocked is not None
    with pytest.raises(InvalidField, match="no attribute can be called"):
        text_of(blocked)


def test_no_demand_is_no_filter() -> None:
    assert all_of([]) is None
    assert all_of([None, Exists("a"), None]) == Exists("a")
    assert all_of([Exists("a"), Exists("b")]) == And((Exists("a"), Exists("b")))


def random_expression(rng: np.random.Generator, depth: int) -> Expression:
    name = str(rng.choice(["a", "and", "b c", "published_at"]))
    kind = int(rng.integers(4 if depth == 0 else 8))
    if kind == 0:
        return In(name, tuple(random_value(rng) for _ in range(int(rng.integers(1, 4)))))
    if kind == 1:
        return Has(name, random_value(rng))
    if kind == 2:
        return Compare(name, _COMPARATORS[int(rng.integers(4))], random_value(rng))
    if kind == 3:
        return Exists(name)
    if kind == 4:
        return Not(random_expression(rng, depth - 1))
    if kind == 5:
        return Unless(random_expression(rng, depth - 1))
    parts: list[Expression] = []
    own = And if kind == 6 else Or
    while len(parts) < 2:
        part = random_expression(rng, depth - 1)
        parts += part.parts if isinstance(part, own) else [part]  # text has no nested chains
    return own(tuple(parts))


def random_value(rng: np.random.Generator) -> Value:
    choices: list[Value] = [
        "".join(map(str, rng.choice(list("xy\"'\\ €\n"), 3))),
        float(rng.normal() * 10.0 ** rng.integers(-30, 30)),
        float(rng.integers(-5, 5)),
        Moment(int(rng.integers(-(10**14), 10**14))),
        Now(int(rng.integers(-3, 3)) * DAY_MS),
    ]
    return choices[int(rng.integers(len(choices)))]


def test_nothing_but_a_filter_or_an_error_comes_of_any_text() -> None:
    """A filter with some of its words replaced by others, most of them out of place."""
    rng = np.random.default_rng(11)
    text = "NOT a IN ( 'x' , 3 ) AND ( b > now ( ) - 3d OR UNLESS exists ( `c` ) )"
    valid = text.split()
    others = [*valid, "=", "has", "is", "null", "time", "1e5", "`", '"', "\\", "\x00", "٣"]
    others.append("9" * 400)
    accepted = []
    for _ in range(3000):
        words = list(valid)
        for at in rng.integers(len(words), size=rng.integers(1, 4)):
            words[at] = others[int(rng.integers(len(others)))]
        found = _parsed(" ".join(words))
        accepted.append(found is not None)
        if found is not None:
            assert parse(text_of(normal(found))) == normal(found)
    assert 0.01 < np.mean(accepted) < 0.9


def _parsed(text: str) -> Expression | None:
    try:
        return parse(text)
    except InvalidField:
        return None
