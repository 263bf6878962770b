"""`python -m benchmarks.canary`: a worse version gets a share of the users, and loses them again.

In a simulated world, whose clicks are known, a ranker is trained, and then once more on shuffled
labels: who did something next is as it was, what they did is not. A fifth of the users gets the
second one. They click less, nobody watches, and the orchestrator's guard ends it. With `--same`
both versions are one, and nothing may happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from rich.table import Table

from benchmarks.folders import kept_or_temporary
from orchestrator.assemble import assemble
from orchestrator.guards import Guards
from orchestrator.pipeline import Recommender
from orchestrator.releases import Release
from orchestrator.rollout_canary import Canary
from ranking_svc.ranker import LocalRanker
from retrieval_svc.shard import LocalRetriever
from retrieval_svc.slice_files import RetrievalMeta
from shortlist.artifacts import ArtifactStore
from shortlist.commands.import_data import fill_store, import_into
from shortlist.commands.terminal import Terminal
from shortlist.commands.train import run_to_end
from shortlist.config import (
    CanaryConfig,
    Config,
    RankingConfig,
    RetrievalConfig,
    ServingConfig,
    TwoTowerConfig,
)
from shortlist.errors import ArtifactNotFound, ShortlistError
from shortlist.feed import RecordedEvent
from shortlist.launch import module_command
from shortlist.page import PageRequest
from shortlist.schema import Schema, SplitPlan
from shortlist.stores.opening import open_store
from simulator import World, WorldConfig, write_dataset
from training.dataset import Dataset

__all__ = ["main"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_TEST_FRACTION = 0.3  # of the log: the time that is lived through anew
_PAGE = 10  # items
_PATIENCE_MS = 60_000  # pages are compared by clicks, whatever else the machine does
# Enough for a small world.
_CONFIG = Config(
    retrieval=RetrievalConfig(shards=1, two_tower=TwoTowerConfig(epochs=2)),
    ranking=RankingConfig(models=("gbdt",), default="gbdt", requests=3000),
    serving=ServingConfig(
        retrieval_budget_ms=_PATIENCE_MS,
        ranking_budget_ms=_PATIENCE_MS,
        describe_budget_ms=_PATIENCE_MS,
        request_budget_ms=4 * _PATIENCE_MS,
    ),
)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
@click.option(
    "--same", is_flag=True, help="The canary is the version that serves: nothing differs."
)
@click.option("--users", default=1500, show_default=True, help="People of the world.")
@click.option("--items", default=3000, show_default=True, help="Items in it.")
@click.option("--events", default=60_000, show_default=True, help="What they did in all.")
@click.option("--pages", default=3000, show_default=True, help="Pages that are served in all.")
@click.option("--share", default=0.2, show_default=True, help="Of the users, in the canary.")
@click.option(
    "--alpha", default=0.05, show_default=True, help="Chance of ending a canary that is as good."
)
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
    same: bool,
    users: int,
    items: int,
    events: int,
    pages: int,
    share: float,
    alpha: float,
    seed: int,
    workdir: Path | None,
    picture: Path | None,
) -> None:
    """Give a worse version to a share of the users, and see when it is taken back.

    \b
      python -m benchmarks.canary --picture canary.svg
      python -m benchmarks.canary --same
    """
    terminal = Terminal(as_json=as_json)
    # A busy machine's latencies are no reason to end it here.
    guards = Guards.of(CanaryConfig(click_rate_alpha=alpha, max_p99_ratio=1000.0))
    try:
        with terminal.only_json(), kept_or_temporary(workdir, "canary") as folder:
            world = World(WorldConfig(users=users, items=items, events=events, seed=seed))
            good = _prepare(folder, world, terminal)
            worse = "" if same else _prepare_worse(folder, seed, terminal)
            trial = asyncio.run(
                _live_through(folder, world, good, worse, pages, share, guards, terminal)
            )
    except ShortlistError as error:
        raise click.ClickException(str(error)) from None
    if picture is not None:
        _draw(trial, picture)
    terminal.out.print(_table(trial))
    terminal.emit(trial.summary())


# -- two versions ---------------------------------------------------------------------------------


def _prepare(folder: Path, world: World, terminal: Terminal) -> str:
    """The ranking version that is trained on what people did; retrieval beside it."""
    store = ArtifactStore(folder / "artifacts")
    with contextlib.suppress(ArtifactNotFound):
        return _current(store, "ranking")
    folder.mkdir(parents=True, exist_ok=True)
    _CONFIG.save(folder / "shortlist.yaml")
    with terminal.progress() as progress:
        written = write_dataset(world, folder / "source", progress=progress)
    _import(folder, Schema.load(written.schema), folder / "source", terminal)
    for tier in ("retrieval", "ranking"):
        _train(folder, tier, terminal)
    return _current(store, "ranking")


def _prepare_worse(folder: Path, seed: int, terminal: Terminal) -> str:
    """A ranking version that learned from the same people at the same times, but their choices are
    shuffled among them from where the backtest ends. It is in the store beside the good one."""
    other = folder / "shuffled"
    store = ArtifactStore(other / "artifacts")
    with contextlib.suppress(ArtifactNotFound):
        return _current(store, "ranking")
    shutil.copytree(folder / "source", other / "source", dirs_exist_ok=True)
    _shuffle(other / "source" / "events.csv", Dataset.load(folder / "dataset"), seed)
    _CONFIG.save(other / "shortlist.yaml")
    _import(other, Schema.load(other / "source" / "schema.yaml"), other / "source", terminal)
    for tier in ("retrieval", "backtest"):
        shutil.copytree(folder / "artifacts" / tier, other / "artifacts" / tier)
    _train(other, "ranking", terminal)
    version = _current(store, "ranking")
    shutil.copytree(
        other / "artifacts" / "ranking" / version, folder / "artifacts" / "ranking" / version
    )
    return version


def _shuffle(path: Path, dataset: Dataset, seed: int) -> None:
    """Permute the items of all events after the training part."""
    events = csv.read_csv(path)
    from_ms = dataset.train_end_ms
    assert from_ms is not None  # the world's log has times
    times_ms = pc.cast(pc.cast(events["time"], pa.timestamp("ms")), pa.int64())
    late = np.flatnonzero(times_ms.to_numpy() >= from_ms)
    rows = np.arange(len(events))
    rows[late] = np.random.default_rng((seed, 1)).permutation(late)
    at = events.schema.get_field_index("item")
    csv.write_csv(events.set_column(at, "item", events["item"].take(pa.array(rows))), path)


def _import(folder: Path, schema: Schema, source: Path, terminal: Terminal) -> None:
    split = SplitPlan(test_fraction=_TEST_FRACTION)
    import_into(folder, schema.model_copy(update={"split": split}), source, terminal)


def _train(folder: Path, tier: str, terminal: Terminal) -> None:
    terminal.err.rule(f"training {tier} in {folder.name}")
    run_to_end(module_command(f"training.{tier}", "--workdir", str(folder)), f"training {tier}")


def _current(store: ArtifactStore, tier: str) -> str:
    version = store.current(tier)
    if version is None:
        raise ArtifactNotFound(f"no {tier} version yet")
    return version


# -- the trial ------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Trial:
    """Page by page, in the order served."""

    share: float
    alpha: float
    same: bool
    mine: list[bool] = field(default_factory=list)  # of a user of the canary
    clicks: list[int] = field(default_factory=list)
    by_canary: list[bool] = field(default_factory=list)  # made by its version
    ended_at: int | None = None  # pages served until the canary ended by itself
    reason: str = ""
    failed: int = 0

    def rate(self, chosen: Bools) -> float | None:
        clicks = np.array(self.clicks, np.float64)[chosen]
        return float(clicks.mean()) if len(clicks) else None

    def summary(self) -> dict[str, Any]:
        mine = np.array(self.mine)
        during = np.arange(len(mine)) < (len(mine) if self.ended_at is None else self.ended_at)
        rates = {
            f"{who}_{when}": self.rate(rows & times)
            for who, rows in (("canary_users", mine), ("other_users", ~mine))
            for when, times in (("during", during), ("after", ~during))
        }
        return {
            "same": self.same,
            "share": self.share,
            "alpha": self.alpha,
            "rolled_back": self.ended_at is not None,
            "reason": self.reason,
            "pages": len(mine),
            "pages_until_rollback": self.ended_at,
            "canary_pages_until_rollback": (
                None if self.ended_at is None else int(np.count_nonzero(mine & during))
            ),
            "pages_by_canary_after": int(np.count_nonzero(np.array(self.by_canary) & ~during)),
            "clicks_per_page": rates,
            "failed_requests": self.failed,
        }


async def _live_through(
    folder: Path,
    world: World,
    good: str,
    worse: str,
    pages: int,
    share: float,
    guards: Guards,
    terminal: Terminal,
) -> Trial:
    """Serve pages to people who click, with a canary from the first page on; "" = the good one."""
    dataset = Dataset.load(folder / "dataset")
    start_ms = dataset.validation_end_ms
    assert start_ms is not None
    people = _visitors(dataset, world)
    trial = Trial(share=share, alpha=guards.click_rate_alpha, same=not worse)
    rng = np.random.default_rng((world.config.seed, 2))
    times_ms = np.linspace(start_ms, world.config.end_ms, pages, endpoint=False).astype(np.int64)
    async with _serving(folder, dataset, good, worse) as recommender:
        canary = await recommender.rollout.set_canary(Release(ranking=worse), share, guards)
        assert canary is not None
        with terminal.progress() as report:
            for number, time_ms in enumerate(times_ms.tolist()):
                if number % 100 == 0:
                    report("pages served", number, pages)
                user = int(people[rng.integers(len(people))])
                await _visit(world, recommender, canary, trial, rng, user, time_ms)
                if trial.ended_at is None and not canary.running:
                    trial.ended_at, trial.reason = number + 1, canary.rolled_back_because
            report("pages served", pages, pages)
    return trial


def _visitors(dataset: Dataset, world: World) -> npt.NDArray[np.int64]:
    """People, as the world numbers them, who did something before the trial begins."""
    known = dataset.rows_of_split("train", "validation")
    ids = dataset.user_ids.take(np.unique(dataset.events.user[known])).to_pylist()
    return np.array(world.user_indices(ids), np.int64)


@contextlib.asynccontextmanager
async def _serving(
    folder: Path, dataset: Dataset, good: str, worse: str
) -> AsyncIterator[Recommender]:
    """The good version active, the worse one prepared beside it, histories up to the trial."""
    workdir = folder / "serving"
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir()
    await fill_store(
        dataset, _CONFIG.store, workdir, rows=dataset.rows_of_split("train", "validation")
    )
    artifacts, store = ArtifactStore(folder / "artifacts"), open_store(_CONFIG.store, workdir)
    numbers = range(RetrievalMeta.of(artifacts.open("retrieval")).shards)
    shards = [LocalRetriever.open(artifacts, number, live=store) for number in numbers]
    ranker = LocalRanker.open(artifacts, good, _CONFIG.ranking, live=store)
    recommender = assemble(
        _CONFIG,
        [[shard] for shard in shards],
        [ranker],
        store,
        store=store,
        schema=Schema.load(folder / "schema.yaml"),
    )
    await asyncio.gather(ranker.start(), *(shard.start() for shard in shards))
    if worse:
        await ranker.versions.prepare(worse)
    async with recommender:
        yield recommender


async def _visit(
    world: World,
    recommender: Recommender,
    canary: Canary,
    trial: Trial,
    rng: np.random.Generator,
    user: int,
    time_ms: int,
) -> None:
    """Show a page, let its user click, and tell the system."""
    (user_id,) = world.user_ids(np.array([user]))
    request = PageRequest(
        user_id=user_id, time_ms=time_ms, page_size=_PAGE, filter="published_at <= now()"
    )
    try:
        page = await recommender.recommend(request)
    except ShortlistError:
        trial.failed += 1
        return
    shown = world.item_indices([item.id for item in page.items])
    feedback = world.simulate_clicks(rng, user, shown, time_ms)
    clicked = [page.items[at].id for at in np.flatnonzero(feedback.clicked)]
    trial.mine.append(canary.includes(user_id))
    trial.clicks.append(len(clicked))
    trial.by_canary.append(page.versions.release == canary.label(canary=True))
    if clicked:
        await recommender.record_events(
            [
                RecordedEvent(
                    event_id=f"{page.request_id}-{item}",
                    user_id=user_id,
                    item_id=item,
                    event_type="click",
                    time_ms=time_ms,
                    attribution_token=page.attribution_token,
                )
                for item in clicked
            ]
        )


# -- what came of it ------------------------------------------------------------------------------


def _table(trial: Trial) -> Table:
    summary = trial.summary()
    table = Table(
        "users",
        title=f"{summary['pages']} pages, a canary of {trial.share:.0%}",
        caption=f"rolled back after {trial.ended_at} pages: {trial.reason}"
        if trial.ended_at
        else "never rolled back",
    )
    for when in ("while it ran", "after"):
        table.add_column(f"clicks a page {when}", justify="right")
    rates = summary["clicks_per_page"]
    for who in ("canary_users", "other_users"):
        both = (rates[f"{who}_{when}"] for when in ("during", "after"))
        table.add_row(who.replace("_", " "), *("" if one is None else f"{one:.3f}" for one in both))
    return table


def _draw(trial: Trial, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    mine, clicks = np.array(trial.mine), np.array(trial.clicks, np.float64)
    for rows, label, colour in (
        (~mine, "other users", "tab:blue"),
        (mine, f"users of the canary ({trial.share:.0%})", "tab:orange"),
    ):
        pages = np.flatnonzero(rows)
        window = max(20, len(pages) // 12)
        mean = np.convolve(clicks[pages], np.ones(window) / window, mode="valid")
        axes.plot(pages[window - 1 :], mean, color=colour, label=label)
    if trial.ended_at is not None:
        axes.axvline(trial.ended_at, color="black", linewidth=1, linestyle="--")
        axes.annotate(
            " rolled back by itself",
            (trial.ended_at, 1),
            xycoords=("data", "axes fraction"),
            verticalalignment="top",
        )
    axes.set_xlabel("pages served")
    axes.set_ylabel(f"clicks per page of {_PAGE}, running mean")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
