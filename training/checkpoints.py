"""What a job has finished, so that the same job goes on from there when it was killed.

    W/artifacts/.work/<job>-<digest of what it learns from>/<step>/...

A step is a folder that appears when all of its files are on disk. Several processes, also on other
hosts, may make the same step at once: the first one that is done counts. The work of a job goes
away when its version is published, or when another job of the same name begins and nobody is at
it any more.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import shortlist
from shortlist.config import Config
from shortlist.durable import sync, sync_tree
from shortlist.locks import lock, locked
from training.dataset import Dataset

__all__ = ["Steps", "digest_of", "job_digest", "place", "read_note", "steps_of_job", "write_note"]

_FOLDER: Final = ".work"
_DIGITS = 16


class Steps:
    """The finished steps of one job. Can be sent to any process that sees the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def below(self, name: str) -> Steps:
        """Steps of a part of the job."""
        return Steps(self.folder / name)

    def finished(self, name: str) -> Path | None:
        """The folder of a step, None before it is done."""
        path = self.folder / name
        return path if path.is_dir() else None

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A folder to write a step into; the step is done when the block ends without an error."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self.folder))
        try:
            yield part
            sync_tree(part)
            self._finish(part, name)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    @property
    def done(self) -> list[str]:
        """Names of the finished steps."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        return sorted(name for name in names if not name.startswith("."))

    def _finish(self, part: Path, name: str) -> None:
        try:
            part.rename(self.folder / name)
        except OSError:
            if self.finished(name) is None:  # else somebody was faster
                raise
        sync(self.folder)


@contextmanager
def steps_of_job(workdir: Path, job: str, digest: str) -> Iterator[Steps]:
    """The steps of a job that learns from what `digest` stands for.

    They stay when the block ends in an error, or never ends; else they are removed. Left-over work
    of the same job that learned from something else is removed first.
    """
    root = workdir.resolve() / "artifacts" / _FOLDER
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{job}-{digest[:_DIGITS]}"
    with locked(root / ".lock"):
        for path in root.glob(f"{job}-*.alive"):
            if path.name != f"{folder.name}.alive":
                _remove_unless_alive(path)
        handle = lock(_alive(folder), fcntl.LOCK_SH)
    try:
        folder.mkdir(exist_ok=True)
        yield Steps(folder)
        done = True
    except BaseException:
        done = False
        raise
    finally:
        os.close(handle)  # the kernel does so when we die
        if done:
            with locked(root / ".lock"):
                _remove_unless_alive(_alive(folder))


def place(step: Path, target: Path) -> None:
    """Put the files of a finished step into `target`, beside what is there, without a copy where
    the file system can. Names that begin with a dot stay behind.
    """
    for path in sorted(step.rglob("*")):
        name = path.relative_to(step)
        if path.is_dir():
            (target / name).mkdir(parents=True, exist_ok=True)
        elif not path.name.startswith("."):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target / name)
            except OSError:
                shutil.copyfile(path, target / name)


def write_note(step: Path, note: Mapping[str, Any]) -> None:
    """JSON beside the files of a step, which `place` leaves behind."""
    (step / ".note.json").write_text(json.dumps(note), "utf-8")


def read_note(step: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((step / ".note.json").read_text("utf-8"))
    return document


def job_digest(dataset: Dataset, config: Config, seed: int, *more: str) -> str:
    """What a job learns from and how: the same digest, the same steps."""
    return digest_of(
        dataset.digest(),
        config.model_dump_json(exclude={"store"}),
        str(seed),
        shortlist.__version__,
        *more,
    )


def digest_of(*parts: str | bytes) -> str:
    """sha256 over the parts and where each ends."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _alive(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.alive")


def _remove_unless_alive(alive: Path) -> None:
    """Called under the lock of all work, so nobody is just beginning."""
    try:
        handle = lock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    shutil.rmtree(alive.with_name(alive.name.removesuffix(".alive")), ignore_errors=True)
    alive.unlink(missing_ok=True)
    os.close(handle)
