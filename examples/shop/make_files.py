"""Writes what a small shop might export: `python examples/shop/make_files.py FOLDER`.

Three CSV files whose columns Shortlist has never heard of; `shop.yaml` beside this script says what
they mean. Customers have favourite departments, a browsing habit and a taste for new things.
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

DEPARTMENTS = ("garden", "kitchen", "toys", "books", "outdoor", "music", "stationery", "lamps")
BRANDS = ("Alder", "Brook", "Cedar", "Dale", "Elm", "Fern", "Grove", "Heath", "Isle", "Juniper")
THINGS = ("set", "box", "classic", "mini", "deluxe", "starter kit", "refill", "limited edition")
CITIES = ("Lisbon", "Lyon", "Leeds", "Linz", "Lund")
OPENED = datetime(2025, 3, 1)
DAYS = 120


def main(folder: Path, customers: int = 400, products: int = 600, visits: int = 4_000) -> None:
    random.seed(20250301)
    folder.mkdir(parents=True, exist_ok=True)
    shelf = [make_product(number) for number in range(products)]
    people = [make_customer(number) for number in range(customers)]
    _write(folder / "products.csv", shelf)
    _write(folder / "customers.csv", [{k: p[k] for k in ("login", "city")} for p in people])
    _write(folder / "clickstream.csv", make_events(people, shelf, visits))


def make_product(number: int) -> dict[str, str]:
    department, brand = random.choice(DEPARTMENTS), random.choice(BRANDS)
    listed = OPENED + timedelta(days=random.choice([0, 0, random.randrange(DAYS)]))
    return {
        "sku": f"{department[:3].upper()}-{number:04d}",
        "name": f"{brand} {department} {random.choice(THINGS)}",
        "department": department,
        "brand": brand,
        "price_eur": f"{random.lognormvariate(3, 0.7):.2f}",
        "listed_on": listed.date().isoformat(),
    }


def make_customer(number: int) -> dict[str, str]:
    return {
        "login": f"{random.choice('abcdefghij')}{number}@example.org",
        "city": random.choice(CITIES),
        "loves": random.choice(DEPARTMENTS),
        "likes": random.choice(DEPARTMENTS),
        "brand": random.choice(BRANDS),
    }


def make_events(
    people: Sequence[dict[str, str]], shelf: Sequence[dict[str, str]], visits: int
) -> Iterable[dict[str, str]]:
    """Each visit looks at a few products, and buys what suits the customer best."""
    moments = sorted(random.uniform(0, DAYS) for _ in range(visits))
    for moment in moments:
        person = people[int(len(people) * random.random() ** 1.5)]
        now = OPENED + timedelta(days=moment)
        stock = [p for p in shelf if p["listed_on"] <= now.date().isoformat()]
        looks = random.choices(stock, [appeal(person, p, n) for n, p in enumerate(stock)], k=3)
        for step, product in enumerate(looks):
            bought = random.random() < 0.08 * appeal(person, product, 0)
            yield {
                "login": person["login"],
                "sku": product["sku"],
                "happened_at": (now + timedelta(minutes=step)).isoformat(timespec="seconds") + "Z",
                "action": "purchase" if bought else "view",
            }


def appeal(person: dict[str, str], product: dict[str, str], shelf_place: int) -> float:
    liking = 1.0 + 6.0 * (product["department"] == person["loves"])
    liking += 3.0 * (product["department"] == person["likes"])
    liking += 2.0 * (product["brand"] == person["brand"])
    return liking / (1.0 + shelf_place / 100)


def _write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
