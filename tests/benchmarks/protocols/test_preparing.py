"""From files in the publishers' layouts to data sets, and to the questions about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.protocols.exams import exams_of, rating_exams_of
from benchmarks.protocols.held_out import read_held_out
from benchmarks.protocols.preparing import NotPrepared, Part, Prepared, files_folder, prepare
from benchmarks.protocols.protocol import Protocol
from shortlist.commands.terminal import Terminal
from shortlist.config import Config
from shortlist.errors import ArtifactRefused
from tests.benchmarks.protocols.files import (
    PLAN,
    write_lists,
    write_ratings_csv,
    write_ratings_dat,
)
from training.dataset import Dataset
from training.windows import backtest_window, serving_window


def lists_of(path: Path) -> dict[str, set[str]]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {user: set(items) for user, *items in rows}


def prepared(name: str, source: Path, workdir: Path, part: Part = "test") -> Dataset:
    prepared = Prepared(protocol=name, part=part, seed=0)
    prepare(protocol_of(name), source, workdir, prepared, Terminal(as_json=True))
    return Dataset.load(workdir / "dataset")


def protocol_of(name: str) -> Protocol:
    protocol = Protocol.load(name)
    if protocol.held_out_users is None:
        return protocol
    return protocol.model_copy(update={"held_out_users": PLAN})


# --- given lists ---


def test_train_and_validation_lists_are_known_and_the_test_lists_are_to_be_found(
    tmp_path: Path,
) -> None:
    source, workdir = write_lists(tmp_path / "source"), tmp_path / "workdir"
    dataset = prepared("gowalla", source, workdir)
    train, valid, test = (lists_of(source / f"{name}.txt") for name in ("train", "valid", "test"))
    exams = exams_of(protocol_of("gowalla"), workdir, None, 0)
    assert [exam.user_id for exam in exams] == dataset.user_ids.to_pylist()
    for exam in exams:
        wanted = {dataset.item_ids[row].as_py() for row in exam.relevant}
        assert wanted == test[exam.user_id]
        known = train[exam.user_id] | valid[exam.user_id]
        assert {dataset.item_row(item) for item in known} == {
            dataset.item_row(int(key)) for key in exam.user.history.keys
        }


def test_the_workdir_is_configured_as_the_protocol_says(tmp_path: Path) -> None:
    prepared("gowalla", write_lists(tmp_path / "source"), tmp_path / "workdir")
    config = Config.load(tmp_path / "workdir" / "shortlist.yaml")
    assert config == Protocol.load("gowalla").config()


def test_judging_by_validation_leaves_the_test_lists_out(tmp_path: Path) -> None:
    source, workdir = write_lists(tmp_path / "source"), tmp_path / "workdir"
    dataset = prepared("gowalla", source, workdir, "validation")
    valid = lists_of(source / "valid.txt")
    for exam in exams_of(protocol_of("gowalla"), workdir, None, 0):
        assert {dataset.item_ids[row].as_py() for row in exam.relevant} == valid[exam.user_id]
    train = sum(len(items) for items in lists_of(source / "train.txt").values())
    assert len(serving_window(dataset).known) == train
    assert len(dataset.events) == train + sum(len(items) for items in valid.values())


def test_so_many_users_are_drawn_by_seed(tmp_path: Path) -> None:
    source, workdir = write_lists(tmp_path / "source"), tmp_path / "workdir"
    prepared("gowalla", source, workdir)

    def drawn(seed: int) -> list[str]:
        return [exam.user_id for exam in exams_of(protocol_of("gowalla"), workdir, 10, seed)]

    assert len(drawn(0)) == 10
    assert drawn(0) == drawn(0) != drawn(1)


def test_data_without_anything_to_find_is_refused(tmp_path: Path) -> None:
    source, workdir = write_lists(tmp_path / "source"), tmp_path / "workdir"
    (source / "test.txt").write_text((source / "train.txt").read_text())
    prepared("gowalla", source, workdir)
    with pytest.raises(ArtifactRefused, match="nothing to find"):
        exams_of(protocol_of("gowalla"), workdir, None, 0)


def test_a_workdir_says_what_it_was_made_for(tmp_path: Path) -> None:
    prepared("gowalla", write_lists(tmp_path / "source"), tmp_path / "workdir", "validation")
    made = Prepared.load(tmp_path / "workdir", "gowalla")
    assert made == Prepared(protocol="gowalla", part="validation", seed=0)
    with pytest.raises(NotPrepared, match="of the protocol gowalla, not ml-1m"):
        Prepared.load(tmp_path / "workdir", "ml-1m")


def test_another_folder_is_no_workdir_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(NotPrepared, match=r"protocol\.json"):
        Prepared.load(tmp_path, "gowalla")


# --- held-out users ---


@pytest.mark.parametrize("part", ["test", "validation"])
def test_held_out_users_are_strangers_with_what_they_show_as_history(
    tmp_path: Path, part: Part
) -> None:
    source, workdir = write_ratings_csv(tmp_path / "source"), tmp_path / "workdir"
    dataset = prepared("ml-20m", source, workdir, part)
    held_out = read_held_out(files_folder(workdir)).to_pylist()
    exams = exams_of(protocol_of("ml-20m"), workdir, None, 0)
    assert len(exams) == PLAN.users
    for exam in exams:
        assert dataset.user_row(exam.user_id) is None
        mine = [row for row in held_out if str(row["user"]) == exam.user_id]
        shown = {dataset.item_row(str(row["item"])) for row in mine if not row["hidden"]}
        assert {dataset.item_row(int(key)) for key in exam.user.history.keys} == shown
        hidden = {dataset.item_row(str(row["item"])) for row in mine if row["hidden"]}
        assert exam.relevant == hidden
        assert not hidden & shown


def test_every_training_user_is_known_whole_when_it_serves(tmp_path: Path) -> None:
    dataset = prepared("ml-20m", write_ratings_csv(tmp_path / "source"), tmp_path / "workdir")
    assert len(serving_window(dataset).known) == len(dataset.events)
    assert 0 < len(backtest_window(dataset).next) < 0.2 * len(dataset.events)


# --- ratings later in time ---


def test_later_ratings_are_questions_and_high_ones_the_answers(tmp_path: Path) -> None:
    source, workdir = write_ratings_dat(tmp_path / "source"), tmp_path / "workdir"
    dataset = prepared("ml-1m", source, workdir)
    rows = [line.split("::") for line in (source / "ratings.dat").read_text().splitlines()]
    rating_of = {(user, item): int(rating) for user, item, rating, _ in rows}
    exams = rating_exams_of(workdir, None, 0)
    asked = sum(len(exam.item_ids) for exam in exams)
    assert asked == len(dataset.rows_of_split("test")) == pytest.approx(0.1 * len(rows), abs=1)
    for exam in exams:
        ratings = [rating_of[exam.user_id, item] for item in exam.item_ids]
        assert exam.liked.tolist() == [rating >= 4 for rating in ratings]


def test_judging_by_validation_moves_the_question_back_in_time(tmp_path: Path) -> None:
    source = write_ratings_dat(tmp_path / "source")
    whole = prepared("ml-1m", source, tmp_path / "whole")
    past = prepared("ml-1m", source, tmp_path / "past", "validation")
    assert past.test_end_ms == whole.validation_end_ms
    assert past.events.time_ms.max() < whole.validation_end_ms
    asked = past.events.time_ms[past.rows_of_split("test")]
    assert asked.min() >= whole.train_end_ms
    known = serving_window(past).known
    np.testing.assert_array_less(past.events.time_ms[known], whole.train_end_ms)
