"""The evaluation as one page that a product person can read, and as a picture for the README.

The page is self-contained: styles and drawings are in it, it needs no script and loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.evaluation import report_plots as plots
from training.evaluation.report_figures import count
from training.evaluation.report_plots import PRINT_COLOURS, draw_bars, figure, save, styled
from training.evaluation.report_sections import sections, source_bars, system_bars
from training.evaluation.report_summary import summary

__all__ = ["write_picture", "write_report"]

_TEMPLATES = Path(__file__).parent / "templates"
_PICTURE_ROWS = 9  # systems beside the page


def write_report(result: Mapping[str, Any], path: Path) -> None:
    """Write one HTML file from what `evaluate` returned; `docs/evaluation.md` describes it.

    Parts that are absent say why.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data, users = result.get("data") or {}, result.get("users") or {}
    with styled():
        page = environment.get_template("report.html").render(
            name=str(data.get("name") or "evaluation"),
            about=(
                f"{count(users.get('evaluated'))} people, {count(data.get('items'))} items, "
                f"test part by {result.get('split') or 'an unknown rule'}"
            ),
            summary=summary(result),
            sections=sections(result),
        )
    path.write_text(page, "utf-8")


def write_picture(result: Mapping[str, Any], path: Path) -> None:
    """Write `path` as SVG and beside it the same as PNG: the systems, and what each source adds.

    Parts that are absent are left empty with a word about it.
    """
    with styled():
        made = _picture(result)
        for kind in ("svg", "png"):
            path.with_suffix(f".{kind}").write_bytes(save(made, kind, PRINT_COLOURS))


def _picture(result: Mapping[str, Any]) -> plots.Figure:
    made = figure(4.2, 11.0)
    left, right = made.subplots(1, 2)
    funnel = result.get("funnel") or {}
    panels = (
        (
            left,
            "nDCG@20: the page, and its parts alone",
            system_bars(result, _PICTURE_ROWS) if result.get("systems") else [],
            "nDCG@20, with 95 % intervals",
            False,
        ),
        (
            right,
            f"Recall@{funnel.get('limit', 'k')} that is lost without a source",
            source_bars(result) if funnel.get("sources") else [],
            "loss of recall, with 95 % intervals",
            True,
        ),
    )
    for ax, title, rows, axis, percent in panels:
        ax.set_title(title, loc="left", fontsize=11, color=PRINT_COLOURS.ink)
        if rows:
            draw_bars(ax, rows, PRINT_COLOURS, axis=axis, percent=percent)
        else:
            ax.set_axis_off()
            ax.text(0.5, 0.5, "not measured", ha="center", color=PRINT_COLOURS.muted)
    return made
