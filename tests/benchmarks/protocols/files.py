"""Tiny data in the layouts of the publishers: two circles of users with a taste of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.protocols.protocol import HeldOutUsers

PLAN = HeldOutUsers(
    ratings="ratings.csv",
    liked_above=3.5,
    fewest_items=5,
    users=8,
    hidden_fraction=0.2,
    seed=98765,
)


def write_lists(folder: Path, *, users: int = 60, seed: int = 0) -> Path:
    """train.txt, valid.txt and test.txt: a line a user, `user item item ...`."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {"train.txt": [], "valid.txt": [], "test.txt": []}
    for user in range(users):
        items = rng.permutation(30)[:18] + 30 * (user % 2)
        for name, part in zip(lines, np.split(items, [12, 14]), strict=True):
            lines[name].append(" ".join(map(str, [user, *part])))
    for name, rows in lines.items():
        (folder / name).write_text("\n".join(rows) + "\n", "utf-8")
    return folder


def write_ratings_csv(folder: Path, *, users: int = 60, seed: int = 0) -> Path:
    """ratings.csv of MovieLens 20M: userId,movieId,rating,timestamp."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["userId,movieId,rating,timestamp"]
    for user in range(1, users + 1):
        for item in np.sort(rng.permutation(30)[:18] + 30 * (user % 2)):
            rating = rng.choice([2.0, 3.5, 4.0, 5.0], p=[0.1, 0.1, 0.4, 0.4])
            rows.append(f"{user},{item},{rating},{1_000_000_000 + user}")
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return folder


def write_ratings_dat(folder: Path, *, users: int = 60, seed: int = 0) -> Path:
    """ratings.dat, movies.dat and users.dat of MovieLens 1M: cells between `::`."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ratings = []
    for user in range(1, users + 1):
        for item in rng.permutation(60)[:18] + 1:
            liked = (item <= 30) == bool(user % 2)
            rating = rng.choice([4, 5] if liked else [1, 2, 3])
            time_s = 970_000_000 + int(rng.integers(5_000_000))
            ratings.append((time_s, f"{user}::{item}::{rating}::{time_s}"))
    movies = [f"{item}::Film {item} (19{item + 30})::Comedy|Drama" for item in range(1, 61)]
    people = [f"{user}::{'FM'[user % 2]}::25::{user % 5}::{10000 + user}" for user in range(1, 61)]
    for name, lines in (
        ("ratings.dat", [line for _, line in ratings]),
        ("movies.dat", movies),
        ("users.dat", people),
    ):
        (folder / name).write_text("\n".join(lines) + "\n", "latin-1")
    return folder
