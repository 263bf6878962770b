"""The sections of the report: a few words, plots, and a table beside each plot.

A section whose part was not measured says why instead of vanishing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from training.evaluation import report_plots as plots
from training.evaluation.report_figures import (
    count,
    decimal,
    ends,
    interval,
    label,
    number,
    percent,
    signed,
    with_interval,
)
from training.evaluation.report_plots import PAGE_COLOURS, Bar, Line

__all__ = ["Plot", "Row", "Section", "Table", "sections", "source_bars", "system_bars"]

Result = Mapping[str, Any]

_CHOSEN = "ndcg@20"
_NOTHING = "the evaluation has no such part"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    svg: Markup
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    name: str
    cells: tuple[str, ...]
    strong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    caption: str
    head: tuple[str, ...]  # of the cells; the names' column has no head
    rows: tuple[Row, ...]
    folded: bool = False  # shown on demand


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """`blocks` are plots, tables, sentences and reasons, in order."""

    key: str
    title: str
    blocks: tuple[Plot | Table | str, ...] = ()
    absent: tuple[str, ...] = field(default=())  # what was not measured, and why


def sections(result: Result) -> list[Section]:
    """All sections in the order of the page."""
    return [
        _section("systems", "Systems compared", _systems, result, "systems"),
        _section("funnel", "The funnel: catalogue, candidates, page", _funnel, result, "funnel"),
        _section("sources", "What each source adds", _sources, result, "funnel"),
        _section("rankers", "What each ranker adds", _rankers, result, "rankers"),
        _section("recall", "How deep one has to look", _recall, result, "retrieval"),
        _section(
            "calibration", "Do the predicted chances come true?", _calibration, result, "rankers"
        ),
        _section("cohorts", "For whom it works", _cohorts, result, "cohorts"),
        _cold_start(result),
        _tradeoffs(result),
        _section("versions", "What was measured", _versions, result, "versions"),
    ]


def _section(
    key: str,
    title: str,
    build: Callable[[Result], Iterator[Plot | Table | str]],
    result: Result,
    part: str,
) -> Section:
    reason = _absence(result.get(part))
    if reason:
        return Section(key=key, title=title, absent=(f"Not measured: {reason}.",))
    return Section(key=key, title=title, blocks=tuple(build(result)))


def _within(part: Any, name: str) -> Any:
    """One topic of a part; the whole part where it is absent as such."""
    return part.get(name) if isinstance(part, Mapping) and "absent" not in part else part


def _absence(part: Any) -> str:
    """Why a part has nothing to show; empty where it has."""
    if isinstance(part, Mapping) and "absent" in part:
        return str(part["absent"])
    return "" if part else _NOTHING


def _drawn(made: Figure, name: str, caption: str, description: str) -> Plot:
    return Plot(
        svg=plots.inline_svg(made, name, title=caption, description=description), caption=caption
    )


def _bars(
    rows: Sequence[Bar], name: str, caption: str, *, axis: str, percent: bool = False
) -> Iterator[Plot]:
    """A plot of bars, where there is any."""
    if rows:
        described = (
            f"{row.label} {100 * row.value:.2f} %" if percent else f"{row.label} {row.value:.4f}"
            for row in rows
        )
        made = plots.bars(rows, PAGE_COLOURS, axis=axis, percent=percent)
        yield _drawn(made, name, caption, "; ".join(described))


def system_bars(result: Result, most: int | None = None) -> list[Bar]:
    """nDCG@20 of every list, the best first; with `most`, only so many and always the page."""
    rows = [
        Bar(
            label=label(name),
            value=value,
            sides=interval(row, _CHOSEN),
            role=_role(name),
        )
        for name, row in result["systems"].items()
        if (value := number(row.get(_CHOSEN))) is not None
    ]
    ordered = sorted(rows, key=lambda row: (-row.value, row.role != "accent"))
    others = [row for row in ordered if row.role != "accent"]
    left_out = others[len(others) if most is None else most :]
    return [row for row in ordered if row not in left_out]


def _role(name: str) -> str:
    if name == "page":
        return "accent"
    if name == "random":
        return "muted"
    return "ranker" if name.startswith("ranker:") else "source"


def _systems(result: Result) -> Iterator[Plot | Table | str]:
    yield (
        "Each row is a way to fill a page for the same people. The page is what people are "
        "served; a source or a ranker alone is what is left without the rest of the system. "
        "nDCG@20 is 1 when everything that a person went on to choose stands at the top."
    )
    rows = system_bars(result)
    yield from _bars(
        rows,
        "systems",
        "nDCG@20 by system: the page, single sources, rankers alone",
        axis="nDCG@20, with 95 % intervals",
    )
    yield Table(
        caption="All figures by system; intervals hold with 95 % confidence. The value is the "
        "declared worth of what a person did with the first 20 items, all together",
        head=(
            "nDCG@20", "Recall@20", "nDCG@10", "nDCG@100", "Recall@100", "MRR",
            "value", "coverage", "Gini", "diversity", "novelty",
        ),
        rows=tuple(
            Row(name=label(name), cells=_system_cells(row), strong=name == "page")
            for name, row in result["systems"].items()
        ),
    )  # fmt: skip
    yield from _comparisons(result)


def _system_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        with_interval(row.get(_CHOSEN), interval(row, _CHOSEN)),
        with_interval(row.get("recall@20"), interval(row, "recall@20")),
        *(decimal(row.get(name)) for name in ("ndcg@10", "ndcg@100", "recall@100", "mrr")),
        decimal(row.get("value@20"), 3),
        percent(row.get("coverage")),
        *(decimal(row.get(name), 3) for name in ("gini", "diversity")),
        decimal(row.get("novelty"), 2),
    )


def _comparisons(result: Result) -> Iterator[Table]:
    found = (result.get("comparisons") or {}).get("page_minus") or {}
    if found:
        yield Table(
            caption="The page minus each other system, person by person",
            head=("nDCG@20", "Recall@20", "value"),
            rows=tuple(
                Row(name=label(name), cells=tuple(_change(row.get(one)) for one in _COMPARED))
                for name, row in found.items()
            ),
            folded=True,
        )


_COMPARED = (_CHOSEN, "recall@20", "value@20")


def _change(row: Any) -> str:
    if not isinstance(row, Mapping):
        return signed(None)
    sides = ends(row.get("ci"))
    text = signed(row.get("difference"))
    return text if sides is None else f"{text} [{signed(sides[0])}, {signed(sides[1])}]"


_STAGES = {
    "catalogue": "catalogue",
    "proposed": "proposed by any source",
    "blend": "candidates",
    "top_100": "ranked top 100",
    "page": "page",
}


def _funnel(result: Result) -> Iterator[Plot | Table | str]:
    yield (
        "From the whole catalogue to one page: how many items are left for each person, and how "
        "much of what people went on to choose is still among them."
    )
    stages = result["funnel"].get("stages") or ()
    rows = [
        Bar(
            label=f"{_STAGES.get(one['stage'], one['stage'])}, {count(one.get('items'))} items",
            value=number(one.get("share")) or 0.0,
            role="accent" if one["stage"] == "page" else "source",
        )
        for one in stages
    ]
    yield from _bars(
        rows,
        "funnel",
        "What each stage keeps of the items that people went on to choose",
        axis="share of what people chose",
        percent=True,
    )
    yield Table(
        caption="The stages",
        head=("items a person", "chosen items among them", "share of all chosen"),
        rows=tuple(
            Row(
                name=_STAGES.get(one["stage"], one["stage"]),
                cells=(
                    count(one.get("items")), count(one.get("relevant")), percent(one.get("share"))
                ),
                strong=one["stage"] == "page",
            )
            for one in stages
        ),
    )  # fmt: skip


def source_bars(result: Result) -> list[Bar]:
    """What the blend's recall loses without each source, the largest loss first."""
    rows = [
        Bar(
            label=label(name),
            value=value,
            sides=ends(row.get("ci")),
            role="accent" if (ends(row.get("ci")) or (0.0, 0.0))[0] > 0 else "source",
        )
        for name, row in (result["funnel"].get("sources") or {}).items()
        if (value := number(row.get("recall_lost"))) is not None
    ]
    return sorted(rows, key=lambda row: -row.value)


def _sources(result: Result) -> Iterator[Plot | Table | str]:
    limit = result["funnel"].get("limit", "k")
    yield (
        f"A source is worth what is lost when it is left out and the others fill the {limit} "
        "places. A bar whose interval includes zero is no measurable difference. A chosen thing is "
        "unique to a source when no other source proposed it."
    )
    rows = source_bars(result)
    yield from _bars(
        rows,
        "sources",
        f"What the candidates' Recall@{limit} loses without each source",
        axis=f"loss of Recall@{limit} without it",
        percent=True,
    )
    page = result.get("page_sources") or {}
    yield Table(
        caption="What each source adds",
        head=(
            "chosen items found", "unique", f"Recall@{limit} without it", "lost",
            "share of candidates", "share of page", "only it, on the page", "chosen on the page",
        ),
        rows=tuple(
            Row(
                name=label(name),
                cells=(
                    count(row.get("hits")),
                    count(row.get("unique_hits")),
                    decimal(row.get("recall_without")),
                    _lost(row),
                    percent(row.get("blend_fractional")),
                    percent(row.get("page_fractional")),
                    percent((page.get(name) or {}).get("only")),
                    count(row.get("page_hits")),
                ),
            )
            for name, row in (result["funnel"].get("sources") or {}).items()
        ),
    )  # fmt: skip
    yield (
        "Shares count an item that n sources proposed as 1/n for each of them, so they add up to "
        "100 %."
    )


def _lost(row: Mapping[str, Any]) -> str:
    return _change({"difference": row.get("recall_lost"), "ci": row.get("ci")})


def _rankers(result: Result) -> Iterator[Plot | Table | str]:
    yield (
        "All rankers order the same candidates. AUC is the chance that a chosen candidate stands "
        "above one that was not; GAUC is the same within each person. Conditional nDCG counts "
        "only what the candidates held, which is all that a ranker can order."
    )
    rankers = result["rankers"]
    rows = [
        Bar(
            label=label(name),
            value=value,
            sides=interval(row, "conditional_ndcg@20"),
            role="accent" if name == (result.get("settings") or {}).get("ranker") else "ranker",
        )
        for name, row in rankers.items()
        if (value := number(row.get("conditional_ndcg@20"))) is not None
    ]
    yield from _bars(
        rows,
        "rankers",
        "Conditional nDCG@20 by ranker; the one that is served is highlighted",
        axis="conditional nDCG@20, with 95 % intervals",
    )
    yield Table(
        caption="The rankers",
        head=(
            "AUC", "GAUC", "log loss", "log loss of the base rate", "conditional nDCG@20",
            "nDCG@20", "nDCG@20 beyond the blend's order", "value",
        ),
        rows=tuple(
            Row(
                name=label(name),
                cells=(
                    decimal(row.get("auc")),
                    with_interval(row.get("gauc"), interval(row, "gauc")),
                    decimal(row.get("log_loss"), 5),
                    decimal(row.get("log_loss_base_rate"), 5),
                    _among(rankers, name, "conditional_ndcg@20"),
                    _among(rankers, name, _CHOSEN),
                    _change(row.get("gain_over_none")),
                    _among(rankers, name, "value@20"),
                ),
                strong=name == (result.get("settings") or {}).get("ranker"),
            )
            for name, row in rankers.items()
        ),
    )  # fmt: skip


def _recall(result: Result) -> Iterator[Plot | Table | str]:
    yield (
        "Recall at k is the share of what a person went on to choose that is among the first k "
        "items of a list. Retrieval has to reach far; the order within is the ranker's work."
    )
    found = result.get("curves") or {}
    depths, recall = found.get("k") or (), found.get("recall") or {}
    lines = [
        Line(
            label=label(name),
            x=depths,
            y=values,
            place=_place(result, name),
            dashed=name == "blend",
        )
        for name, values in recall.items()
        if all(number(value) is not None for value in values)
    ]
    if lines:
        yield _drawn(
            plots.curves(lines, PAGE_COLOURS, x="k: items looked at", y="recall"),
            "recall",
            "Recall at k by retriever",
            f"Recall at {max(depths)}: "
            + "; ".join(f"{line.label} {100 * line.y[-1]:.1f} %" for line in lines),
        )
    cutoffs = ("recall@20", "recall@100", "recall@1000")
    yield Table(
        caption="Recall by retriever",
        head=("Recall@20", "Recall@100", "Recall@1000", "items proposed"),
        rows=tuple(
            Row(
                name=label(name),
                cells=(
                    *(with_interval(row.get(one), interval(row, one)) for one in cutoffs),
                    count(row.get("items")),
                ),
                strong=name == "blend",
            )
            for name, row in result["retrieval"].items()
        ),
    )


def _place(result: Result, name: str) -> int | None:
    """A source's colour is its own on every plot; the page and the blend stand out."""
    settings = result.get("settings") or {}
    names = [*(settings.get("sources") or ()), "random"]
    return names.index(name) if name in names else None


def _calibration(result: Result) -> Iterator[Plot | Table | str]:
    rankers = {name: row for name, row in result["rankers"].items() if row.get("calibration")}
    if not rankers:
        yield "No ranker has calibrated chances."
        return
    yield (
        "Candidates are put into groups by their predicted chance to be chosen. On the dotted "
        "line, as many were chosen as predicted."
    )
    lines = [
        Line(
            label=label(name),
            x=[one["predicted"] for one in row["calibration"]],
            y=[one["observed"] for one in row["calibration"]],
            place=place,
        )
        for place, (name, row) in enumerate(rankers.items())
    ]
    yield _drawn(
        plots.calibration(lines, PAGE_COLOURS),
        "calibration",
        "Predicted chances and what came true",
        "; ".join(
            f"{label(name)}: mean error {decimal(row.get('calibration_error'))}"
            for name, row in rankers.items()
        ),
    )
    yield Table(
        caption="Mean distance between predicted chance and what came true",
        head=("calibration error",),
        rows=tuple(
            Row(name=label(name), cells=(decimal(row.get("calibration_error"), 5),))
            for name, row in rankers.items()
        ),
    )
    for name, row in rankers.items():
        yield Table(
            caption=f"Groups of candidates: {label(name)}",
            head=("predicted", "came true", "candidates"),
            rows=tuple(
                Row(
                    name=f"{place}.",
                    cells=(
                        percent(one.get("predicted"), 3),
                        percent(one.get("observed"), 3),
                        count(one.get("candidates")),
                    ),
                )
                for place, one in enumerate(row["calibration"], start=1)
            ),
            folded=True,
        )
    methods = dict.fromkeys(str(row.get("calibration_method") or "") for row in rankers.values())
    yield from (method for method in methods if method)


_COHORTS = {
    "no_history": "no history",
    "short_history": "short history",
    "medium_history": "medium history",
    "long_history": "long history",
    "head_items": "popular items (head)",
    "tail_items": "other items (tail)",
    "new_items": "new items",
}


def _cohorts(result: Result) -> Iterator[Plot | Table | str]:
    yield (
        "The same lists for parts of the people, and for parts of what they chose: the head is the "
        "20 % of items with the most known interactions, the tail is the rest."
    )
    cohorts = result["cohorts"]
    shown = [name for name in _compared_lists(result) if name in cohorts[0]["systems"]]
    lines = [
        Line(
            label=label(name),
            x=[_figure(one["systems"], name) for one in cohorts],
            y=(),
            place=_place(result, name),
        )
        for name in shown
    ]
    names = [_COHORTS.get(one["name"], one["name"]) for one in cohorts]
    yield _drawn(
        plots.dots(lines, PAGE_COLOURS, names=names, x="nDCG@20"),
        "cohorts",
        "nDCG@20 by part of the people and of the items",
        "; ".join(
            f"{one['name']}: the page {decimal(one['systems'].get('page', {}).get(_CHOSEN))}"
            for one in cohorts
        ),
    )
    yield Table(
        caption="Parts of the people and of the items, nDCG@20",
        head=("who or what", "people", "chosen items", *(label(name) for name in shown)),
        rows=tuple(
            Row(
                name=_COHORTS.get(one["name"], one["name"]),
                cells=(
                    str(one.get("description", "")),
                    count(one.get("users")),
                    count(one.get("relevant")),
                    *(
                        with_interval(
                            one["systems"].get(name, {}).get(_CHOSEN),
                            interval({"ci": (one.get("ci") or {}).get(name)}, _CHOSEN),
                        )
                        for name in shown
                    ),
                ),
            )
            for one in cohorts
        ),
    )


def _figure(systems: Mapping[str, Any], name: str) -> float:
    """nDCG@20 of a list as a number to draw; not a number where there is none."""
    value = number((systems.get(name) or {}).get(_CHOSEN))
    return math.nan if value is None else value


def _compared_lists(result: Result) -> list[str]:
    """The page beside its rivals: few enough to tell apart."""
    best = result.get("comparisons") or {}
    names = ("page", best.get("best_source"), "two_tower", "content", "popular", "random")
    return [name for name in dict.fromkeys(names) if name]


def _cold_start(result: Result) -> Section:
    part = result.get("cold_start")
    blocks: list[Plot | Table | str] = []
    absent = []
    topics: tuple[tuple[str, str, Callable[[Result, Any], Iterator[Plot | Table | str]]], ...] = (
        ("users", "New people", _new_people),
        ("items", "New items", _new_items_for("items", "New items, everybody")),
        ("both", "New people and new items", _new_items_for("both", "New items, new people")),
    )
    for name, title, build in topics:
        found = _within(part, name)
        if reason := _absence(found):
            absent.append(f"{title}, not measured: {reason}.")
        else:
            blocks.extend(build(result, found))
    return Section(key="cold-start", title="Cold start", blocks=tuple(blocks), absent=tuple(absent))


def _new_people(result: Result, part: Mapping[str, Any]) -> Iterator[Plot | Table | str]:
    yield (
        f"{count(part.get('users'))} people with a history, as if only their newest few events "
        "were known: all points of a line are of the same people."
    )
    cuts = part.get("cuts") or ()
    names = list(dict.fromkeys(name for cut in cuts for name in cut["systems"]))
    ticks = ["all" if cut["events"] is None else str(cut["events"]) for cut in cuts]
    lines = [
        Line(
            label=label(name),
            x=range(len(cuts)),
            y=[_figure(cut["systems"], name) for cut in cuts],
            place=_place(result, name),
        )
        for name in names
    ]
    yield _drawn(
        plots.histories(
            lines, PAGE_COLOURS, ticks=ticks, x="events of the history that are known", y="nDCG@20"
        ),
        "newcomers",
        "nDCG@20 by length of the history",
        "the page: "
        + "; ".join(
            f"{tick} events {decimal(cut['systems'].get('page', {}).get(_CHOSEN))}"
            for tick, cut in zip(ticks, cuts, strict=True)
        ),
    )
    yield Table(
        caption="nDCG@20 by number of known events",
        head=tuple(ticks),
        rows=tuple(
            Row(
                name=label(name),
                cells=tuple(
                    with_interval(
                        cut["systems"].get(name, {}).get(_CHOSEN),
                        interval({"ci": (cut.get("ci") or {}).get(name)}, _CHOSEN),
                    )
                    for cut in cuts
                ),
                strong=name == "page",
            )
            for name in names
        ),
    )


def _new_items_for(key: str, title: str) -> Callable[[Result, Any], Iterator[Plot | Table | str]]:
    def build(_: Result, part: Mapping[str, Any]) -> Iterator[Plot | Table | str]:
        yield (
            f"{title}: {count(part.get('cold_items'))} items had no interaction, and "
            f"{count(part.get('users'))} people went on to choose {count(part.get('relevant'))} of "
            "them. Among these items alone:"
        )
        among, whole = part.get("among_cold") or {}, part.get("whole_catalogue") or {}
        rows = [
            Bar(
                label=label(name),
                value=value,
                sides=interval(row, "recall@20"),
                role="muted" if name == "random" else "source",
            )
            for name, row in among.items()
            if (value := number(row.get("recall@20"))) is not None
        ]
        yield from _bars(
            rows,
            f"new-{key}",
            f"{title}: Recall@20 among items without interactions",
            axis="Recall@20 among new items",
            percent=True,
        )
        yield Table(
            caption=title,
            head=("Recall@20 among them", "nDCG@20", "MRR", "Recall@1000 in the whole catalogue"),
            rows=tuple(
                Row(
                    name=label(name),
                    cells=(
                        _among(among, name, "recall@20"),
                        _among(among, name, _CHOSEN),
                        _among(among, name, "mrr"),
                        decimal((whole.get(name) or {}).get("recall@1000")),
                    ),
                )
                for name in dict.fromkeys([*among, *whole])
            ),
        )

    return build


def _among(rows: Mapping[str, Any], name: str, figure: str) -> str:
    row = rows.get(name) or {}
    return with_interval(row.get(figure), interval(row, figure))


def _tradeoffs(result: Result) -> Section:
    part = result.get("tradeoffs")
    blocks: list[Plot | Table | str] = []
    absent = []
    for name, title, build in (
        ("diversity", "Diversity against relevance", _diversity),
        ("freshness", "Freshness against relevance", _freshness),
    ):
        found = _within(part, name)
        if reason := _absence(found):
            absent.append(f"{title}, not measured: {reason}.")
        else:
            blocks.extend(build(found))
    return Section(key="tradeoffs", title="Trade-offs", blocks=tuple(blocks), absent=tuple(absent))


def _diversity(part: Mapping[str, Any]) -> Iterator[Plot | Table | str]:
    yield (
        "More different items on a page cost some relevance. Each point is a strength of the "
        "page's diversity rule; the ring marks what is served."
    )
    yield from _curve(
        part,
        key="strength",
        x="diversity",
        x_name="diversity of a page",
        caption="Diversity against nDCG@20",
        columns={"diversity": 3, "ndcg@20": 4, "recall@20": 4, "coverage": 3, "novelty": 2},
    )


def _freshness(part: Mapping[str, Any]) -> Iterator[Plot | Table | str]:
    yield (
        "Places of a page that are kept for new items, against relevance; an item is new for "
        f"{decimal(part.get('fresh_days'), 0)} days."
    )
    yield from _curve(
        part,
        key="minimum",
        x="fresh_share",
        x_name="share of new items on a page",
        caption="Freshness against nDCG@20",
        columns={"fresh_share": 3, "ndcg@20": 4, "recall@20": 4, "mean_age_days": 0, "novelty": 2},
    )


def _curve(
    part: Mapping[str, Any],
    *,
    key: str,
    x: str,
    x_name: str,
    caption: str,
    columns: Mapping[str, int],
) -> Iterator[Plot | Table]:
    points = [
        one
        for one in part.get("points") or ()
        if number(one.get(x)) is not None and number(one.get(_CHOSEN)) is not None
    ]
    names = [f"{one[key]:g}" for one in points]
    served = next((at for at, one in enumerate(points) if one[key] == part.get("served")), None)
    if points:
        yield _drawn(
            plots.tradeoff(
                [one[x] for one in points],
                [one[_CHOSEN] for one in points],
                names,
                served,
                PAGE_COLOURS,
                x_name=x_name,
                y_name="nDCG@20",
            ),
            f"tradeoff-{key}",
            caption,
            "; ".join(
                f"{key} {name}: {x_name} {decimal(one[x], 3)}, nDCG@20 {decimal(one[_CHOSEN])}"
                for name, one in zip(names, points, strict=True)
            ),
        )
    yield Table(
        caption=f"{caption}, by {key}, {count(part.get('users'))} people",
        head=tuple(_COLUMNS.get(name, name) for name in columns),
        rows=tuple(
            Row(
                name=f"{name} (served)" if place == served else name,
                cells=tuple(decimal(one.get(column), digits) for column, digits in columns.items()),
                strong=place == served,
            )
            for place, (name, one) in enumerate(zip(names, points, strict=True))
        ),
    )


_COLUMNS = {
    "ndcg@20": "nDCG@20",
    "recall@20": "Recall@20",
    "fresh_share": "share of new items",
    "mean_age_days": "mean age, days",
}


def _versions(result: Result) -> Iterator[Table | str]:
    data, settings = result.get("data") or {}, result.get("settings") or {}
    users = result.get("users") or {}
    facts = {
        "data set": str(data.get("name") or "–"),
        "its size": (
            f"{count(data.get('users'))} people, {count(data.get('items'))} items, "
            f"{count(data.get('interactions'))} interactions"
        ),
        "how the test part was chosen": str(result.get("split") or "–"),
        "people measured": (
            f"{count(users.get('evaluated'))}, of them {count(users.get('without_history'))} "
            "without a history"
        ),
        **{f"{tier} version": str(name) for tier, name in result["versions"].items()},
        "ranker that is served": label(str(settings.get("ranker") or "–")),
        "sources": ", ".join(label(name) for name in settings.get("sources") or ()) or "–",
        "page size, candidates": (
            f"{count(settings.get('page_size'))}, {count(settings.get('candidates'))}"
        ),
        "seed, bootstrap resamples": (
            f"{count(settings.get('seed'))}, {count(settings.get('resamples'))}"
        ),
    }
    yield Table(
        caption="Data, split and versions",
        head=("",),
        rows=tuple(Row(name=name, cells=(value,)) for name, value in facts.items()),
    )
    if seconds := result.get("seconds"):
        yield Table(
            caption="How long the measurement took, seconds",
            head=("seconds",),
            rows=tuple(
                Row(name=str(name), cells=(decimal(value, 1),)) for name, value in seconds.items()
            ),
            folded=True,
        )
