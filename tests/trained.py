"""A small world, imported and trained by the real jobs, once for all slow tests that need it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shortlist.config import Config
from shortlist.launch import child_environment, module_command, tethered
from shortlist.locks import locked
from tests.patience import PATIENT

CONFIG = {
    "retrieval": {
        "shards": 2,
        "candidates": 300,
        "quotas": {"two_tower": 200, "popular": 200},
        "two_tower": {"dim": 16, "history_length": 20, "epochs": 2, "batch_size": 256},
    },
    "ranking": {
        "dcn": {"cross_layers": 2, "projection_dim": 8, "hidden": [16, 8], "epochs": 2},
        "gbdt": {"trees": 20, "leaves": 7},
    },
    "serving": PATIENT.model_dump(exclude_unset=True),
}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A workdir after both jobs, and what they left."""

    workdir: Path
    retrieval: dict[str, str]  # what the retrieval job printed: versions by tier
    ranking: dict[str, str]
    log: str  # stderr of both jobs
    left: list[str]  # files in their temporary and home folders, and processes, after their end

    @property
    def artifacts(self) -> Path:
        return self.workdir / "artifacts"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Read only: copy what a test changes. Made once for all of pytest's worker processes."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made = shared / "trained.json"
    with locked(shared / "trained.lock"):
        if not made.exists():
            made.write_text(json.dumps(_train(shared / "trained", shared / "trained-home")))
    return Trained(workdir=shared / "trained", **json.loads(made.read_text()))


@pytest.fixture
def trained_copy(trained: Trained, tmp_path: Path) -> Path:
    """A workdir of its own for a test that changes it."""
    copy = tmp_path / "workdir"
    shutil.copytree(trained.workdir, copy)
    return copy


@contextlib.contextmanager
def short_tmp() -> Iterator[Path]:
    """A folder for temporary files whose name is short: Ray keeps Unix sockets there."""
    parent = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="", dir=parent if len(parent) < 17 else "/tmp") as tmp:
        yield Path(tmp)


def job_environment(tmp: Path, home: Path) -> dict[str, str]:
    """That of a user who has set nothing up for Ray."""
    inherited = child_environment({"TMPDIR": str(tmp), "HOME": str(home)})
    return {name: value for name, value in inherited.items() if not name.startswith("RAY_")}


def processes_naming(text: str) -> list[str]:
    """Command lines of running processes that hold `text`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if text in line]


def _train(workdir: Path, home: Path) -> dict[str, Any]:
    """The fields of a `Trained` but its workdir."""
    workdir.mkdir()
    home.mkdir()
    with short_tmp() as tmp:
        _import_world(workdir)
        retrieval = run_job("training.retrieval", workdir, tmp, home)
        ranking = run_job("training.ranking", workdir, tmp, home)
        files = [str(path) for folder in (tmp, home) for path in folder.iterdir()]
        processes = processes_naming(str(tmp)) + processes_naming(str(workdir))
    return {
        "retrieval": json.loads(retrieval.stdout),
        "ranking": json.loads(ranking.stdout),
        "log": retrieval.stderr + ranking.stderr,
        "left": files + processes,
    }


def _import_world(workdir: Path) -> None:
    from shortlist.commands.import_data import import_into
    from shortlist.commands.terminal import Terminal
    from shortlist.schema import Schema
    from simulator import World, WorldConfig, write_dataset

    world = World(WorldConfig(users=300, items=800, events=8_000, seed=11))
    written = write_dataset(world, workdir / "files")
    Config.model_validate(CONFIG).save(workdir / "shortlist.yaml")
    import_into(workdir, Schema.load(written.schema), workdir / "files", Terminal(as_json=True))


def run_job(
    module: str, workdir: Path, tmp: Path, home: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    """One training job in a process of its own, to its end."""
    done = subprocess.run(
        tethered(module_command(module, "--workdir", str(workdir), *options)),
        env=job_environment(tmp, home),
        cwd=os.fspath(workdir),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done
