"""Reads the Dockerfiles of deploy/docker: what they copy, install, set and start."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["IMAGES", "PACKAGES", "Dockerfile"]

IMAGES = ("retrieval", "ranking", "orchestrator", "training")
PACKAGES = ("shortlist", "retrieval_svc", "ranking_svc", "orchestrator", "training", "simulator")


@dataclass(frozen=True, kw_only=True)
class Dockerfile:
    """The instructions of one file, in order, with continued lines joined."""

    path: Path

    @staticmethod
    def of(image: str, checkout: Path) -> Dockerfile:
        return Dockerfile(path=checkout / "deploy" / "docker" / f"{image}.Dockerfile")

    @cached_property
    def instructions(self) -> list[tuple[str, str]]:
        text = re.sub(r"^\s*#.*\n", "", self.path.read_text("utf-8"), flags=re.MULTILINE)
        lines = text.replace("\\\n", " ").splitlines()
        return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]

    def all(self, instruction: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == instruction]

    def one(self, instruction: str) -> str:
        (rest,) = self.all(instruction)
        return rest

    @property
    def arguments(self) -> dict[str, str]:
        """Build arguments and their defaults."""
        return dict(rest.split("=", 1) for rest in self.all("ARG"))

    @property
    def environment(self) -> dict[str, str]:
        """What the container's process finds; the variables of the base image as they stand."""
        return dict(word.split("=", 1) for rest in self.all("ENV") for word in shlex.split(rest))

    @property
    def entrypoint(self) -> list[str]:
        return json.loads(self.one("ENTRYPOINT"))

    @property
    def health_command(self) -> list[str]:
        return json.loads(self.one("HEALTHCHECK").partition("CMD ")[2])

    @property
    def copied(self) -> list[str]:
        """Names in the checkout that the image is made of."""
        return list(self._copied())

    @property
    def packages(self) -> list[str]:
        return [name for name in self.copied if name in PACKAGES]

    @property
    def extras(self) -> list[str]:
        """Of Shortlist, as pip is told."""
        (install,) = (rest for rest in self.all("RUN") if "pip install" in rest)
        (names,) = re.findall(r"'\.\[([a-z,]+)\]'", install)
        return names.split(",")

    def _copied(self) -> Iterator[str]:
        for rest in self.all("COPY"):
            *sources, _ = rest.split()
            if not rest.startswith("--from="):
                yield from sources
