"""The language of filters: from text to an expression and back. docs/filters.md describes it.

The orchestrator reads what a client wrote, adds what the server and the user demand, and fixes the
moment that `now()` means. What it sends to the shards is the normal form of that: the same demands
in another order, or spelt otherwise, are the same text, so shards may remember by text.

    expression = conjunction { "OR" conjunction } ;
    conjunction = negation { "AND" negation } ;
    negation = ( "NOT" | "UNLESS" ) negation | "(" expression ")" | test ;
    test = "EXISTS" "(" name ")"
         | name ( ( "=" | "!=" | "<" | "<=" | ">" | ">=" | "HAS" | "CONTAINS" ) value
                | [ "NOT" ] "IN" "(" value { "," value } ")"
                | "IS" [ "NOT" ] "NULL" ) ;
    value = string | [ "-" ] number | moment ;
    moment = "now" "(" ")" [ ( "+" | "-" ) duration ] | "time" "(" [ "-" ] integer ")" ;
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from shortlist.errors import InvalidField

__all__ = [
    "CLIENT_LIMITS",
    "COMPOSED_LIMITS",
    "And",
    "Comparator",
    "Compare",
    "Exists",
    "Expression",
    "FilterLimits",
    "Has",
    "In",
    "Moment",
    "Not",
    "Now",
    "Or",
    "Unless",
    "Value",
    "all_of",
    "at_moment",
    "none_of",
    "normal",
    "parse",
    "text_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterLimits:
    """How large a filter may be; a larger one is refused before it costs anything."""

    bytes: int  # of UTF-8
    depth: int  # of parentheses and negations within each other
    literals: int


CLIENT_LIMITS = FilterLimits(bytes=4096, depth=32, literals=1000)
# What reaches a shard: a client's filter, the server's, and the values that a user has blocked.
COMPOSED_LIMITS = FilterLimits(bytes=64 * 1024, depth=40, literals=4000)


# -- expressions ----------------------------------------------------------------------------------


class Moment(NamedTuple):
    """A point in time."""

    ms: int  # Unix milliseconds


class Now(NamedTuple):
    """The moment of the request, or so long before or after it."""

    plus_ms: int


Value = str | float | Moment | Now
Comparator = Literal["<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class In:
    """The attribute, or one of its values where it has several, is one of `values`."""

    attribute: str
    values: tuple[Value, ...]  # at least one


@dataclass(frozen=True, slots=True)
class Has:
    """`In` one value, of an attribute that has several."""

    attribute: str
    value: Value


@dataclass(frozen=True, slots=True)
class Compare:
    attribute: str
    comparator: Comparator
    value: Value


@dataclass(frozen=True, slots=True)
class Exists:
    """The item has the attribute. Known of every item."""

    attribute: str


@dataclass(frozen=True, slots=True)
class Not:
    """Unknown where `inner` is: an item without the attribute matches neither."""

    inner: Expression


@dataclass(frozen=True, slots=True)
class Unless:
    """Wherever `inner` is not true: an item without the attribute matches."""

    inner: Expression


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Expression, ...]  # at least two


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple[Expression, ...]  # at least two


Expression = In | Has | Compare | Exists | Not | Unless | And | Or


def none_of(blocked: Mapping[str, Iterable[str]]) -> Expression | None:
    """Items that have none of the values, by attribute; those without the attribute have none."""
    return all_of(Unless(In(name, tuple(values))) for name, values in blocked.items() if values)


def all_of(demands: Iterable[Expression | None]) -> Expression | None:
    """What meets every demand; None = no demand."""
    parts = tuple(one for one in demands if one is not None)
    return And(parts) if len(parts) > 1 else (parts[0] if parts else None)


def at_moment(expression: Expression, now_ms: int) -> Expression:
    """`expression` with `now()` fixed at `now_ms`, Unix milliseconds."""

    def fixed(value: Value) -> Value:
        return Moment(now_ms + value.plus_ms) if isinstance(value, Now) else value

    match expression:
        case In(name, values):
            return In(name, tuple(map(fixed, values)))
        case Has(name, value):
            return Has(name, fixed(value))
        case Compare(name, comparator, value):
            return Compare(name, comparator, fixed(value))
        case Exists():
            return expression
        case Not(inner):
            return Not(at_moment(inner, now_ms))
        case Unless(inner):
            return Unless(at_moment(inner, now_ms))
        case And(parts):
            return And(tuple(at_moment(part, now_ms) for part in parts))
        case Or(parts):
            return Or(tuple(at_moment(part, now_ms) for part in parts))


def normal(expression: Expression) -> Expression:
    """One expression for all that differ only in order, repetition, nesting or double negation."""
    match expression:
        case In(name, values):
            return In(name, tuple(sorted(set(values), key=_text_of_value)))
        case Not(inner):
            inner = normal(inner)
            return inner.inner if isinstance(inner, Not) else Not(inner)
        case Unless(inner):
            return Unless(normal(inner))
        case And(parts):
            return _flat(And, parts)
        case Or(parts):
            return _flat(Or, parts)
        case _:
            return expression


def _flat(kind: type[And] | type[Or], parts: tuple[Expression, ...]) -> Expression:
    flat: list[Expression] = []
    for part in map(normal, parts):
        flat.extend(part.parts if isinstance(part, kind) else [part])
    by_text = {text_of(part): part for part in flat}
    ordered = tuple(by_text[text] for text in sorted(by_text))
    return ordered[0] if len(ordered) == 1 else kind(ordered)


# -- to text --------------------------------------------------------------------------------------


def text_of(expression: Expression) -> str:
    """What `parse` reads back as the same expression."""
    match expression:
        case In(name, (value,)):
            return f"{_text_of_name(name)} = {_text_of_value(value)}"
        case In(name, values):
            return f"{_text_of_name(name)} IN ({', '.join(map(_text_of_value, values))})"
        case Has(name, value):
            return f"{_text_of_name(name)} HAS {_text_of_value(value)}"
        case Compare(name, comparator, value):
            return f"{_text_of_name(name)} {comparator} {_text_of_value(value)}"
        case Exists(name):
            return f"EXISTS({_text_of_name(name)})"
        case Not(inner):
            return f"NOT {_within(inner, And, Or)}"
        case Unless(inner):
            return f"UNLESS {_within(inner, And, Or)}"
        case And(parts):
            return " AND ".join(_within(part, And, Or) for part in parts)
        case Or(parts):
            return " OR ".join(_within(part, Or) for part in parts)


def _within(inner: Expression, *looser: type[Expression]) -> str:
    text = text_of(inner)
    return f"({text})" if isinstance(inner, looser) else text


def _text_of_name(name: str) -> str:
    if not name or "`" in name:  # it could say anything
        raise InvalidField("filter", f"no attribute can be called {name!r}")
    return f"`{name}`" if name.upper() in _KEYWORDS or not _PLAIN_NAME.fullmatch(name) else name


def _text_of_value(value: Value) -> str:
    match value:
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case Moment(ms):
            return f"time({ms})"
        case Now(plus_ms):
            return f"now() {'-' if plus_ms < 0 else '+'} {abs(plus_ms)}ms" if plus_ms else "now()"
        case _:
            return repr(float(value)).removesuffix(".0")


# -- from text ------------------------------------------------------------------------------------

_KEYWORDS = frozenset(
    "AND OR NOT UNLESS IN HAS CONTAINS IS NULL EXISTS NOW TIME".split()  # noqa: SIM905
)
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_MOST_MS = 10**15  # the year 33658: far from where int64 ends
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<text>"(?:[^"\\]|\\["'\\])*" | '(?:[^'\\]|\\["'\\])*')
      | (?P<quoted>`[^`]+`)
      | (?P<duration>[0-9]+(?:ms|[smhdw])(?![A-Za-z0-9_.]))
      | (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.]))
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign><=|>=|!=|<>|==|[=<>(),+-])""",
    re.VERBOSE,
)
_SAME_SIGN = {"==": "=", "<>": "!="}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class _Token(NamedTuple):
    kind: str  # a group of _TOKEN; "end" behind the last one
    text: str  # keywords in capitals
    at: int  # characters before it
    shown: str  # as the filter has it


def parse(text: str, *, field: str = "filter", limits: FilterLimits = CLIENT_LIMITS) -> Expression:
    """The expression that `text` means. Raises `InvalidField` of `field`, naming the position."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidField(field, f"{error.reason} at character {error.start + 1}") from None
    if size > limits.bytes:
        raise InvalidField(field, f"must be at most {limits.bytes} bytes, got {size}")
    return _Parser(list(_tokens(text, field)), field, limits).whole()


def _tokens(text: str, field: str) -> Iterable[_Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise _refusal(field, at, _unreadable(text, at))
        kind, shown = match.lastgroup, match.group()
        if kind == "word" and shown.upper() in _KEYWORDS:
            yield _Token("keyword", shown.upper(), at, shown)
        elif kind != "space":
            yield _Token(kind, _SAME_SIGN.get(shown, shown), at, shown)
        at = match.end()
    yield _Token("end", "", len(text), "the end")


def _unreadable(text: str, at: int) -> str:
    if text[at] in "\"'":
        return "a text that is not closed, or has an escape other than \\\\, \\\" and \\'"
    if text[at] == "`":
        return "a name that is empty or not closed"
    if text[at].isdigit():
        return f"{text[at:].split()[0][:20]!r} is neither a number nor a duration like 30d"
    return f"unexpected {text[at]!r}"


def _refusal(field: str, at: int, text: str) -> InvalidField:
    return InvalidField(field, f"at character {at + 1}: {text}")


class _Parser:
    """Recursive descent, a method for each rule of the grammar."""

    def __init__(self, tokens: Sequence[_Token], field: str, limits: FilterLimits) -> None:
        self._tokens = tokens
        self._at = 0
        self._field = field
        self._limits = limits
        self._depth = 0
        self._literals = 0

    def whole(self) -> Expression:
        found = self._expression()
        if self._next.kind != "end":
            raise self._expected("AND, OR or the end")
        return found

    def _expression(self) -> Expression:
        parts = [self._conjunction()]
        while self._take("OR"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _conjunction(self) -> Expression:
        parts = [self._negation()]
        while self._take("AND"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negation(self) -> Expression:
        begun = self._next
        if begun.text not in ("NOT", "UNLESS", "(") or begun.kind not in ("keyword", "sign"):
            return self._test()
        self._at += 1
        self._depth += 1
        if self._depth > self._limits.depth:
            raise _refusal(self._field, begun.at, f"nested more than {self._limits.depth} deep")
        if begun.text == "(":
            found = self._expression()
            self._require(")")
        else:
            inner = self._negation()
            found = Not(inner) if begun.text == "NOT" else Unless(inner)
        self._depth -= 1
        return found

    def _test(self) -> Expression:
        if self._take("EXISTS"):
            self._require("(")
            name = self._name()
            self._require(")")
            return Exists(name)
        return self._test_of(self._name())

    def _test_of(self, name: str) -> Expression:
        if self._take("="):
            return In(name, (self._value(),))
        if self._take("!="):
            return Not(In(name, (self._value(),)))
        if self._take("IN"):
            return In(name, self._values())
        if self._take("NOT"):
            self._require("IN")
            return Not(In(name, self._values()))
        if self._take("HAS") or self._take("CONTAINS"):
            return Has(name, self._value())
        if self._take("IS"):
            missing = not self._take("NOT")
            self._require("NULL")
            return Not(Exists(name)) if missing else Exists(name)
        for comparator in _COMPARATORS:
            if self._take(comparator):
                return Compare(name, comparator, self._value())
        raise self._expected("=, !=, <, <=, >, >=, IN, NOT IN, HAS, CONTAINS or IS")

    def _name(self) -> str:
        token = self._next
        if token.kind not in ("word", "quoted"):
            raise self._expected("the name of an attribute")
        self._at += 1
        return token.text.strip("`")

    def _values(self) -> tuple[Value, ...]:
        self._require("(")
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        self._require(")")
        return tuple(values)

    def _value(self) -> Value:
        token = self._next
        self._literals += 1
        if self._literals > self._limits.literals:
            raise _refusal(self._field, token.at, f"has more than {self._limits.literals} values")
        if token.kind == "text":
            self._at += 1
            return _ESCAPED.sub(r"\1", token.text[1:-1])
        if self._take("NOW"):
            return self._now()
        if self._take("TIME"):
            return self._time()
        return self._number("a text in quotes, a number or now()")

    def _number(self, expected: str) -> float:
        token = self._next
        sign = -1.0 if self._take("-") else 1.0
        if self._next.kind != "number":
            raise self._expected(expected)
        number = float(self._next.text)
        if not math.isfinite(number):
            raise _refusal(self._field, token.at, f"{self._next.text} is too large")
        self._at += 1
        return sign * number + 0.0  # -0 is 0

    def _now(self) -> Now:
        self._require("(")
        self._require(")")
        if self._take("+"):
            return Now(self._duration())
        return Now(-self._duration()) if self._take("-") else Now(0)

    def _duration(self) -> int:
        token = self._next
        if token.kind != "duration":
            raise self._expected("a duration: 30d, 12h, 90m, 45s, 500ms or 2w")
        self._at += 1
        count = token.text.rstrip("mshdw")
        # So many digits are far too much, and long ones take long to read.
        ms = int(count) * _UNIT_MS[token.text[len(count) :]] if len(count) < 17 else _MOST_MS + 1
        return self._in_range(ms, token)

    def _time(self) -> Moment:
        self._require("(")
        token = self._next
        number = self._number("Unix milliseconds")
        if number != int(number):
            raise _refusal(self._field, token.at, f"{number} is no whole number of milliseconds")
        self._require(")")
        return Moment(self._in_range(int(number), token))

    def _in_range(self, ms: int, token: _Token) -> int:
        if abs(ms) > _MOST_MS:
            raise _refusal(self._field, token.at, f"{token.shown[:20]} is too far away")
        return ms

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, text: str) -> bool:
        """Go on if the next token is this keyword or sign."""
        found = self._next.text == text and self._next.kind in ("keyword", "sign")
        self._at += found
        return found

    def _require(self, text: str) -> None:
        if not self._take(text):
            raise self._expected(text)

    def _expected(self, what: str) -> InvalidField:
        shown = self._next.shown[:40]
        hint = "" if self._next.kind != "keyword" else "; a name like that goes in backticks"
        hint = hint if what.startswith("the name") else ""
        return _refusal(self._field, self._next.at, f"expected {what}, found {shown}{hint}")


_COMPARATORS: tuple[Comparator, ...] = ("<=", ">=", "<", ">")
