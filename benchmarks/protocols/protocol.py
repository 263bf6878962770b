"""What a protocol's YAML file says."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmarks.protocols.measures import MEASURES
from shortlist.config import Config
from shortlist.errors import ShortlistError

__all__ = ["FilesAbsent", "HeldOutUsers", "Metric", "Protocol", "PublishedRow", "protocol_names"]

_ENDING = ".yaml"
Part = Literal["test", "validation"]


class FilesAbsent(ShortlistError):
    """The folder does not have the data set's files."""

    status_name = "NOT_FOUND"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class WantedFile(_Section):
    """A file of the data set in its publisher's layout."""

    name: str
    layout: str  # for whoever wonders whether this is the right file
    optional: bool = False


class PublishedRow(_Section):
    """What others measured on the same protocol."""

    name: str
    figures: dict[str, float]  # by metric
    citation: str


class HeldOutUsers(_Section):
    """Strong generalisation: users of whom nothing is trained on (Liang et al., WWW 2018)."""

    ratings: str  # a CSV file with header: userId, movieId, rating, timestamp
    liked_above: float
    fewest_items: int  # a user needs so many liked ones
    users: int  # held out for validation, and as many for test
    hidden_fraction: Annotated[float, Field(gt=0, lt=1)]  # of a held-out user's items
    seed: int


class Metric(_Section):
    """A name in tables and the measure behind it."""

    name: str
    measure: str
    k: int


class Protocol(_Section):
    """One protocol: data, split, questions, settings, and the rows to stand beside."""

    name: str
    title: str
    # ranking: full rankings of all unseen items; rating: which of the rated items were liked
    task: Literal["ranking", "rating"] = "ranking"
    homepage: str
    files: list[WantedFile]
    preset: str | None = None
    schema_changes: dict[str, Any] = {}  # top-level keys that replace the preset's
    held_out_users: HeldOutUsers | None = None  # instead of a preset
    metrics: dict[str, str]  # `<name>@<k>`: measure, or auc
    settings: dict[str, Any]  # of shortlist.yaml
    published: list[PublishedRow]
    source: str  # who measured the published rows, where no row says otherwise

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        if (self.preset is None) == (self.held_out_users is None):
            raise ValueError("give either `preset` or `held_out_users`")
        if self.task == "ranking" and (unknown := set(self.metrics.values()) - MEASURES.keys()):
            raise ValueError(f"no measure {min(unknown)!r}; there are: {', '.join(MEASURES)}")
        for row in self.published:
            if row.figures.keys() - self.metrics.keys():
                raise ValueError(f"published row {row.name} has figures of other metrics")
        self.config()
        return self

    @staticmethod
    def load(name: str) -> Protocol:
        """The protocol of that name."""
        text = (files(__package__) / f"{name}{_ENDING}").read_text("utf-8")
        return Protocol.model_validate({"name": name, **yaml.safe_load(text)})

    def config(self) -> Config:
        """The configuration that the protocol runs with."""
        return Config.model_validate(self.settings)

    @property
    def ranking_metrics(self) -> tuple[Metric, ...]:
        """Name, measure and depth of each metric of a ranked list."""
        return tuple(
            Metric(name=name, measure=measure, k=int(name.rpartition("@")[2]))
            for name, measure in self.metrics.items()
        )

    def check_files(self, folder: Path) -> None:
        """Raise `FilesAbsent` unless all files that are needed are there."""
        absent = [f for f in self.files if not f.optional and not (folder / f.name).is_file()]
        if absent:
            named = "; ".join(f"{file.name} ({file.layout})" for file in absent)
            raise FilesAbsent(
                f"the protocol {self.name} wants files that are not in {folder}: {named}. "
                f"They can be had from {self.homepage}"
            )


def protocol_names() -> tuple[str, ...]:
    """The protocols that there are, sorted."""
    names = (entry.name for entry in files(__package__).iterdir())
    return tuple(sorted(name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING)))
