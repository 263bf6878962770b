"""Where somebody or something is: names of places that can be counted, and distances.

A named place ("germany") is a name of its own. Coordinates become the cells of two grids, fine and
coarse, so that places nearby share a name. In tables coordinates are a (latitude, longitude) pair;
in a profile, and in a request's attributes, they are a text, for instance `48.86,2.35`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.ids import keys_of
from shortlist.tiers import AttributeValue

__all__ = [
    "coordinates_of",
    "coordinates_text",
    "nearest_km",
    "place_keys",
    "place_names",
    "points_on_earth",
]

CELL_DEGREES = (0.25, 2.0)  # about 28 km and 220 km from north to south
_EARTH_KM = 6371.0

Place = AttributeValue | Sequence[float | None] | Sequence[str] | None
"""A name, several names, coordinates as text, or as a pair; None or None in a pair = unknown."""


def place_names(value: Place) -> list[str]:
    """The places that a value of a geo feature stands for; of coordinates the finer cell first."""
    if point := coordinates_of(value):
        latitude, longitude = point
        return [
            f"cell:{size}:{math.floor(latitude / size)}:{math.floor(longitude / size)}"
            for size in CELL_DEGREES
        ]
    names = value if isinstance(value, tuple | list) else [value]
    return [name for name in names if isinstance(name, str) and name]


def place_keys(
    attributes: Mapping[str, AttributeValue], features: Iterable[str]
) -> npt.NDArray[np.uint64]:
    """uint64 [p], unique: the places named by the geo `features` among the attributes.

    A place belongs to its value only: `home: paris` of a user is the same key as `city: paris` of
    a context.
    """
    names = [name for feature in features for name in place_names(attributes.get(feature))]
    return np.unique(keys_of(names))


def coordinates_of(value: Place) -> tuple[float, float] | None:
    """(latitude, longitude) in degrees of a text `48.86,2.35` or of a pair of numbers.

    None for anything else, and for what is not on Earth. The date line is at -180 from both sides.
    """
    parts: Sequence[Any] = value.split(",") if isinstance(value, str) else ()
    if isinstance(value, tuple | list) and all(isinstance(one, int | float) for one in value):
        parts = value
    if len(parts) != 2:
        return None
    try:
        latitude, longitude = float(parts[0]), float(parts[1])
    except ValueError:
        return None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):  # NaN is neither
        return None
    return latitude, -180.0 if longitude == 180 else longitude


def coordinates_text(latitude: float, longitude: float) -> str:
    """The text that `coordinates_of` reads; of float32 numbers, with no digit too many."""
    return ",".join(str(np.float32(degrees)) for degrees in (latitude, longitude))


def points_on_earth(latitudes: npt.ArrayLike, longitudes: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Points of the unit sphere, float32 [n, 3]; zeros where a coordinate is NaN."""
    latitude = np.radians(np.asarray(latitudes, np.float64))
    longitude = np.radians(np.asarray(longitudes, np.float64))
    around = np.cos(latitude)
    points = [around * np.cos(longitude), around * np.sin(longitude), np.sin(latitude)]
    known = np.isfinite(latitude + longitude)
    return np.where(known, points, 0.0).T.astype(np.float32)


def nearest_km(
    points: npt.NDArray[np.float32], others: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Great-circle distance from each of `points` to the nearest of `others`, float64 [n].

    Both are as of `points_on_earth`, [n, 3] and [m, 3]; infinite where no point is known.
    """
    others = others[others.any(axis=1)].astype(np.float64)
    if len(others) == 0:
        return np.full(len(points), np.inf)
    here = points.astype(np.float64)
    lengths = (here**2).sum(axis=1)  # the roundings of float32 included, hence exact to a metre
    nearest = np.min((others**2).sum(axis=1)[:, None] - 2 * (others @ here.T), axis=0)
    distance = 2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(lengths + nearest, 0, 4)) / 2)
    return np.where(lengths > 0, distance, np.inf)
