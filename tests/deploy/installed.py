"""What an image's `pip install` brings, put together from this environment without any network.

A folder of links to the files of exactly the distributions that the image's extras require, by
their own metadata, beside the packages that its Dockerfile copies. An interpreter that sees this
folder and its standard library only, imports what the image could import, and nothing else.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.dockerfile import Dockerfile

__all__ = ["Installed", "distributions_of"]


def distributions_of(extras: Iterable[str], checkout: Path) -> set[str]:
    """Canonical names of everything that `pip install '.[extras]'` installs here, but `.` itself.

    Raises `PackageNotFoundError` for what this environment lacks: its development extra has all.
    """
    project = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))["project"]
    optional = project["optional-dependencies"]
    pending = [Requirement(text) for text in project["dependencies"]]
    pending += [Requirement(f"shortlist[{','.join(extras)}]")]
    seen: set[tuple[str, frozenset[str]]] = set()
    found: set[str] = set()
    while pending:
        wanted = pending.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in seen:
            continue
        seen.add((name, frozenset(wanted.extras)))
        if name == "shortlist":
            pending += [Requirement(text) for extra in wanted.extras for text in optional[extra]]
        else:
            found.add(name)
            pending += _required(name, wanted.extras)
    return found


def _required(name: str, extras: Iterable[str]) -> list[Requirement]:
    requirements = map(Requirement, metadata.requires(name) or ())
    choices = [{"extra": extra} for extra in ("", *extras)]
    return [one for one in requirements if not one.marker or any(map(one.marker.evaluate, choices))]


class Installed:
    """The image of a Dockerfile, as far as Python can tell."""

    def __init__(self, dockerfile: Dockerfile, checkout: Path, folder: Path) -> None:
        self._dockerfile = dockerfile
        self._folder = folder / "site-packages"
        self._home = folder / "home"
        self._folder.mkdir()
        self._home.mkdir()
        for package in dockerfile.packages:
            (self._folder / package).symlink_to(checkout / package)
        for name in distributions_of(dockerfile.extras, checkout):
            self._link(metadata.distribution(name))

    def command(self, *words: str) -> list[str]:
        """`words`, of which the first is the image's `python`."""
        assert words[0] == "python", words
        return [sys.executable, "-S", *words[1:]]  # -S: without this environment's site-packages

    def environment(self, **more: str) -> dict[str, str]:
        """The image's variables; of this process, where programs and temporary files are."""
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        image = {n: value for n, value in self._dockerfile.environment.items() if n != "PATH"}
        here = {"HOME": str(self._home), "PYTHONPATH": str(self._folder)}
        return {**kept, **image, **here, **more}

    def _link(self, distribution: metadata.Distribution) -> None:
        for file in distribution.files or ():
            if ".." in file.parts or file.suffix == ".pyc":
                continue  # scripts lie outside
            target = self._folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.symlink_to(os.path.abspath(distribution.locate_file(file)))
