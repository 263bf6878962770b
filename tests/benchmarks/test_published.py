"""The command, on tiny data in the layouts of the publishers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.protocols.exams import exams_of
from benchmarks.protocols.marking import mark_rankings
from benchmarks.protocols.protocol import Protocol
from benchmarks.published import _table, main
from shortlist.ids import key_of
from tests.benchmarks.protocols.files import write_lists, write_ratings_dat
from tests.trained import short_tmp


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)


def shown(table: Any) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_absent_files_end_the_run_with_their_names_and_address(tmp_path: Path) -> None:
    done = run("ml-20m", "--source", tmp_path)
    assert done.exit_code == 1
    assert "ratings.csv" in done.stderr
    assert "https://grouplens.org/datasets/movielens/20m/" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--measure-only"]])
def test_a_run_needs_files_or_what_an_earlier_run_trained(arguments: list[str]) -> None:
    done = run("gowalla", *arguments)
    assert done.exit_code == 2
    assert "--source" in done.stderr


def test_the_table_has_ours_among_theirs_in_order_with_citations() -> None:
    protocol = Protocol.load("gowalla")
    result = {
        "protocol": {
            "title": protocol.title,
            "part": "test",
            "users": 29_858,
            "metrics": protocol.metrics,
        },
        "systems": {"page": {"recall@20": 0.18, "ndcg@20": 0.15}},
        "published": [
            {"name": row.name, **row.figures, "citation": row.citation}
            for row in protocol.published
        ],
        "published_source": protocol.source,
        "seed": 7,
    }
    text = shown(_table(result))
    places = [text.index(name) for name in ("ItemCF", "YoutubeDNN", "page", "GF-CF", "UltraGCN")]
    assert places == sorted(places)
    assert "SIGIR 2020" in text
    assert "seed 7" in text


@pytest.fixture(scope="module")
def gowalla(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What a run on tiny lists printed, and its workdir."""
    folder = tmp_path_factory.mktemp("gowalla")
    source = write_lists(folder / "source")
    with short_tmp() as tmp, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp))
        done = run("gowalla", "--source", source, "--workdir", folder / "workdir", "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), folder / "workdir"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_measures_every_source_the_blend_and_the_page(
    gowalla: tuple[dict[str, Any], Path],
) -> None:
    result, _ = gowalla
    systems = result["systems"]
    assert {"two_tower", "mf", "cooccurrence", "popular", "blend", "page"} <= systems.keys()
    for figures in systems.values():
        assert figures.keys() == {"recall@20", "ndcg@20"}
        assert all(0 <= value <= 1 for value in figures.values())
    # A user's 4 hidden items are among the 16 unseen ones of 60 that its circle likes.
    assert systems["cooccurrence"]["recall@20"] > 0.9
    assert systems["page"]["recall@20"] > 0.9
    assert result["protocol"]["users"] == 60
    assert [row["name"] for row in result["published"]][-1] == "SimpleX"
    assert result["seed"] == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_cpu_time_has_that_of_rays_workers(gowalla: tuple[dict[str, Any], Path]) -> None:
    result, _ = gowalla
    steps = result["steps"]
    assert list(steps) == ["import", "train retrieval", "train ranking", "measure"]
    used = {step: cost["cpu_s"] for step, cost in steps.items()}
    # Importing TensorFlow alone takes a worker some seconds.
    assert used["train retrieval"] > 2
    assert result["cpu_s"] == pytest.approx(sum(used.values()), rel=0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_measuring_again_with_other_processes_gives_the_same_figures(
    gowalla: tuple[dict[str, Any], Path],
) -> None:
    result, workdir = gowalla
    done = run("gowalla", "--measure-only", "--workdir", workdir, "--json", "--processes", "1")
    again = json.loads(done.stdout)
    assert again["versions"] == result["versions"]
    for system, figures in result["systems"].items():
        assert again["systems"][system] == pytest.approx(figures)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rankers_are_measured_where_that_is_asked_for(
    gowalla: tuple[dict[str, Any], Path],
) -> None:
    _, workdir = gowalla
    options = ("--measure-only", "--workdir", workdir, "--rankers", "--users", "10", "--json")
    result = json.loads(run("gowalla", *options).stdout)
    assert {"ranker:dcn", "ranker:gbdt", "ranker:linear"} <= result["systems"].keys()
    assert result["protocol"]["users"] == 10


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stranger_who_shows_the_same_history_gets_the_same_from_it(
    gowalla: tuple[dict[str, Any], Path],
) -> None:
    _, workdir = gowalla
    protocol = Protocol.load("gowalla")
    known = exams_of(protocol, workdir, 8, 0)
    strangers = [
        replace(exam, user_id=name, user=replace(exam.user, user_key=key_of(name)))
        for exam in known
        for name in [f"stranger {exam.user_id}"]
    ]
    figures = [
        mark_rankings(
            workdir,
            exams,
            protocol.ranking_metrics,
            rankers=False,
            processes=1,
            progress=lambda done, total: None,
        )
        for exams in (known, strangers)
    ]
    assert figures[1] == figures[0]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_later_ratings_are_judged_by_auc(tmp_path: Path) -> None:
    source = write_ratings_dat(tmp_path / "source")
    with short_tmp() as tmp, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp))
        done = run("ml-1m", "--source", source, "--workdir", tmp_path / "workdir", "--json")
    assert done.exit_code == 0, done.stderr
    assert 0 <= json.loads(done.stdout)["systems"]["page"]["auc"] <= 1
