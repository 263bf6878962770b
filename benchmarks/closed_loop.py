"""`python -m benchmarks.closed_loop`: what it is worth that pages follow what people just did.

In a simulated world, whose users' tastes drift and whose clicks are known, two copies of the same
trained system serve the same visits. One is told every click at once; the other serves from the
histories of the day on which training ended, as a system does that learns over night and never gets
to it. Both leave out what their user has clicked. The difference is clicks.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.table import Table

from benchmarks.folders import kept_or_temporary
from orchestrator.embedded import embedded
from orchestrator.pipeline import Recommender
from shortlist.artifacts import ArtifactStore
from shortlist.commands.import_data import import_into
from shortlist.commands.terminal import Terminal
from shortlist.commands.train import TIERS, run_to_end
from shortlist.config import Config
from shortlist.errors import ArtifactNotFound, ShortlistError
from shortlist.feed import RecordedEvent
from shortlist.launch import module_command
from shortlist.page import PageRequest
from shortlist.schema import Schema, SplitPlan
from shortlist.stores.opening import STORE_FILE
from simulator import World, WorldConfig, write_dataset
from training.dataset import Dataset

__all__ = ["main"]

Floats = npt.NDArray[np.float64]

_DAY_MS = 86_400_000
_TEST_FRACTION = 0.3  # of the log: the time that is lived through anew
_RESAMPLES = 2000


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
@click.option("--users", default=3000, show_default=True, help="People of the world.")
@click.option("--items", default=12_000, show_default=True, help="Items in it.")
@click.option("--events", default=150_000, show_default=True, help="What they did in all.")
@click.option("--visitors", default=300, show_default=True, help="People whose visits are served.")
@click.option("--visits", default=2, show_default=True, help="Of each of them a day.")
@click.option("--seed", default=7, show_default=True, help="Equal seeds give equal worlds.")
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the trained world here, and use it again; default: a temporary folder.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the plot here, as SVG or PNG by its name.",
)
def main(
    as_json: bool,
    users: int,
    items: int,
    events: int,
    visitors: int,
    visits: int,
    seed: int,
    workdir: Path | None,
    picture: Path | None,
) -> None:
    """Count the clicks that live histories are worth.

    \b
      python -m benchmarks.closed_loop --picture closed_loop.svg
    """
    terminal = Terminal(as_json=as_json)
    config = WorldConfig(users=users, items=items, events=events, seed=seed)
    try:
        with terminal.only_json(), kept_or_temporary(workdir, "loop") as folder:
            world = World(config)
            _prepare(folder, world, terminal)
            loop = asyncio.run(_live_through(folder, world, visitors, visits, terminal))
    except ShortlistError as error:
        raise click.ClickException(str(error)) from None
    if picture is not None:
        _draw(loop, picture)
    terminal.out.print(_table(loop))
    terminal.emit(loop.summary())


def _prepare(folder: Path, world: World, terminal: Terminal) -> None:
    """Import and train on the first part of the world's log."""
    store = ArtifactStore(folder / "artifacts")
    with contextlib.suppress(ArtifactNotFound):
        if all(store.current(tier) for tier in TIERS):
            return
    folder.mkdir(parents=True, exist_ok=True)
    with terminal.progress() as progress:
        written = write_dataset(world, folder / "source", progress=progress)
    schema = Schema.load(written.schema)
    split = SplitPlan(test_fraction=_TEST_FRACTION)
    import_into(folder, schema.model_copy(update={"split": split}), folder / "source", terminal)
    for tier in TIERS:
        terminal.err.rule(f"training {tier}")
        command = module_command(f"training.{tier}", "--workdir", str(folder))
        run_to_end(command, f"training {tier}")


# -- the loop -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One person comes to see a page."""

    user: int  # of the world
    time_ms: int
    seed: int  # of what happens on the page: the same for both systems


@dataclass(slots=True, kw_only=True)
class Side:
    """One of the two systems, and what its users have clicked."""

    recommender: Recommender
    live: bool
    clicked: dict[int, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Clicks per page, [visitors, days]."""

    live: Floats
    frozen: Floats
    best: Floats  # of the pages that a reader of minds would have made

    def summary(self) -> dict[str, Any]:
        live, frozen = float(self.live.mean()), float(self.frozen.mean())
        low, high = self.gain_interval()
        return {
            "clicks_per_page": {"live": live, "frozen": frozen, "best_possible": self.best.mean()},
            "gain": live / frozen - 1,
            "gain_95": [low, high],
            "by_day": {
                "live": self.live.mean(axis=0).tolist(),
                "frozen": self.frozen.mean(axis=0).tolist(),
                "best_possible": self.best.mean(axis=0).tolist(),
            },
            "visitors": self.live.shape[0],
            "days": self.live.shape[1],
        }

    def gain_interval(self) -> tuple[float, float]:
        """95 % of the gain, by drawing visitors anew (bootstrap)."""
        rng = np.random.default_rng(0)
        drawn = rng.integers(len(self.live), size=(_RESAMPLES, len(self.live)))
        live, frozen = (side.mean(axis=1)[drawn].mean(axis=1) for side in (self.live, self.frozen))
        low, high = np.percentile(live / frozen - 1, [2.5, 97.5])
        return float(low), float(high)


async def _live_through(
    folder: Path, world: World, visitors: int, visits: int, terminal: Terminal
) -> Loop:
    """Serve all visits with both systems, day by day."""
    dataset = Dataset.load(folder / "dataset")
    start_ms = dataset.validation_end_ms
    assert start_ms is not None  # the world's log has times
    people = _visitors(dataset, world, visitors)
    days = int((world.config.end_ms - start_ms) // _DAY_MS)
    clicks = {name: np.zeros((len(people), days)) for name in ("live", "frozen", "best")}
    async with contextlib.AsyncExitStack() as stack:
        sides = {name: await _side(stack, folder, dataset, name) for name in ("live", "frozen")}
        with terminal.progress() as report:
            for day in range(days):
                report("days lived", day, days)
                for row, visit in _visits_of_day(people, start_ms + day * _DAY_MS, visits, day):
                    for name, side in sides.items():
                        clicks[name][row, day] += await _serve(world, side, visit) / visits
                    clicks["best"][row, day] += _best_clicks(world, visit) / visits
            report("days lived", days, days)
    return Loop(**clicks)


def _visitors(dataset: Dataset, world: World, count: int) -> list[int]:
    """People, as the world numbers them, who did something before the loop begins."""
    known = dataset.rows_of_split("train", "validation")
    ids = dataset.user_ids.take(np.unique(dataset.events.user[known])).to_pylist()
    chosen = np.random.default_rng(0).permutation(world.user_indices(ids))[:count]
    return [int(user) for user in chosen]


def _visits_of_day(
    people: Sequence[int], start_ms: int, visits: int, day: int
) -> Iterator[tuple[int, Visit]]:
    """The visits of a day in their order, with the row of their person."""
    rng = np.random.default_rng((1, day))
    times = np.sort(rng.integers(start_ms, start_ms + _DAY_MS, size=len(people) * visits))
    rows = rng.permutation(np.repeat(np.arange(len(people)), visits))
    for row, time_ms in zip(rows.tolist(), times.tolist(), strict=True):
        yield row, Visit(user=people[row], time_ms=time_ms, seed=int(rng.integers(2**32)))


async def _side(
    stack: contextlib.AsyncExitStack, folder: Path, dataset: Dataset, name: str
) -> Side:
    """A system over the trained artifacts, with histories that end when the loop begins."""
    from shortlist.commands.import_data import fill_store

    workdir = folder / name
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir()
    shutil.copy(folder / "schema.yaml", workdir)
    config = Config.load(folder / "shortlist.yaml")
    config.save(workdir / "shortlist.yaml")
    known = dataset.rows_of_split("train", "validation")
    await fill_store(dataset, config.store, workdir, rows=known)
    assert (workdir / STORE_FILE).exists()
    recommender = await embedded(workdir, artifacts=folder / "artifacts")
    return Side(recommender=await stack.enter_async_context(recommender), live=name == "live")


async def _serve(world: World, side: Side, visit: Visit) -> int:
    """Show a page, and let the user click: how often."""
    (user_id,) = world.user_ids(np.array([visit.user]))
    clicked_before = side.clicked.setdefault(visit.user, [])
    page = await side.recommender.recommend(
        PageRequest(
            user_id=user_id,
            time_ms=visit.time_ms,
            exclude_item_ids=tuple(clicked_before),
            filter="published_at <= now()",
        )
    )
    items = world.item_indices([item.id for item in page.items])
    rng = np.random.default_rng(visit.seed)
    feedback = world.simulate_clicks(rng, visit.user, items, visit.time_ms)
    clicked = [page.items[at].id for at in np.flatnonzero(feedback.clicked)]
    clicked_before.extend(clicked)
    if side.live and clicked:
        liked = {page.items[at].id for at in np.flatnonzero(feedback.liked)}
        await side.recommender.record_events(
            [
                RecordedEvent(
                    event_id=f"{visit.user}-{visit.time_ms}-{item}",
                    user_id=user_id,
                    item_id=item,
                    event_type="like" if item in liked else "click",
                    time_ms=visit.time_ms,
                    attribution_token=page.attribution_token,
                )
                for item in clicked
            ]
        )
    return len(clicked)


def _best_clicks(world: World, visit: Visit) -> float:
    """Clicks to be expected on the best page that there is; it may show what was clicked before."""
    best = world.best_items(visit.user, visit.time_ms, 20)
    places = np.arange(len(best))
    return float(world.click_probability(visit.user, best, visit.time_ms, places).sum())


# -- what came of it ------------------------------------------------------------------------------


def _table(loop: Loop) -> Table:
    summary = loop.summary()
    low, high = summary["gain_95"]
    table = Table(
        "histories",
        title=f"{summary['visitors']} visitors, {summary['days']} days",
        caption=f"live / frozen: {summary['gain']:+.1%} (95 %: {low:+.1%} to {high:+.1%})",
    )
    table.add_column("clicks per page", justify="right")
    for name, clicks in summary["clicks_per_page"].items():
        table.add_row(name.replace("_", " "), f"{clicks:.3f}")
    return table


def _draw(loop: Loop, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    days = np.arange(1, loop.live.shape[1] + 1)
    for clicks, label, colour in (
        (loop.live, "told of every click at once", "tab:blue"),
        (loop.frozen, "histories of day 0", "tab:orange"),
    ):
        mean = clicks.mean(axis=0)
        spread = 1.96 * clicks.std(axis=0, ddof=1) / np.sqrt(len(clicks))
        axes.plot(days, mean, color=colour, label=label)
        axes.fill_between(days, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("days since training ended")
    axes.set_ylabel("clicks per page of 20")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
