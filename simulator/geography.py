"""Where people and creators live: a short list of countries, and distances on the globe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import Floats, Indices
from simulator.counters import RandomField, weighted_choice

EARTH_RADIUS_KM = 6_371.0
_SPREAD_DEGREES = 2.0  # how far from a country's centre its people live, at most


@dataclass(frozen=True, slots=True)
class Country:
    code: str  # ISO 3166-1 alpha-2
    name: str
    latitude: float  # degrees, of about its centre
    longitude: float
    language: str  # ISO 639-1
    weight: float  # relative share of people


COUNTRIES = (
    Country("US", "United States", 39.8, -98.6, "en", 20.0),
    Country("DE", "Germany", 51.2, 10.4, "de", 12.0),
    Country("BR", "Brazil", -10.8, -52.9, "pt", 10.0),
    Country("GB", "United Kingdom", 54.0, -2.5, "en", 9.0),
    Country("FR", "France", 46.6, 2.4, "fr", 9.0),
    Country("JP", "Japan", 36.6, 138.0, "ja", 8.0),
    Country("IN", "India", 22.9, 79.6, "hi", 8.0),
    Country("ES", "Spain", 40.2, -3.6, "es", 6.0),
    Country("MX", "Mexico", 23.9, -102.5, "es", 5.0),
    Country("IT", "Italy", 42.8, 12.1, "it", 5.0),
    Country("CA", "Canada", 56.8, -106.3, "en", 4.0),
    Country("NL", "Netherlands", 52.2, 5.6, "nl", 3.0),
    Country("SE", "Sweden", 62.8, 16.7, "sv", 3.0),
    Country("KR", "South Korea", 36.4, 127.8, "ko", 3.0),
    Country("AU", "Australia", -25.7, 134.5, "en", 3.0),
    Country("PL", "Poland", 52.1, 19.4, "pl", 3.0),
    Country("KE", "Kenya", 0.6, 37.8, "sw", 2.0),
    Country("NO", "Norway", 64.5, 13.9, "no", 2.0),
    Country("AR", "Argentina", -35.2, -65.2, "es", 2.0),
    Country("NZ", "New Zealand", -41.8, 172.8, "en", 1.0),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Homes:
    """Where a number of people live."""

    country: Indices  # [n], into COUNTRIES
    latitude: Floats  # [n], degrees
    longitude: Floats  # [n], degrees

    def on_sphere(self) -> Floats:
        """float64[n, 3]: unit vectors from the centre of the earth."""
        latitude, longitude = np.radians(self.latitude), np.radians(self.longitude)
        across = np.cos(latitude)
        return np.stack(
            [across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)], axis=1
        )


def draw_homes(field: RandomField, index: Indices, countries: int) -> Homes:
    """The home of each index, in one of the first `countries` countries."""
    weights = np.array([country.weight for country in COUNTRIES[:countries]])
    country = weighted_choice(weights, field.uniform(index, 0))
    centres = np.array([(c.latitude, c.longitude) for c in COUNTRIES])
    spread = 2 * _SPREAD_DEGREES
    return Homes(
        country=country,
        latitude=centres[country, 0] + (field.uniform(index, 1) - 0.5) * spread,
        longitude=centres[country, 1] + (field.uniform(index, 2) - 0.5) * spread,
    )


def distance_km(here: Floats, there: Floats) -> Floats:
    """Great-circle distances float64[n] between unit vectors float64[n, 3]."""
    cosine = np.clip((here * there).sum(axis=1), -1.0, 1.0)
    return EARTH_RADIUS_KM * np.arccos(cosine)
