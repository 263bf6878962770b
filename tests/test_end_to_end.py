"""The promises of the README, kept by real processes: demo, serve, up, a stranger's files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from shortlist.config import Config
from shortlist.launch import child_environment, tethered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHOP = Path("examples/shop")


CONFIG = {
    "retrieval": {"two_tower": {"dim": 16, "epochs": 2}},
    "ranking": {"dcn": {"hidden": [16, 8], "epochs": 2}, "gbdt": {"trees": 20, "leaves": 7}},
    # Generous, so that a busy machine cannot make a page differ.
    "serving": {
        "retrieval_budget_ms": 20_000,
        "ranking_budget_ms": 20_000,
        "describe_budget_ms": 20_000,
        "request_budget_ms": 60_000,
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home folder and temporary folder of every command that is run here."""
    home = tmp_path_factory.mktemp("home")
    (home / "tmp").mkdir()
    return home


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, home: Path) -> tuple[Path, str]:
    """The workdir of `shortlist demo --fast`, and what it printed."""
    workdir = tmp_path_factory.mktemp("demo")
    Config.model_validate(CONFIG).save(workdir / "shortlist.yaml")
    return workdir, shortlist("demo", "--fast", "--workdir", workdir, home=home)


def test_the_demo_prints_metrics_two_pages_of_twenty_and_the_funnel(
    demo: tuple[Path, str],
) -> None:
    _, output = demo
    for system in ("popular", "two_tower", "ranker:none", "page"):
        assert f"│ {system}" in output
    assert "page minus best source" in output
    assert output.count("│ 20 │") == 2
    assert output.count("Funnel") == 2
    assert "For somebody-new" in output
    assert "cold start" in output


def test_the_demo_leaves_nothing_running_and_nothing_outside_the_workdir(
    demo: tuple[Path, str], home: Path
) -> None:
    workdir, _ = demo
    assert processes_naming(str(workdir)) == []
    assert not (workdir / "run" / "up.json").exists()
    assert [path.name for path in home.rglob("*")] == ["tmp"]


def test_evaluate_prints_one_object_with_all_figures_and_writes_a_report(
    demo: tuple[Path, str], tmp_path: Path
) -> None:
    workdir, _ = demo
    report = tmp_path / "reports" / "report.html"
    printed = shortlist(
        "evaluate", "--workdir", workdir, "--users", 100, "--html", report, "--json"
    )
    result = json.loads(printed)
    for system in ("popular", "two_tower", "ranker:none", "page"):
        figures = result["systems"][system]
        assert {"recall@20", "ndcg@20", "coverage", "diversity", "ci"} <= set(figures)
    for source in ("popular", "two_tower", "blend"):
        assert {"recall@20", "recall@100", "recall@1000"} <= set(result["retrieval"][source])
    assert 0.5 < result["rankers"]["ensemble"]["auc"] <= 1.0
    assert "<!DOCTYPE html>" in report.read_text("utf-8")


def test_embedded_served_and_distributed_give_the_same_page_and_a_dead_shard_is_reported(
    demo: tuple[Path, str],
) -> None:
    workdir, _ = demo
    user = ["--user", a_user(workdir)]
    embedded = page("--workdir", workdir, *user)
    with serving("serve", "--workdir", workdir, "--port", 0) as server:
        served = page("--target", f"127.0.0.1:{announced_port(server)}", *user)
    with serving("up", "--workdir", workdir, "--shards", 2, "--port", 0) as system:
        status = wait_for_status(workdir / "run" / "up.json", system)
        target = process_of(status, "orchestrator-0")["address"]
        distributed = page("--target", target, *user)
        os.kill(process_of(status, "retrieval-1-0")["pid"], signal.SIGKILL)
        degraded = page("--target", target, *user)
    assert len(ids(embedded)) == 20
    assert ids(served) == ids(embedded)
    assert ids(distributed) == ids(embedded)
    assert coverage(distributed) == (2, 2)
    assert len(ids(degraded)) == 20
    assert coverage(degraded) == (1, 2)
    assert {loss["reason"] for loss in degraded["degradations"]} >= {"SHARD_DOWN"}
    assert processes_naming(str(workdir)) == []


def test_the_catalogue_can_be_served_in_another_number_of_shards(demo: tuple[Path, str]) -> None:
    workdir, _ = demo
    user = ["--user", a_user(workdir)]
    with serving("up", "--workdir", workdir, "--shards", 3, "--port", 0) as system:
        status = wait_for_status(workdir / "run" / "up.json", system)
        resharded = page("--target", process_of(status, "orchestrator-0")["address"], *user)
    assert coverage(resharded) == (3, 3)
    assert ids(resharded) == ids(page("--workdir", workdir, *user))


def test_a_strangers_files_become_a_page_with_a_schema_of_fewer_than_30_lines(
    tmp_path: Path, checkout: Path
) -> None:
    schema = checkout / SHOP / "shop.yaml"
    assert len(schema.read_text().splitlines()) < 30
    files, workdir = tmp_path / "files", tmp_path / "w"
    subprocess.run([sys.executable, checkout / SHOP / "make_files.py", files], check=True)
    columns = (files / "clickstream.csv").read_text().splitlines()[0].split(",")
    assert set(columns) <= set(yaml.safe_load(schema.read_text())["interactions"][0].values())
    workdir.mkdir()
    Config.model_validate(CONFIG).save(workdir / "shortlist.yaml")

    report = json.loads(
        shortlist("import", "--schema", schema, "--source", files, "--workdir", workdir, "--json")
    )
    shortlist("train", "--workdir", workdir)
    recommended = page("--workdir", workdir, "--user", "f1@example.org")

    assert report["event_types"] == ["view", "purchase"]
    skus = {line.split(",")[0] for line in (files / "products.csv").read_text().splitlines()[1:]}
    assert len(ids(recommended)) == 20
    assert set(ids(recommended)) <= skus
    assert not recommended["cold_start"]
    assert all(item["title"] for item in recommended["items"])


def shortlist(*arguments: object, home: Path | None = None) -> str:
    """Run the command line to its end; its stdout."""
    elsewhere = {"HOME": str(home), "TMPDIR": str(home / "tmp")} if home else {}
    done = subprocess.run(
        [sys.executable, "-m", "shortlist", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=child_environment(elsewhere),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def page(*arguments: object) -> dict[str, Any]:
    return dict(json.loads(shortlist("recommend", *arguments, "--json")))


def ids(document: dict[str, Any]) -> list[str]:
    return [item["id"] for item in document["items"]]


def coverage(document: dict[str, Any]) -> tuple[int, int]:
    return document["coverage"]["shards_answered"], document["coverage"]["shards_total"]


@contextlib.contextmanager
def serving(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A server that runs inside the block, and ends by Ctrl-C with exit code 0 after it."""
    server = subprocess.Popen(
        tethered([sys.executable, "-m", "shortlist", *map(str, arguments)]),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=child_environment(),
    )
    try:
        yield server
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.communicate()


def announced_port(server: subprocess.Popen[str]) -> int:
    assert server.stdout is not None
    return int(json.loads(server.stdout.readline())["port"])


def wait_for_status(path: Path, system: subprocess.Popen[str]) -> Sequence[dict[str, Any]]:
    while not path.exists():
        assert system.poll() is None, "`shortlist up` ended"
        time.sleep(0.1)
    return list(json.loads(path.read_text())["processes"])


def process_of(status: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(process for process in status if process["name"] == name)


def a_user(workdir: Path) -> str:
    """Somebody with a history."""
    from training.dataset import Dataset

    dataset = Dataset.load(workdir / "dataset")
    return str(dataset.user_ids[int(dataset.events.user[-1])].as_py())


def processes_naming(text: str) -> list[str]:
    """Command lines of running processes that hold `text`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if text in line]
