from __future__ import annotations

import io
import json

from rich.console import Console

from shortlist.commands.pages import Answer, page_document, show_page
from shortlist.page import (
    Coverage,
    Degradation,
    DegradationReason,
    Item,
    Page,
    SimilarItems,
    StageTrace,
    Trace,
    Versions,
)


def page() -> Page:
    return Page(
        request_id="r",
        items=(
            Item(id="i1", score=0.5, rank=0, sources=("two_tower", "popular"), title="[A] title"),
            Item(id="i2", score=0.25, rank=1, attributes={"genres": ("x", "y")}),
        ),
        attribution_token="t",
        next_page_token="n",
        coverage=Coverage(shards_answered=1, shards_total=2, items_searched=5, items_total=10),
        degradations=(Degradation(reason=DegradationReason.SHARD_DOWN, stage="shard/1"),),
        versions=Versions(retrieval="v1", ranking="v2", ranker="gbdt", arm="trees"),
        trace=Trace(
            stages=(
                StageTrace(
                    stage="retrieve",
                    duration_us=1500,
                    items_in=0,
                    items_out=1200,
                    dropped={"seen": 3},
                    by_source={"popular": 400},
                ),
            ),
            total_us=2000,
        ),
    )


def shown(value: Answer) -> str:
    console = Console(file=io.StringIO(), width=160, highlight=False)
    show_page(value, console, title="For 42")
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_page_shows_titles_scores_sources_and_the_funnel() -> None:
    text = shown(page())
    for part in ("For 42", "[A] title", "0.5000", "two_tower, popular", "x, y"):
        assert part in text
    for part in ("retrieve", "1,200", "1.50", "seen 3", "popular 400"):
        assert part in text


def test_a_page_says_what_is_missing_from_it() -> None:
    text = shown(page())
    assert "1/2 shards searched 5 of 10 items" in text
    assert "SHARD_DOWN at shard/1" in text
    assert "ranking v2 · ranker gbdt · arm trees" in text


def test_similar_items_are_shown_as_a_page_is_but_for_the_person() -> None:
    value = page()
    similar = SimilarItems(
        request_id="r",
        items=value.items,
        coverage=value.coverage,
        degradations=value.degradations,
        versions=Versions(retrieval="v1"),
    )
    text = shown(similar)
    assert "[A] title" in text
    assert "retrieval v1" in text
    assert "ranking" not in text
    document = json.loads(json.dumps(page_document(similar)))
    assert [item["id"] for item in document["items"]] == ["i1", "i2"]
    assert document["coverage"]["share"] == 0.5


def test_the_document_of_a_page_is_plain_json() -> None:
    document = json.loads(json.dumps(page_document(page())))
    assert [item["id"] for item in document["items"]] == ["i1", "i2"]
    assert document["items"][0]["sources"] == ["two_tower", "popular"]
    assert document["coverage"]["share"] == 0.5
    assert document["degradations"][0]["reason"] == "SHARD_DOWN"
    assert document["versions"]["ranking"] == "v2"
    assert (document["versions"]["ranker"], document["versions"]["arm"]) == ("gbdt", "trees")
    assert document["trace"]["stages"][0]["dropped"] == {"seen": 3}
