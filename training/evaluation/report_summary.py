"""What the evaluation found, in sentences that need no knowledge of metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from training.evaluation.report_figures import count, decimal, ends, label, number, percent

__all__ = ["summary"]

Result = Mapping[str, Any]


def summary(result: Result) -> list[str]:
    """One sentence or two a finding, the most important first; what is not measured is left out."""
    findings = (
        _funnel,
        _against_sources,
        _against_rankers,
        _helpers,
        _newcomers,
        _new_items,
        _reach,
    )
    return [text for finding in findings for text in finding(result)]


def _part(result: Any, *path: str) -> Any:
    """What stands at a path; an empty mapping where nothing does."""
    for name in path:
        result = result.get(name) if isinstance(result, Mapping) else None
    return {} if result is None else result


def _funnel(result: Result) -> Iterator[str]:
    stages = {one.get("stage"): one for one in _part(result, "funnel", "stages") or ()}
    blend, page = (number(_part(stages, name, "share")) for name in ("blend", "page"))
    if blend is None or page is None:
        return
    size = _part(result, "settings", "page_size") or 20
    limit = _part(result, "funnel", "limit") or _part(result, "settings", "candidates")
    yield (
        f"Of 100 things people went on to choose, the {count(limit)} candidates held "
        f"{_of_hundred(blend)} and the page of {size} showed {_of_hundred(page)}."
    )


def _of_hundred(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.02 else f"{100 * share:.1f}"


def _against_sources(result: Result) -> Iterator[str]:
    best = _part(result, "comparisons", "best_source")
    if isinstance(best, str):
        yield from _against(result, best, f"the best single source ({label(best)})")


def _against_rankers(result: Result) -> Iterator[str]:
    best = _part(result, "comparisons", "best_ranker")
    if isinstance(best, str):
        yield from _against(
            result, best, f"the best ranker without the page's rules ({label(best)})"
        )


def _against(result: Result, name: str, described: str) -> Iterator[str]:
    found = _part(result, "comparisons", "page_minus", name, "ndcg@20")
    mine = number(_part(result, "systems", "page", "ndcg@20"))
    other = number(_part(result, "systems", name, "ndcg@20"))
    sure = ends(_part(found, "ci"))
    if mine is None or other is None or sure is None:
        return
    figures = f"nDCG@20 {decimal(mine)} against {decimal(other)}"
    change = f", {100 * (mine / other - 1):+.0f} %".replace("-", "−") if other > 0 else ""
    if sure[0] > 0:
        yield f"The page is better than {described}: {figures}{change}."
    elif sure[1] < 0:
        yield f"The page is worse than {described}: {figures}{change}."
    else:
        yield (
            f"The page and {described} cannot be told apart on so many people: {figures}; "
            "the difference may be chance."
        )


def _helpers(result: Result) -> Iterator[str]:
    rows = _part(result, "funnel", "sources")
    lost = {
        name: (number(row.get("recall_lost")), ends(row.get("ci"))) for name, row in rows.items()
    }
    sure = {
        name: value for name, (value, sides) in lost.items() if value and sides and sides[0] > 0
    }
    if not lost:
        return
    if not sure:
        yield "No single source is missed when it is left out: the others make up for each of them."
        return
    best = max(sure, key=lambda name: sure[name])
    text = (
        f"The source that is missed most is {label(best)}: without it the candidates would hold "
        f"{_points(sure[best])} fewer of 100 chosen things."
    )
    idle = [label(name) for name, (_, sides) in lost.items() if sides and sides[0] <= 0]
    if idle:
        text += f" No difference is measurable without {_listed(idle)}."
    yield text


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _newcomers(result: Result) -> Iterator[str]:
    cuts = _part(result, "cold_start", "users", "cuts") or ()
    found = {
        cut.get("events"): number(_part(cut, "systems", "page", "ndcg@20"))
        for cut in cuts
        if isinstance(cut, Mapping)
    }
    whole, first = found.get(None), found.get(0)
    if not whole or first is None:
        return
    few = {events: value for events, value in found.items() if events and value is not None}
    text = (
        f"People of whom nothing is known get {percent(first / whole, 0)} of the quality that "
        "the same people get with their whole history"
    )
    if few:
        events = max(few)
        text += f", and {percent(few[events] / whole, 0)} after {events} events"
    yield f"{text}."


def _new_items(result: Result) -> Iterator[str]:
    rows = _part(result, "cold_start", "items", "among_cold")
    figures = {name: number(row.get("recall@20")) for name, row in rows.items()}
    random = figures.pop("random", None)
    known = {name: value for name, value in figures.items() if value is not None}
    if not known or random is None:
        return
    best = max(known, key=lambda name: known[name])
    if known[best] <= random:
        yield "Items that nobody has touched yet are found no better than by chance."
        return
    yield (
        f"Items that nobody has touched yet are found best by {label(best)}: among them alone, its "
        f"20 best hold {percent(known[best])} of what people chose; random ones {percent(random)}."
    )


def _reach(result: Result) -> Iterator[str]:
    page = _part(result, "systems", "page")
    coverage = number(_part(page, "coverage"))
    if coverage is not None:
        people = count(_part(result, "users", "evaluated"))
        yield (
            f"The pages of the {people} people showed {percent(coverage, 0)} of the catalogue "
            "between them."
        )
