from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shortlist.cli import main as shortlist
from shortlist.commands.tune import OBJECTIVES
from shortlist.config import Config
from shortlist.errors import ArtifactRefused
from shortlist.launch import module_command, tethered
from tests.trained import job_environment, short_tmp
from tests.training.tiny import random_dataset, tiny_dataset
from training.tune import ConfigurationNotEditable, Outcome, _write_config, _write_table
from training.tuning.parts import PARTS, Part
from training.tuning.search import Trial
from training.tuning.sources import MEASURES, source_lessons


def part_of(name: str) -> Part:
    return next(part for part in PARTS if part.name == name)


def outcome(name: str, current: dict[str, Any], best: dict[str, Any]) -> Outcome:
    trials = [
        Trial(number=1, values=current, score=0.1, seconds=1.0),
        Trial(number=2, values=best, score=None, seconds=None, failure="training diverged"),
        Trial(number=3, values=best, score=0.2, seconds=2.0),
    ]
    return Outcome(part=part_of(name), measure="ndcg@100", trials=trials, best=trials[2])


MF = {"dim": 64, "regularization": 5.0, "confidence": 10.0}


def test_only_what_is_better_changes_in_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "shortlist.yaml"
    path.write_text("# mine\nretrieval:\n  mf: {iterations: 3}  # fast\nslate:\n  page_size: 7\n")
    _write_config(path, outcome("mf", MF, MF | {"dim": 128}))
    assert path.read_text() == (
        "# mine\nretrieval:\n  mf: {dim: 128, iterations: 3}  # fast\nslate:\n  page_size: 7\n"
    )
    assert [one.name for one in tmp_path.iterdir()] == ["shortlist.yaml"]


def test_without_a_file_one_is_made_of_what_is_better(tmp_path: Path) -> None:
    path = tmp_path / "shortlist.yaml"
    _write_config(path, outcome("popular", {"half_life_days": None}, {"half_life_days": 12.5}))
    assert Config.load(path) == Config.model_validate({"retrieval": {"half_life_days": 12.5}})
    assert path.read_text() == "retrieval:\n  half_life_days: 12.5\n"


def test_a_part_whose_current_values_are_best_leaves_the_file_alone(tmp_path: Path) -> None:
    _write_config(tmp_path / "shortlist.yaml", outcome("mf", MF, MF))
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_aliases_is_refused_with_the_values_and_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "shortlist.yaml"
    text = "retrieval:\n  content: &d {dim: 64}\n  mf: *d\n"
    path.write_text(text)
    with pytest.raises(ConfigurationNotEditable, match="'dim': 128"):
        _write_config(path, outcome("mf", MF, MF | {"dim": 128}))
    assert path.read_text() == text


def test_the_table_has_every_trial_with_its_failure(tmp_path: Path) -> None:
    _write_table(tmp_path / "mf.csv", outcome("mf", MF, MF | {"dim": 128}))
    with (tmp_path / "mf.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["note"] for row in rows] == ["current", "training diverged", "chosen"]
    assert [row["ndcg@100"] for row in rows] == ["0.100000", "", "0.200000"]
    assert [row["dim"] for row in rows] == ["64", "128", "128"]


def test_the_users_of_the_objective_come_from_the_backtest_and_never_from_the_test_part() -> None:
    dataset = random_dataset(rows=600, seed=3)
    lessons = source_lessons(dataset, Config(), measure="ndcg@20", seed=0)
    test = set(dataset.rows_of_split("test").tolist())
    assert not test & set(lessons.window.known.tolist())
    assert not test & set(lessons.window.next.tolist())
    for exam in lessons.exams:
        assert exam.relevant
        assert not exam.relevant & set(exam.seen.tolist())


def test_data_with_nothing_held_out_is_refused() -> None:
    dataset = tiny_dataset([0, 0, 1], [0, 1, 0], time_ms=[1, 2, 3], weight=[1, 1, 0])
    with pytest.raises(ArtifactRefused, match="nothing new and positive"):
        source_lessons(dataset, Config(), measure="ndcg@20", seed=0)


def test_the_command_offers_what_the_job_measures() -> None:
    assert tuple(MEASURES) == OBJECTIVES


def test_a_folder_without_a_data_set_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shortlist(["tune", "--workdir", str(tmp_path)]) == 2
    assert "run `shortlist import` first" in capsys.readouterr().err


def test_rankers_are_not_tuned_before_retrieval_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dataset").mkdir()
    for tier in ("ranking", "all"):
        assert shortlist(["tune", tier, "--workdir", str(tmp_path)]) == 2
        assert "tune retrieval only" in capsys.readouterr().err


@pytest.mark.slow
def test_sources_and_rankers_are_tuned_on_a_real_ray_and_nothing_is_left_elsewhere(
    trained_copy: Path, tmp_path: Path
) -> None:
    """One for each way to be judged: the tower's epochs, a source as it serves, a ranker."""
    path, before = trained_copy / "shortlist.yaml", _with_few_parts(trained_copy)
    before.save(path)
    home = tmp_path / "home"
    home.mkdir()
    # This seed draws models that train quickly.
    limits = ("--minutes", "15", "--trials", "2", "--seed", "1")
    options = ("--workdir", str(trained_copy), *limits, "--json")
    with short_tmp() as tmp:
        done = subprocess.run(
            tethered(module_command("shortlist", "tune", *options)),
            env=job_environment(tmp, home),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert list(tmp.iterdir()) == []
    assert list(home.iterdir()) == []
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert set(report) == {"two_tower", "cooccurrence", "gbdt"}
    for name, found in report.items():
        first, *_ = found["trials"]
        assert "current" in first["note"], name
        assert any("chosen" in row["note"].split(", ") for row in found["trials"]), found
    after = Config.load(path)
    assert (after == before) == (not any(found["changed"] for found in report.values()))


def _with_few_parts(workdir: Path) -> Config:
    """The configuration of a trained workdir with few sources, one ranker and few lessons."""
    document = Config.load(workdir / "shortlist.yaml").model_dump()
    quotas = document["retrieval"]["quotas"]
    document["retrieval"]["quotas"] = dict.fromkeys(quotas, 0) | {
        "two_tower": 200,
        "cooccurrence": 200,
    }
    document["ranking"] |= {"models": ("gbdt",), "requests": 300}
    return Config.model_validate(document)
