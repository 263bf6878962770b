"""How the report shows figures and names; what is undefined or missing is a dash."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "DASH",
    "count",
    "decimal",
    "ends",
    "interval",
    "label",
    "number",
    "percent",
    "signed",
    "with_interval",
]

DASH = "–"

_LABELS = {
    "page": "the page",
    "blend": "all sources, blended",
    "random": "random items",
    "two_tower": "two-tower",
    "mf": "matrix factorisation",
    "cooccurrence": "co-occurrence",
    "content": "content",
    "popular": "popular",
    "trending": "trending",
    "fresh": "fresh",
    "geographic": "geographic",
    "creator": "same creator",
    "dcn": "deep cross network",
    "gbdt": "boosted trees",
    "linear": "logistic regression",
    "ensemble": "ensemble",
    "none": "blend's order, no ranker",
}


def label(name: str) -> str:
    """What a reader calls a list, a source or a ranker; an unknown name is its own label."""
    if name.startswith("ranker:"):
        kind = name.removeprefix("ranker:")
        return label(kind) if kind == "none" else f"{label(kind)} alone"
    return _LABELS.get(name, name)


def number(value: Any) -> float | None:
    """The value where it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def decimal(value: Any, digits: int = 4) -> str:
    found = number(value)
    return DASH if found is None else f"{found:.{digits}f}"


def signed(value: Any, digits: int = 4) -> str:
    found = number(value)
    return DASH if found is None else f"{found:+.{digits}f}".replace("-", "−")


def percent(value: Any, digits: int = 1) -> str:
    found = number(value)
    return DASH if found is None else f"{100 * found:.{digits}f} %"


def count(value: Any) -> str:
    found = number(value)
    return DASH if found is None else f"{found:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def interval(of: Any, figure: str) -> tuple[float, float] | None:
    """The 95 % interval of a figure of a row that keeps its intervals in `ci`."""
    found = (of.get("ci") or {}).get(figure) if isinstance(of, Mapping) else None
    return ends(found)


def ends(found: Any) -> tuple[float, float] | None:
    """The two ends of an interval, where both are numbers."""
    if not isinstance(found, Sequence) or len(found) != 2:
        return None
    low, high = number(found[0]), number(found[1])
    return None if low is None or high is None else (low, high)


def with_interval(value: Any, found: tuple[float, float] | None, digits: int = 4) -> str:
    if found is None or number(value) is None:
        return decimal(value, digits)
    low, high = (f"{end:.{digits}f}".replace("-", "−") for end in found)
    return f"{decimal(value, digits)} [{low}, {high}]".replace("-", "−")
