from __future__ import annotations

import io
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shortlist.commands.evaluate import _write_picture, show_evaluation, show_summary
from shortlist.commands.terminal import Terminal

SAMPLE = Path("tests/training/evaluation/sample.json")


@pytest.fixture
def result(checkout: Path) -> dict[str, Any]:
    return dict(json.loads((checkout / SAMPLE).read_text()))


@pytest.fixture
def terminal() -> Terminal:
    terminal = Terminal()
    terminal.out = Console(file=io.StringIO(), width=120, highlight=False)
    return terminal


def text_of(terminal: Terminal) -> str:
    file = terminal.out.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_every_part_has_a_section_and_no_name_is_cut(
    result: dict[str, Any], terminal: Terminal
) -> None:
    show_evaluation(result, terminal)
    shown = text_of(terminal)
    for title in ("systems", "retrieval", "funnel", "sources", "rankers", "cohorts", "new users",
                  "only new items", "diversity", "freshness"):  # fmt: skip
        assert f"{title}:" in shown
    for name in (*result["systems"], *(one["name"] for one in result["cohorts"])):
        assert f"│ {name}" in shown
    assert "…" not in shown


def test_the_page_is_compared_with_its_best_rivals_in_words(
    result: dict[str, Any], terminal: Terminal
) -> None:
    show_summary(result, terminal)
    shown = text_of(terminal)
    assert "page minus best source (cooccurrence): nDCG@20 +0.0130 (+0.0090 to +0.0170)" in shown
    assert "page minus best ranker (ranker:ensemble)" in shown


def test_what_could_not_be_measured_says_why(result: dict[str, Any], terminal: Terminal) -> None:
    changed = deepcopy(result)
    changed["cold_start"] = {
        "users": {"absent": "nobody has a history"},
        "items": {"absent": "no new items"},
        "both": {"absent": "nothing is new"},
    }
    changed["tradeoffs"]["freshness"] = {"absent": "the data has no times"}
    changed["systems"]["page"]["ndcg@20"] = None
    changed["comparisons"]["page_minus"]["cooccurrence"]["ndcg@20"] = {
        "difference": None,
        "ci": [None, None],
    }
    show_evaluation(changed, terminal)
    shown = text_of(terminal)
    for reason in ("nobody has a history", "no new items", "nothing is new", "data has no times"):
        assert reason in shown
    assert "nDCG@20 ? (? to ?)" in shown


def test_the_picture_goes_where_it_is_wanted(result: dict[str, Any], tmp_path: Path) -> None:
    _write_picture(result, tmp_path / "new" / "evaluation.svg")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "evaluation.svg",
        "evaluation.png",
    }
