"""`python -m benchmarks.click_guard`: how soon clicks end a canary, and how often for nothing.

No system runs: a crowd whose people differ in how often they come and how much they click looks at
pages, a share of it at a canary's, and the guard is asked after every few pages. It is the
simulation that `tests/orchestrator/test_guards.py` holds the guard's promise with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from rich.table import Table

from orchestrator.guards_clicks import ClickTest
from shortlist.commands.terminal import Terminal

__all__ = ["Crowd", "main", "pages_until_ended"]

_EVERY = 20  # pages between two looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Who looks at the pages."""

    users: int = 4000
    share: float = 0.2  # of them, in the canary
    rate: float = 0.1  # clicks per page, on average
    alike: bool = False  # else visits are log-normal (sigma 1) and clicks gamma (shape 1) by user


def pages_until_ended(
    crowd: Crowd, change: float, pages: int, seed: int, alpha: float
) -> int | None:
    """The canary's pages until it ends, if its users click `1 + change` times as much; None = it
    did not within so many pages of all users."""
    rng = np.random.default_rng((7, seed))
    often = np.ones(crowd.users) if crowd.alike else rng.lognormal(0, 1, crowd.users)
    taste = np.ones(crowd.users) if crowd.alike else rng.gamma(1, 1, crowd.users)
    mine = rng.random(crowd.users) < crowd.share
    visitors = rng.choice(crowd.users, pages, p=often / often.sum())
    means = crowd.rate * taste[visitors] * np.where(mine[visitors], 1 + change, 1.0)
    clicks = rng.poisson(means)
    names = rng.integers(1, 2**63, crowd.users).tolist()
    items = iter(rng.integers(1, 2**63, int(clicks.sum())).tolist())
    test, shown = ClickTest(), 0
    for at, (user, count) in enumerate(zip(visitors.tolist(), clicks.tolist(), strict=True)):
        canary = bool(mine[user])
        shown += canary
        test.show(names[user], canary=canary)
        for _ in range(count):
            test.click(names[user], next(items), canary=canary)
        if at % _EVERY == 0 and test.evidence() >= 1 / alpha:
            return shown
    return None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
@click.option("--equal", default=200, show_default=True, help="Runs with an equal canary.")
@click.option("--worse", default=40, show_default=True, help="Runs with a worse one.")
@click.option("--change", default=-0.2, show_default=True, help="Of a worse canary's clicks.")
@click.option("--alpha", default=0.05, show_default=True, help="Of the guard.")
def main(as_json: bool, equal: int, worse: int, change: float, alpha: float) -> None:
    """Simulate equal and worse canaries, and count those that the click guard ends.

    \b
      python -m benchmarks.click_guard
      python -m benchmarks.click_guard --change -0.4 --json
    """
    terminal = Terminal(as_json=as_json)
    with terminal.progress() as progress:
        found = []
        for name, crowd in (
            ("4000 users who differ", Crowd()),
            ("20,000 users who differ", Crowd(users=20_000)),
            ("20,000 users who are alike", Crowd(users=20_000, alike=True)),
        ):
            for changed, runs, pages in ((0.0, equal, 15_000), (change, worse, 60_000)):
                ended = []
                for seed in range(runs):
                    progress(f"{name}, {changed:+.0%}", seed, runs)
                    ended.append(pages_until_ended(crowd, changed, pages, seed, alpha))
                found.append(_summary(name, changed, pages, crowd, ended))
    terminal.out.print(_table(found))
    terminal.emit({"alpha": alpha, "runs": found})


def _summary(
    name: str, change: float, pages: int, crowd: Crowd, ended: list[int | None]
) -> dict[str, Any]:
    needed = [one for one in ended if one is not None]
    quantiles = np.percentile(needed, [10, 50, 90]).tolist() if needed else None
    return {
        "crowd": name,
        "change": change,
        "runs": len(ended),
        "canary_pages": int(pages * crowd.share),
        "ended": len(needed) / len(ended),
        "pages_needed_p10_p50_p90": quantiles,
    }


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table("crowd")
    for name in ("canary's clicks", "runs", "ended", "of its pages", "needed: 10 %, 50 %, 90 %"):
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(one["crowd"], f"{one['change']:+.0%}", *_cells(one))
    return table


def _cells(one: dict[str, Any]) -> Iterator[str]:
    yield str(one["runs"])
    yield f"{one['ended']:.1%}"
    yield f"{one['canary_pages']:,}"
    quantiles = one["pages_needed_p10_p50_p90"]
    yield ", ".join(f"{pages:,.0f}" for pages in quantiles) if quantiles else ""


if __name__ == "__main__":
    main()
