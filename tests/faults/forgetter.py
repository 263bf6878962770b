"""`python -m tests.faults.forgetter WORKDIR USER`: is killed at every step of forgetting.

A child is forked for each line that changes files while the deleted USER is taken out, and kills
itself with SIGKILL before that line. After each death the next one tries, and the workdir is
looked through. Prints one JSON object: how many steps there were, and how often nobody could have
read the data set before the next one came.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from shortlist.config import Config
from tests.faults.publisher import dies
from training import dataset
from training.dataset import Dataset
from training.forget import take_out_the_forgotten

WRITING = ("_sole_writer", "_tidy", "_write", "_sync", "_replace")  # functions of the module


def main(workdir: Path, user: str) -> None:
    os.fsync = lambda handle: None  # what a killed process has written is not lost
    before = workdir.parent / "before"
    shutil.copytree(workdir / "dataset", before)
    steps = absent = 0

    def forget() -> int:
        return take_out_the_forgotten(workdir, Config())

    while dies(dataset.__file__, steps, forget, WRITING):
        steps += 1
        absent += not (workdir / "dataset").exists()
        forget()
        assert Dataset.load(workdir / "dataset").user_row(user) is None
        assert [path.name for path in workdir.glob(".dataset-*")] == []
        shutil.rmtree(workdir / "dataset")
        shutil.copytree(before, workdir / "dataset")
    print(json.dumps({"steps": steps, "absent": absent}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
