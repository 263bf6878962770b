"""The report's plots: matplotlib figures without global state, as SVG in its page's colours.

Every function draws one figure from plain numbers. Colours are named by role in a `Palette`: on a
page they become CSS variables, so one drawing serves light and dark and the printer.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

__all__ = [
    "PAGE_COLOURS",
    "PRINT_COLOURS",
    "Bar",
    "Line",
    "Palette",
    "bars",
    "calibration",
    "curves",
    "dots",
    "draw_bars",
    "figure",
    "histories",
    "inline_svg",
    "save",
    "styled",
    "tradeoff",
]

_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and restyled
    "svg.hashsalt": "shortlist",  # the same numbers give the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_WIDTH = 7.2  # inches
_DASHES = ("-", "--", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """Colours by role; `series` tells lines apart, in a fixed order."""

    ink: str
    muted: str
    rule: str
    surface: str
    accent: str  # the page, and what is good
    source: str
    ranker: str
    series: tuple[str, ...]

    def of(self, place: int) -> str:
        return self.series[place % len(self.series)]


_ROLES = ("ink", "muted", "rule", "surface", "accent", "source", "ranker")
_SERIES = 8

# Numbers that no eye tells from black, and that stand for a CSS variable each.
PAGE_COLOURS = Palette(
    **{role: f"#0000{place:02x}" for place, role in enumerate(_ROLES, start=1)},
    series=tuple(f"#0001{place:02x}" for place in range(_SERIES)),
)
PRINT_COLOURS = Palette(
    ink="#1d1f24",
    muted="#5c616b",
    rule="#d9dce1",
    surface="#ffffff",
    accent="#1f63c4",
    source="#9fb3c8",
    ranker="#6b8f71",
    series=(
        "#2a78d6",
        "#1baf7a",
        "#c98500",
        "#4a3aa7",
        "#e34948",
        "#d55181",
        "#d95926",
        "#5c616b",
    ),
)
_VARIABLES = {
    **{getattr(PAGE_COLOURS, role): f"var(--{role})" for role in _ROLES},
    **{colour: f"var(--series-{at})" for at, colour in enumerate(PAGE_COLOURS.series)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar with a 95 % interval, where there is one."""

    label: str
    value: float
    sides: tuple[float, float] | None = None
    role: str = "source"  # a colour of the palette


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A named line or row of dots; `place` is its colour, None for the ink that stands out."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    place: int | None = None
    dashed: bool = False


def figure(height: float, width: float = _WIDTH) -> Figure:
    """An empty figure, inches."""
    return Figure(figsize=(width, height), layout="constrained")


def bars(rows: Sequence[Bar], colours: Palette, *, axis: str, percent: bool = False) -> Figure:
    """Horizontal bars, the first on top; at least one."""
    made = figure(0.9 + 0.3 * len(rows))
    draw_bars(made.subplots(), rows, colours, axis=axis, percent=percent)
    return made


def draw_bars(
    ax: Axes, rows: Sequence[Bar], colours: Palette, *, axis: str, percent: bool = False
) -> None:
    """As `bars`, on axes that are there; values stand at the right end."""
    places = range(len(rows))
    ax.barh(
        places,
        [row.value for row in rows],
        height=0.68,
        color=[getattr(colours, row.role) for row in rows],
    )
    lows = [min(row.sides[0] if row.sides else row.value, 0.0) for row in rows]
    highs = [max(row.sides[1] if row.sides else row.value, row.value, 0.0) for row in rows]
    reach = max([*highs, 1e-9])
    for place, row, high in zip(places, rows, highs, strict=True):
        if row.sides:
            ax.plot(row.sides, [place, place], color=colours.ink, linewidth=1.4)
        text = f"{100 * row.value:.1f} %" if percent else f"{row.value:.4f}"
        ax.text(high + 0.015 * reach, place, text, va="center", fontsize=9, color=colours.muted)
    ax.set_yticks(list(places), [_plain(row.label) for row in rows])
    ax.invert_yaxis()
    ax.set_xlim(1.05 * min(lows), 1.16 * reach)
    ax.axvline(0, color=colours.ink, linewidth=0.8)
    _dress(ax, colours, x=axis, grid="x")
    ax.tick_params(axis="y", length=0, labelcolor=colours.ink)
    ax.spines["left"].set_visible(False)
    if percent:
        ax.xaxis.set_major_formatter(FuncFormatter(_percent))


def curves(lines: Sequence[Line], colours: Palette, *, x: str, y: str) -> Figure:
    """Lines over a logarithmic x."""
    made = figure(4.4)
    ax = made.subplots()
    for line in lines:
        _draw(ax, line, colours)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(FuncFormatter(_percent))
    _dress(ax, colours, x=x, y=y, grid="both")
    _legend(made, ax, colours)
    return made


def histories(
    lines: Sequence[Line], colours: Palette, *, ticks: Sequence[str], x: str, y: str
) -> Figure:
    """Lines over a few named places."""
    made = figure(4.0)
    ax = made.subplots()
    for line in lines:
        _draw(ax, line, colours)
    ax.set_xticks(range(len(ticks)), [_plain(tick) for tick in ticks])
    ax.set_ylim(bottom=0)
    _dress(ax, colours, x=x, y=y, grid="y")
    _legend(made, ax, colours)
    return made


def dots(lines: Sequence[Line], colours: Palette, *, names: Sequence[str], x: str) -> Figure:
    """A row for each name, from the top, with a dot for each line."""
    made = figure(1.2 + 0.42 * len(names))
    ax = made.subplots()
    for line in lines:
        stands_out = line.place is None
        ax.plot(
            line.x,
            range(len(names)),
            linestyle="none",
            label=_plain(line.label),
            color=colours.ink if stands_out else colours.of(line.place or 0),
            marker="o" if stands_out else _MARKERS[(line.place or 0) % len(_MARKERS)],
            markersize=9 if stands_out else 6,
            zorder=2 if stands_out else 3,
        )
    ax.set_yticks(range(len(names)), [_plain(name) for name in names])
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.margins(y=0.12)
    _dress(ax, colours, x=x, grid="both")
    ax.tick_params(axis="y", length=0, labelcolor=colours.ink)
    _legend(made, ax, colours)
    return made


def calibration(lines: Sequence[Line], colours: Palette) -> Figure:
    """Observed shares against predicted probabilities, on logarithmic axes."""
    made = figure(4.6)
    ax = made.subplots()
    shown = [value for line in lines for value in (*line.x, *line.y) if value > 0]
    low, high = min(shown, default=1e-4), max(shown, default=1.0)
    ax.plot([low, high], [low, high], color=colours.muted, linewidth=1, linestyle=":")
    for line in lines:
        kept = [(a, b) for a, b in zip(line.x, line.y, strict=True) if a > 0 and b > 0]
        _draw(
            ax,
            Line(
                label=line.label,
                x=[a for a, _ in kept],
                y=[b for _, b in kept],
                place=line.place,
            ),
            colours,
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    for one in (ax.xaxis, ax.yaxis):
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        one.set_minor_formatter(NullFormatter())
    _dress(ax, colours, x="predicted chance", y="share that was chosen", grid="both")
    _legend(made, ax, colours)
    return made


def tradeoff(
    x: Sequence[float],
    y: Sequence[float],
    labels: Sequence[str],
    served: int | None,
    colours: Palette,
    *,
    x_name: str,
    y_name: str,
) -> Figure:
    """One curve with named points; the point that is served is marked."""
    made = figure(3.6)
    ax = made.subplots()
    ax.plot(x, y, color=colours.accent, linewidth=2, marker="o", markersize=5)
    if served is not None:
        ax.plot(
            x[served], y[served], marker="o", markersize=12, markerfacecolor="none",
            markeredgecolor=colours.ink, markeredgewidth=1.6,
        )  # fmt: skip
    for place, (a, b, text) in enumerate(zip(x, y, labels, strict=True)):
        name = f"{text} (served)" if place == served else text
        ax.annotate(
            name, (a, b), xytext=(6, -18 if place == served else 7), textcoords="offset points",
            fontsize=9, color=colours.muted,
        )  # fmt: skip
    ax.margins(0.12, 0.18)
    _dress(ax, colours, x=x_name, y=y_name, grid="both")
    return made


def _draw(ax: Axes, line: Line, colours: Palette) -> None:
    stands_out = line.place is None
    place = line.place or 0
    colour = colours.ink if stands_out else colours.of(place)
    turn = 1 if line.dashed else place // len(colours.series)
    ax.plot(
        line.x,
        line.y,
        label=_plain(line.label),
        color=colour,
        linewidth=2.6 if stands_out else 1.5,
        linestyle=_DASHES[turn % len(_DASHES)],
        marker=_MARKERS[place % len(_MARKERS)] if not stands_out else "o",
        markersize=4,
        zorder=3 if stands_out else 2,
    )


def _dress(ax: Axes, colours: Palette, *, x: str = "", y: str = "", grid: Any = "x") -> None:
    ax.set_axisbelow(True)
    ax.grid(visible=True, axis=grid, color=colours.rule, linewidth=0.8)
    ax.set_xlabel(x, color=colours.muted)
    ax.set_ylabel(y, color=colours.muted)
    ax.tick_params(colors=colours.rule, which="both", labelcolor=colours.muted)
    for spine in ax.spines.values():
        spine.set_color(colours.rule)


def _legend(made: Figure, ax: Axes, colours: Palette) -> None:
    if len(ax.get_legend_handles_labels()[1]) > 1:
        made.legend(loc="outside right center", frameon=False, labelcolor=colours.ink, fontsize=9)


def _plain(text: str) -> str:
    """The text itself: between dollars matplotlib would read a formula."""
    return text.replace("$", r"\$")


def _percent(value: float, _: object) -> str:
    return f"{100 * value:.3g} %"


def save(made: Figure, kind: str, colours: Palette | None = None) -> bytes:
    """`kind` is svg or png; with `colours` the background is painted, else nothing is."""
    out = io.BytesIO()
    made.savefig(
        out,
        format=kind,
        dpi=160,
        transparent=colours is None,
        facecolor=colours.surface if colours else "none",
        metadata={"Date": None} if kind == "svg" else {"Software": None},
    )
    return out.getvalue()


def styled() -> Any:
    """A context in which figures are made and saved."""
    return matplotlib.rc_context(_STYLE)


def inline_svg(made: Figure, name: str, *, title: str, description: str) -> Markup:
    """The figure as an element of an HTML page, with a title that is read aloud.

    `name` is unique on the page: it goes before every id of the drawing.
    """
    text = save(made, "svg").decode("utf-8")
    text = text[text.index("<svg") :]
    # Its style sheet would be that of the whole page, which has the same rule for drawings.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    head, _, body = text.partition(">")
    named = (
        f'{head} role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>'
    )
    return Markup(named + body)  # matplotlib escapes the labels in its SVG
