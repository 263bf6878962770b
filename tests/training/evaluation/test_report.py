from __future__ import annotations

import copy
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from training.evaluation.report import write_picture, write_report
from training.evaluation.report_summary import summary

VOID = {"meta", "br", "hr", "img", "link", "input", "col"}
SECTIONS = (
    "summary",
    "systems",
    "funnel",
    "sources",
    "rankers",
    "recall",
    "calibration",
    "cohorts",
    "cold-start",
    "tradeoffs",
    "versions",
    "methods",
)
PLOTS = (
    "systems",
    "funnel",
    "sources",
    "rankers",
    "recall",
    "calibration",
    "cohorts",
    "newcomers",
    "new-items",
    "new-both",
    "tradeoff-strength",
    "tradeoff-minimum",
)


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects what tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []  # what a browser would fetch
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in {"src", "srcset", "href", "xlink:href", "data", "action", "poster"}:
                self.loads.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> is out of order"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def sample() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("sample.json").read_text("utf-8"))


@pytest.fixture
def changed(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample of its own for a test that changes it."""
    return copy.deepcopy(sample)


def written(result: dict[str, Any], tmp_path: Path) -> tuple[str, Page]:
    write_report(result, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def report(sample: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    return written(sample, tmp_path_factory.mktemp("report"))


def test_the_page_is_balanced_and_no_id_is_used_twice(report: tuple[str, Page]) -> None:
    _, page = report
    assert [name for name, uses in Counter(page.ids).items() if uses > 1] == []


def test_the_page_loads_nothing_and_runs_nothing(report: tuple[str, Page]) -> None:
    text, page = report
    assert [one for one in page.loads if not one.startswith("#")] == []
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == 0
    assert "@import" not in text
    assert page.tags["style"] == 1
    assert not re.search(r"url\((?!#)", text)
    outside = [one for one in page.links if not one.startswith("#")]
    assert outside
    assert all(one.startswith("https://doi.org/") for one in outside)


def test_every_inner_reference_has_its_target(report: tuple[str, Page]) -> None:
    text, page = report
    inner = {one[1:] for one in (*page.loads, *page.links) if one.startswith("#")}
    inner |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert inner <= set(page.ids)


def test_all_sections_and_plots_are_there_with_titles_that_are_read_aloud(
    report: tuple[str, Page],
) -> None:
    _, page = report
    assert [one for one in page.ids if one in SECTIONS] == sorted(SECTIONS, key=page.ids.index)
    assert set(SECTIONS) <= set(page.ids)
    for plot in PLOTS:
        assert f"{plot}-title" in page.ids
        assert f"{plot}-desc" in page.ids
    assert page.tags["svg"] == len(PLOTS)
    assert page.tags["table"] > len(PLOTS)


def test_the_plots_take_the_colours_of_the_page(report: tuple[str, Page]) -> None:
    text, _ = report
    assert "var(--accent)" in text
    assert not re.findall(r"#000[01][0-9a-f]{2}\b", text)


def test_the_summary_says_what_the_figures_say(sample: dict[str, Any]) -> None:
    sentences = summary(sample)
    shares = {one["stage"]: one["share"] for one in sample["funnel"]["stages"]}
    assert f"candidates held {100 * shares['blend']:.0f}" in sentences[0]
    assert f"the page of 20 showed {100 * shares['page']:.0f}." in sentences[0]
    assert "better than the best single source (co-occurrence)" in sentences[1]
    assert "cannot be told apart" in sentences[2]


def test_a_page_that_is_worse_is_called_worse(changed: dict[str, Any]) -> None:
    best = changed["comparisons"]["best_source"]
    changed["comparisons"]["page_minus"][best]["ndcg@20"] = {
        "difference": -0.02,
        "ci": [-0.03, -0.01],
    }
    changed["systems"][best]["ndcg@20"] = 0.111
    assert "The page is worse than the best single source" in summary(changed)[1]


def test_figures_of_every_source_and_ranker_stand_in_the_tables(
    report: tuple[str, Page], sample: dict[str, Any]
) -> None:
    _, page = report
    for row in sample["rankers"].values():
        assert f"{row['auc']:.4f}" in page.text
    for row in sample["funnel"]["sources"].values():
        assert f"{row['recall_without']:.4f}" in page.text
        assert f" {row['unique_hits']} " in page.text


HOSTILE = "<script>alert('$x$')</script>\"&"


@pytest.fixture(scope="module")
def odd(sample: dict[str, Any]) -> dict[str, Any]:
    """Hostile names in every part, and figures that are undefined."""
    result = copy.deepcopy(sample)
    result["data"]["name"] = HOSTILE
    result["cohorts"][0]["name"] = result["cohorts"][0]["description"] = HOSTILE
    result["settings"]["sources"].append(HOSTILE)
    for part in ("systems", "retrieval", "page_sources"):
        result[part][HOSTILE] = dict(result[part]["mf"])
    result["funnel"]["sources"][HOSTILE] = dict(result["funnel"]["sources"]["mf"])
    result["curves"]["recall"][HOSTILE] = list(result["curves"]["recall"]["mf"])
    result["rankers"][HOSTILE] = dict(result["rankers"]["dcn"])
    result["rankers"]["dcn"] |= {"auc": None, "gauc": float("nan"), "ci": None}
    result["cold_start"]["users"]["cuts"][0]["systems"]["page"]["ndcg@20"] = None
    return result


@pytest.fixture(scope="module")
def odd_report(odd: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    return written(odd, tmp_path_factory.mktemp("odd"))


def test_hostile_names_are_text(
    odd: dict[str, Any], odd_report: tuple[str, Page], tmp_path: Path
) -> None:
    text, page = odd_report
    assert page.tags["script"] == 0
    assert "<script" not in text
    assert page.text.count(HOSTILE) > 8
    write_picture(odd, tmp_path / "picture.svg")
    ElementTree.fromstring((tmp_path / "picture.svg").read_bytes())


def test_figures_that_are_undefined_are_dashes(odd_report: tuple[str, Page]) -> None:
    text, _ = odd_report
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert "<td>–</td>" in text


def test_what_was_not_measured_says_why(changed: dict[str, Any], tmp_path: Path) -> None:
    changed["cold_start"]["items"] = {"absent": "every item has interactions"}
    changed["tradeoffs"] = {"absent": "the data has no times"}
    changed["rankers"] = None
    del changed["cohorts"]
    _, page = written(changed, tmp_path)
    assert "New items, not measured: every item has interactions." in page.text
    assert "Diversity against relevance, not measured: the data has no times." in page.text
    assert page.text.count("Not measured: the evaluation has no such part.") == 3
    assert set(SECTIONS) <= set(page.ids)


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"systems": {"page": {"ndcg@20": 0.1}}},
        {"systems": {"page": {"ndcg@20": None, "ci": {"ndcg@20": None}}}, "funnel": {"stages": []}},
        {"rankers": {"none": {"auc": None, "calibration": []}}, "retrieval": {"blend": {}}},
        {
            "tradeoffs": {"diversity": {"points": []}},
            "cold_start": {"users": {"cuts": []}, "items": {"among_cold": {}}},
        },
    ],
)
def test_a_result_with_hardly_anything_makes_a_page(result: dict[str, Any], tmp_path: Path) -> None:
    _, page = written(result, tmp_path)
    assert set(SECTIONS) <= set(page.ids)
    write_picture(result, tmp_path / "picture.svg")


def test_the_same_result_makes_the_same_bytes(sample: dict[str, Any], tmp_path: Path) -> None:
    few = {part: sample[part] for part in ("data", "settings", "systems", "funnel")}
    one, other = (written(few, tmp_path) for _ in range(2))
    assert one[1].tags["svg"] >= 2
    assert one[0] == other[0]


def test_the_picture_is_one_drawing_in_two_formats(sample: dict[str, Any], tmp_path: Path) -> None:
    write_picture(sample, tmp_path / "evaluation.svg")
    drawing = ElementTree.fromstring((tmp_path / "evaluation.svg").read_bytes())
    words = " ".join("".join(one.itertext()) for one in drawing.iter() if one.tag.endswith("text"))
    assert "the page" in words
    assert "co-occurrence" in words
    assert "var(--" not in (tmp_path / "evaluation.svg").read_text("utf-8")
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.svg", "evaluation.png"}
