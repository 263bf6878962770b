"""The whole evaluation of a small system, whose artifacts hold random numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from training.dataset import Dataset
from training.evaluation import evaluate

SAMPLE = Path(__file__).parent / "sample.json"


@pytest.fixture(scope="module")
def result(workdir: Path) -> dict[str, Any]:
    return evaluate(workdir, users=25)


def test_every_figure_of_the_sample_is_there_and_no_other(result: dict[str, Any]) -> None:
    """Reports are made for the sample's shape."""
    sample = json.loads(SAMPLE.read_text())
    assert _shape(result) == _shape(sample)


def test_the_documentation_names_every_key(result: dict[str, Any], checkout: Path) -> None:
    text = (checkout / "docs" / "evaluation.md").read_text("utf-8")
    names = {part for path in _shape(result) for part in path.split(".")} - {"*", "[]"}
    assert {name for name in names if name not in text} == set()


def test_what_is_returned_is_written_and_holds_no_nan(
    result: dict[str, Any], workdir: Path
) -> None:
    assert json.loads((workdir / "evaluation.json").read_text()) == result
    assert all(math.isfinite(leaf) for leaf in _leaves(result) if isinstance(leaf, float))


def test_what_is_written_names_no_user(result: dict[str, Any], workdir: Path) -> None:
    users = Dataset.load(workdir / "dataset").user_ids.to_pylist()
    text = (workdir / "evaluation.json").read_text()
    assert users
    assert [user for user in users if user in text] == []


def test_every_system_is_measured_and_shares_are_shares(result: dict[str, Any]) -> None:
    sources = result["settings"]["sources"]
    rankers = [f"ranker:{name}" for name in result["settings"]["rankers"]]
    assert list(result["systems"]) == ["page", *sources, *rankers, "random"]
    assert {"two_tower", "creator"} < set(sources)
    assert {"ranker:ensemble", "ranker:none"} < set(rankers)
    for figures in result["systems"].values():
        for name in ("recall@20", "ndcg@10", "ndcg@20", "mrr", "coverage"):
            assert 0 <= figures[name] <= 1
        low, high = figures["ci"]["ndcg@20"]
        assert low <= figures["ndcg@20"] <= high


def test_the_blends_order_is_a_ranker_among_others(result: dict[str, Any]) -> None:
    none, blend = result["systems"]["ranker:none"], result["retrieval"]["blend"]
    assert none["recall@20"] == blend["recall@20"]
    assert result["rankers"]["none"]["ndcg@20"] == none["ndcg@20"]
    assert result["rankers"]["none"]["gain_over_none"]["difference"] == 0
    assert result["comparisons"]["page_minus"]["ranker:none"]["ndcg@20"]["difference"] == (
        pytest.approx(result["systems"]["page"]["ndcg@20"] - none["ndcg@20"])
    )


def test_the_funnel_narrows_and_agrees_with_retrieval(result: dict[str, Any]) -> None:
    funnel = result["funnel"]
    found = [stage["relevant"] for stage in funnel["stages"]]
    assert found == sorted(found, reverse=True)
    assert funnel["recall"] == pytest.approx(result["retrieval"]["blend"]["recall@1000"])
    for row in funnel["sources"].values():
        assert 0 <= row["unique_hits"] <= row["hits"]
        assert row["recall_lost"] == pytest.approx(funnel["recall"] - row["recall_without"])


def test_fractional_shares_of_the_page_add_up(result: dict[str, Any]) -> None:
    rows = result["page_sources"].values()
    assert sum(row["fractional"] for row in rows) == pytest.approx(1)
    assert all(row["only"] <= row["fractional"] <= row["any"] for row in rows)


def test_new_users_are_the_same_users_with_less_history(result: dict[str, Any]) -> None:
    users = result["cold_start"]["users"]
    assert [cut["events"] for cut in users["cuts"]] == [0, 1, 3, 5, None]
    popular = [cut["systems"]["popular"] for cut in users["cuts"]]
    assert all(one == pytest.approx(popular[0]) for one in popular)
    assert users["cuts"][0]["systems"]["cooccurrence"]["ndcg@20"] == 0


def test_among_cold_items_nothing_else_is_ranked(result: dict[str, Any]) -> None:
    items = result["cold_start"]["items"]
    assert items["cold_items"] == 8
    # All eight fit on a page.
    assert items["among_cold"]["two_tower"]["recall@20"] == 1
    assert items["among_cold"]["random"]["recall@20"] == 1


def test_more_diversity_and_more_fresh_items_are_what_the_dials_give(
    result: dict[str, Any],
) -> None:
    diversity = [point["diversity"] for point in result["tradeoffs"]["diversity"]["points"]]
    assert diversity[-1] > diversity[0]
    fresh = [point["fresh_share"] for point in result["tradeoffs"]["freshness"]["points"]]
    assert fresh == sorted(fresh)
    assert result["tradeoffs"]["freshness"]["served"] == 2


def test_equal_seeds_give_equal_figures(result: dict[str, Any], workdir: Path) -> None:
    again = evaluate(workdir, users=25)
    assert {**again, "seconds": None} == {**result, "seconds": None}


def _shape(value: Any) -> set[str]:
    """Paths of all leaves; names of lists, sources and rankers are `*`."""
    return set(_paths(value, ""))


def _paths(value: Any, at: str) -> Iterator[str]:
    if isinstance(value, dict):
        named = at in _NAMED
        for name, inner in value.items():
            yield from _paths(inner, f"{at}.{'*' if named else name}".lstrip("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from _paths(inner, f"{at}.[]")
    else:
        yield at


_NAMED = {
    "systems",
    "comparisons.page_minus",
    "retrieval",
    "curves.recall",
    "rankers",
    "cohorts.[].systems",
    "cohorts.[].ci",
    "page_sources",
    "funnel.sources",
    "cold_start.users.cuts.[].systems",
    "cold_start.users.cuts.[].ci",
    "cold_start.items.among_cold",
    "cold_start.items.whole_catalogue",
    "cold_start.both.among_cold",
    "cold_start.both.whole_catalogue",
    "seconds",
    "settings.absent_sources",
}


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value
