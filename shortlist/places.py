"""Where somebody or something is, as keys that can be counted: named places and cells of a grid.

A named place ("germany") is a key of its feature. Coordinates become the cells of two grids, fine
and coarse, so that places nearby share a key. In a profile, and in a request's attributes,
coordinates are a text `latitude,longitude` in degrees, for instance `48.86,2.35`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from shortlist.ids import keys_of
from shortlist.tiers import AttributeValue

__all__ = ["coordinates_of", "distance_km", "place_keys", "place_names"]

CELL_DEGREES = (0.25, 2.0)  # about 28 km and 220 km from north to south
_EARTH_KM = 6371.0


def place_names(value: AttributeValue) -> list[str]:
    """The places that a value of a geo feature stands for; most specific first."""
    if point := coordinates_of(value):
        latitude, longitude = point
        return [
            f"cell:{size}:{math.floor(latitude / size)}:{math.floor(longitude / size)}"
            for size in CELL_DEGREES
        ]
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, tuple):
        return [name for name in value if name]
    return []


def place_keys(
    attributes: Mapping[str, AttributeValue], features: Iterable[str]
) -> npt.NDArray[np.uint64]:
    """uint64 [p], unique: the places named by the geo `features` among the attributes.

    A place belongs to its value only: `home: paris` of a user is the same key as `city: paris` of
    a context.
    """
    names = [
        name
        for feature in features
        if feature in attributes
        for name in place_names(attributes[feature])
    ]
    return np.unique(keys_of(names))


def coordinates_of(value: AttributeValue | Sequence[float]) -> tuple[float, float] | None:
    """(latitude, longitude) of a text `48.86,2.35`; None for anything else."""
    if not isinstance(value, str):
        return None
    parts = value.split(",")
    if len(parts) != 2:
        return None
    try:
        latitude, longitude = float(parts[0]), float(parts[1])
    except ValueError:
        return None
    return (latitude, longitude) if abs(latitude) <= 90 and abs(longitude) <= 180 else None


def distance_km(
    latitude: float,
    longitude: float,
    latitudes: npt.NDArray[np.float32],
    longitudes: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Great-circle distances from one point, float32 [n]; NaN where a coordinate is NaN."""
    here, there = np.radians([latitude, longitude]), np.radians([latitudes, longitudes])
    half = (there - here[:, None]) / 2
    haversine = np.sin(half[0]) ** 2 + np.cos(here[0]) * np.cos(there[0]) * np.sin(half[1]) ** 2
    return (2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(haversine, 0, 1)))).astype(np.float32)
