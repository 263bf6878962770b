"""What is counted of items, and the statistics that follow: training and serving share both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import ArtifactCorrupt, ArtifactRefused

__all__ = ["ItemCounts", "statistics", "statistics_names"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_PRIOR_VALUES = 10.0  # interactions' worth of trust in the mean value of all items
_LOG_EVENTS = 10.0  # log1p of events is about this at most
_COLUMNS = {
    "speeds": np.dtype(np.float64),
    "events": np.dtype(np.int64),
    "values": np.dtype(np.float64),
    "valued": np.dtype(np.int64),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemCounts:
    """Counts of n items as of a moment, in the order of the item table's keys."""

    speeds: Doubles  # float64 [n, s + 1], weights of events faded by each half-life; last: unfaded
    events: Counts  # int64 [n]
    values: Doubles  # float64 [n], sum of standardised values
    valued: Counts  # int64 [n], events with a value
    half_lives_ms: tuple[float, ...]  # s of them
    as_of_ms: int
    value_mean: float  # of all events: values are told in standard deviations from it
    value_std: float  # 0 = no event has had a value

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""
        for name in _COLUMNS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        settings = {
            "half_lives_ms": list(self.half_lives_ms),
            "as_of_ms": self.as_of_ms,
            "value_mean": self.value_mean,
            "value_std": self.value_std,
        }
        (folder / "settings.json").write_text(json.dumps(settings), "utf-8")

    @staticmethod
    def load(folder: Path, n: int) -> ItemCounts:
        """Maps the files. Raises `ArtifactCorrupt` or `ArtifactRefused` unless they are those of n
        items.
        """
        columns = {name: _load(folder / f"{name}.npy", dtype) for name, dtype in _COLUMNS.items()}
        path = folder / "settings.json"
        try:
            settings = json.loads(path.read_text("utf-8"))
            counts = ItemCounts(
                **columns,
                half_lives_ms=tuple(float(one) for one in settings["half_lives_ms"]),
                as_of_ms=int(settings["as_of_ms"]),
                value_mean=float(settings["value_mean"]),
                value_std=float(settings["value_std"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactCorrupt(f"{path} is unreadable: {error!r}") from error
        counts._check(folder, n)
        return counts

    def statistics(self, rows: slice = slice(None)) -> Floats:
        """float32 [n, len(statistics_names)], or of some rows."""
        return statistics(
            self.speeds[rows],
            self.speeds.mean(axis=0),
            self.events[rows],
            self.values[rows],
            self.valued[rows],
        )

    def _check(self, folder: Path, n: int) -> None:
        shapes = {"speeds": (n, len(self.half_lives_ms) + 1)}
        for name in _COLUMNS:
            column, shape = getattr(self, name), shapes.get(name, (n,))
            if column.shape != shape:
                raise ArtifactCorrupt(f"{folder / name}.npy has shape {column.shape}, not {shape}")
            if not np.isfinite(column).all():
                raise ArtifactRefused(f"{folder / name}.npy holds NaN or Inf")
        if not all(np.isfinite(one) and one > 0 for one in self.half_lives_ms):
            raise ArtifactRefused(f"{folder / 'settings.json'}: half_lives_ms has no half-lives")
        if not np.isfinite([self.value_mean, self.value_std]).all():
            raise ArtifactRefused(f"{folder / 'settings.json'}: value_mean or value_std is NaN")


def statistics_names(speeds: int) -> tuple[str, ...]:
    """Of the columns of `statistics` with so many half-lives, fast ones first."""
    return (
        *(f"popularity_{place}" for place in range(speeds)),
        "popularity_all",
        *(["trend"] if speeds else []),
        *(f"trend_{place}" for place in range(speeds)),
        "events",
        "value",
    )


def statistics(
    speeds: Doubles,
    means: Doubles,
    events: Counts,
    values: Doubles,
    valued: Counts,
) -> Floats:
    """float32 [m, k]: statistics of m items, rows of the columns of `ItemCounts`.

    Counts are told relative to their `means` over all items, float64 [s + 1], so that neither more
    data nor the passing of time shifts a feature.
    """
    popularity = np.log1p(speeds / np.maximum(means, 1e-12))
    # Logarithms, so that a difference is how many times more popular an item has become of late.
    one_by_one = popularity.T
    trend = [one_by_one[0] - one_by_one[-2]] if len(one_by_one) > 1 else []
    trends = [faster - slower for faster, slower in pairwise(one_by_one)]
    columns = [
        *one_by_one,
        *trend,
        *trends,
        np.log1p(events) / _LOG_EVENTS,
        values / (valued + _PRIOR_VALUES),  # shrunk to the mean of all: a Bayesian average
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _load(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        column = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactCorrupt(f"{path} is unreadable: {error}") from error
    if column.dtype != dtype:
        raise ArtifactCorrupt(f"{path} holds {column.dtype} instead of {dtype}")
    return np.asarray(column)
