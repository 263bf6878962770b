from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from shortlist.launch import child_environment
from training.checkpoints import Steps, digest_of, place, read_note, steps_of_job, write_note


def left(workdir: Path) -> set[str]:
    return {path.name for path in (workdir / "artifacts" / ".work").iterdir()} - {".lock"}


def test_a_step_is_there_when_all_of_it_is_written(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    assert steps.finished("a") is None
    with steps.writing("a") as folder:
        (folder / "file").write_text("text")
        assert steps.finished("a") is None
    done = steps.finished("a")
    assert done is not None
    assert (done / "file").read_text() == "text"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_step_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with Steps(tmp_path).writing("a") as folder:
            (folder / "file").write_text("text")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_make_a_step_the_first_one_counts(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    with steps.writing("a") as slow:
        (slow / "file").write_text("slow")
        with steps.writing("a") as fast:
            (fast / "file").write_text("fast")
    done = steps.finished("a")
    assert done is not None
    assert (done / "file").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_job_that_fails_finds_its_steps_again_and_one_that_ends_removes_them(
    tmp_path: Path,
) -> None:
    def fail() -> None:
        with steps_of_job(tmp_path, "job", "abc") as steps:
            with steps.below("part").writing("a") as folder:
                write_note(folder, {"n": 1})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with steps_of_job(tmp_path, "job", "abc") as steps:
        done = steps.below("part").finished("a")
        assert done is not None
        assert read_note(done) == {"n": 1}
    assert left(tmp_path) == set()


def test_work_on_other_data_is_removed_and_that_of_another_job_stays(tmp_path: Path) -> None:
    for job, digest in (("job", "old"), ("other", "old")):
        with pytest.raises(RuntimeError), steps_of_job(tmp_path, job, digest):
            raise RuntimeError
    with steps_of_job(tmp_path, "job", "new"):
        assert left(tmp_path) == {"job-new", "job-new.alive", "other-old", "other-old.alive"}


def test_work_of_a_living_job_is_never_removed(tmp_path: Path) -> None:
    with steps_of_job(tmp_path, "job", "one") as one:
        with steps_of_job(tmp_path, "job", "one"), steps_of_job(tmp_path, "job", "two"):
            pass
        assert one.folder.is_dir()
    assert left(tmp_path) == set()


def test_kill_9_leaves_what_was_finished_and_later_work_sweeps_the_rest(tmp_path: Path) -> None:
    job = f"""
        import pathlib, time
        from training.checkpoints import steps_of_job
        with steps_of_job(pathlib.Path({str(tmp_path)!r}), "job", "abc") as steps:
            with steps.writing("a") as folder:
                (folder / "file").write_text("text")
            with steps.writing("b") as folder:
                (folder / "file").write_text("half")
                time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(job)]
    running = subprocess.Popen(command, env=child_environment())
    work = tmp_path / "artifacts" / ".work" / "job-abc"
    ends = time.monotonic() + 60
    while not list(work.glob(".b-*/file")):
        assert time.monotonic() < ends
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    with steps_of_job(tmp_path, "job", "abc") as steps:
        assert steps.finished("a") is not None
        assert steps.finished("b") is None
    assert left(tmp_path) == set()


def test_files_of_a_step_are_placed_beside_others_without_its_note(tmp_path: Path) -> None:
    step, target = tmp_path / "step", tmp_path / "target"
    (step / "shard").mkdir(parents=True)
    (target / "shard").mkdir(parents=True)
    (step / "shard" / "new").write_text("new")
    (target / "shard" / "old").write_text("old")
    write_note(step, {})
    place(step, target)
    assert {str(path.relative_to(target)) for path in target.rglob("*")} == {
        "shard",
        "shard/new",
        "shard/old",
    }
    assert (step / "shard" / "new").exists()


def test_digests_know_where_each_part_ends() -> None:
    assert digest_of("ab", "c") != digest_of("a", "bc") != digest_of("abc")
