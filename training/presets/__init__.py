"""Schemas of public data sets, one YAML file each, read by the same path as anybody's own."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from shortlist.errors import ShortlistError
from shortlist.schema import Schema

__all__ = ["PresetNotChosen", "UnknownPreset", "list_presets", "load_preset"]

_ENDING = ".yaml"


class UnknownPreset(ShortlistError):
    """There is no preset of this name."""

    status_name = "NOT_FOUND"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no preset {name!r}; there are: {', '.join(list_presets())}")


class PresetNotChosen(ShortlistError):
    """The name stands for several layouts, and no folder shows which one is meant."""

    status_name = "INVALID_ARGUMENT"


def list_presets() -> tuple[str, ...]:
    """The names that `load_preset` knows, sorted."""
    names = (entry.name for entry in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING)))


def load_preset(name: str, source: Path | None = None) -> Schema:
    """The schema of a public data set.

    A name that stands for several layouts (`movielens`) is decided by the files in the folder
    `source`. Raises `UnknownPreset` or `PresetNotChosen`.
    """
    if name not in list_presets():
        raise UnknownPreset(name)
    text = (files(__name__) / f"{name}{_ENDING}").read_bytes()
    document = yaml.safe_load(text)
    if "choose" in document:
        return load_preset(_chosen(name, document["choose"], source))
    return Schema.parse(text, source=f"preset {name}")


def _chosen(name: str, choices: list[dict[str, Any]], source: Path | None) -> str:
    for choice in choices:
        if source is not None and all((source / file).is_file() for file in choice["files"]):
            return str(choice["preset"])
    known = "; ".join(f"{choice['preset']}: {', '.join(choice['files'])}" for choice in choices)
    where = f"{source} has the files of none" if source else "say which, or give their folder"
    raise PresetNotChosen(f"{name} stands for several layouts ({known}); {where}")
