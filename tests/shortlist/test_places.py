from __future__ import annotations

import math

import numpy as np
import pytest

from shortlist.ids import key_of
from shortlist.places import (
    coordinates_of,
    coordinates_text,
    nearest_km,
    place_keys,
    place_names,
    points_on_earth,
)
from shortlist.tiers import AttributeValue

PARIS, LYON, LONDON = (48.8566, 2.3522), (45.764, 4.8357), (51.5074, -0.1278)

# --- coordinates ---


def test_a_text_and_a_pair_are_the_same_coordinates() -> None:
    assert coordinates_of("48.86, 2.35") == coordinates_of((48.86, 2.35)) == (48.86, 2.35)
    assert coordinates_of([48, 2]) == (48.0, 2.0)


@pytest.mark.parametrize(
    "value",
    [
        *("paris", "", "1", "1,2,3", "north,south", "91,0", "0,181", "nan,0", "1,inf"),
        *((), (1.0,), (1.0, 2.0, 3.0), ("48.86", "2.35"), ("paris", "lyon")),
        *((None, None), (None, 2.0), (math.nan, 2.0), (1.0, -math.inf), 7.0, None),
    ],
)
def test_anything_else_is_no_coordinates(value: object) -> None:
    assert coordinates_of(value) is None  # type: ignore[arg-type]


def test_the_date_line_is_one_place_from_both_sides() -> None:
    assert place_names("10,180") == place_names("10,-180")


def test_the_text_of_float32_coordinates_is_short_and_means_the_same_cells() -> None:
    rng = np.random.default_rng(0)
    assert coordinates_text(float(np.float32(48.86)), 2.35) == "48.86,2.35"
    for latitude, longitude in zip(
        rng.uniform(-90, 90, 300).astype(np.float32),
        rng.uniform(-180, 180, 300).astype(np.float32),
        strict=True,
    ):
        text = coordinates_text(float(latitude), float(longitude))
        assert place_names(text) == place_names((float(latitude), float(longitude)))
        read = coordinates_of(text)
        assert read is not None
        assert np.float32(read[0]) == latitude
        assert np.float32(read[1]) == longitude


# --- names and keys ---


def test_coordinates_are_named_by_a_fine_and_a_coarse_cell() -> None:
    assert place_names("48.86,2.35") == ["cell:0.25:195:9", "cell:2.0:24:1"]
    assert place_names((-0.1, -179.9)) == ["cell:0.25:-1:-720", "cell:2.0:-1:-90"]


def test_places_nearby_share_a_cell() -> None:
    near, far = set(place_names("48.80,2.40")), set(place_names(LYON))
    assert set(place_names(PARIS)) & near
    assert not set(place_names(PARIS)) & far


def test_names_are_names() -> None:
    assert place_names("germany") == ["germany"]
    assert place_names(("linz", "", "austria")) == ["linz", "austria"]
    for nothing in ("", (), (None, None), (None, 2.0), 7.0, None):
        assert place_names(nothing) == []


def test_keys_are_of_values_not_of_features() -> None:
    about: dict[str, AttributeValue] = {
        "home": "paris",
        "city": ("paris", "lyon"),
        "age": 7.0,
        "shop": "berlin",
    }
    keys = place_keys(about, ["home", "city", "age", "absent"])
    assert keys.tolist() == sorted([key_of("paris"), key_of("lyon")])
    assert place_keys(about, []).dtype == np.uint64
    assert len(place_keys({}, ["home"])) == 0


# --- distances ---


def haversine_km(here: tuple[float, float], there: tuple[float, float]) -> float:
    (a, b), (c, d) = np.radians(here), np.radians(there)
    half = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * 6371 * math.asin(math.sqrt(half))


def points(*places: tuple[float, float]) -> np.ndarray:
    latitudes, longitudes = np.array(places).reshape(-1, 2).T
    return points_on_earth(latitudes, longitudes)


def test_points_lie_on_the_unit_sphere_and_unknown_ones_in_its_middle() -> None:
    found = points((90, 0), (0, 0), (0, 90), (math.nan, 3), (3, math.nan))
    expected = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert found.dtype == np.float32


def test_the_distance_is_that_of_the_nearest() -> None:
    found = nearest_km(points(PARIS, LYON), points(LONDON, LYON))
    assert found == pytest.approx([haversine_km(PARIS, LONDON), 0], abs=2e-3)
    assert found[0] == pytest.approx(343.5, abs=0.5)


@pytest.mark.parametrize("metres", [5, 100, 10_000])
def test_small_distances_are_exact_to_metres(metres: float) -> None:
    there = (PARIS[0] + metres / 1000 / 111.19, PARIS[1])
    assert nearest_km(points(PARIS), points(there))[0] == pytest.approx(metres / 1000, abs=2e-3)


def test_the_other_end_of_the_world_is_half_way_round() -> None:
    assert nearest_km(points((0, 0)), points((0, 180)))[0] == pytest.approx(math.pi * 6371)


def test_what_is_unknown_is_infinitely_far() -> None:
    nowhere = (math.nan, math.nan)
    found = nearest_km(points(PARIS, nowhere), points(nowhere, LYON))
    assert np.isfinite(found).tolist() == [True, False]
    assert np.isinf(nearest_km(points(PARIS), points(nowhere))).all()
    assert np.isinf(nearest_km(points(PARIS), points())).all()
    assert len(nearest_km(points(), points(PARIS))) == 0
