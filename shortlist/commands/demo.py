"""`shortlist demo`: everything once, from events to pages over gRPC."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.markup import escape

from shortlist.commands.evaluate import measure, show_summary
from shortlist.commands.import_data import import_into, show_import
from shortlist.commands.options import EXISTING_FOLDER, workdir_option
from shortlist.commands.pages import show_page
from shortlist.commands.recommend import ask_for_page
from shortlist.commands.terminal import Terminal
from shortlist.commands.train import TIERS, run_job_here, show_versions
from shortlist.config import Config
from shortlist.page import PageRequest

if TYPE_CHECKING:
    from shortlist.schema import Schema
    from training.dataset import Dataset

__all__ = ["demo"]

NEW_USER = "somebody-new"
_SHOWN_HISTORY = 5
_EVALUATED = 500  # held-out users: enough for a first look
_EVALUATED_FAST = 150
_COUNT = click.IntRange(10, 10_000_000)


@click.command()
@workdir_option
@click.option(
    "--preset",
    show_envvar=True,
    metavar="NAME",
    help="A public data set instead of a world; `data list` shows them.",
)
@click.option(
    "--source", show_envvar=True, type=EXISTING_FOLDER, help="The folder of the preset's files."
)
@click.option("--users", type=_COUNT, show_envvar=True, help="People in the simulated world.")
@click.option("--items", type=_COUNT, show_envvar=True, help="Items in it.")
@click.option("--events", type=_COUNT, show_envvar=True, help="Clicks and likes in it.")
@click.option("--seed", type=int, show_envvar=True, help="Equal seeds give equal worlds.")
@click.option(
    "--fast", is_flag=True, show_envvar=True, help="A tiny world and few epochs: about a minute."
)
def demo(
    workdir: Path,
    preset: str | None,
    source: Path | None,
    users: int | None,
    items: int | None,
    events: int | None,
    seed: int | None,
    fast: bool,
) -> None:
    """Import, train, evaluate, serve and recommend, in one go.

    Without --preset the data is a simulated world of users with known tastes. Both tiers are
    trained as Ray jobs on this machine; the pages come from a server over gRPC. Everything that
    was started is stopped again, and the workdir stays for `serve`, `up` and `recommend`.

    \b
      shortlist demo --workdir W
      shortlist demo --workdir W --preset movietweetings --source downloads/movietweetings
    """
    started = time.monotonic()
    terminal = Terminal()
    if preset is None:
        sizes = {"users": users, "items": items, "events": events, "seed": seed}
        schema, source = _make_world(workdir / "source", sizes, fast, terminal)
    else:
        schema, source = _public_data(preset, source)
    if fast:
        _write_fast_config(workdir)
    show_import(import_into(workdir, schema, source, terminal), terminal)
    for tier in TIERS:
        terminal.err.rule(f"training {tier}")
        run_job_here(tier, workdir)
    show_versions(workdir, terminal)
    evaluated = _EVALUATED_FAST if fast else _EVALUATED
    show_summary(measure(workdir, terminal, users=evaluated), terminal)
    _show_pages(workdir, terminal)
    terminal.out.print(f"[green]✓[/] The whole demo took {time.monotonic() - started:.0f} s.")
    terminal.out.print(f"Next: shortlist up --workdir {workdir}", soft_wrap=True)


def _make_world(
    folder: Path, sizes: dict[str, int | None], fast: bool, terminal: Terminal
) -> tuple[Schema, Path]:
    from shortlist.schema import Schema
    from simulator import World, WorldConfig, write_dataset

    config = WorldConfig(users=400, items=1_500, events=12_000) if fast else WorldConfig()
    given: dict[str, Any] = {name: value for name, value in sizes.items() if value is not None}
    with terminal.progress() as progress:
        written = write_dataset(World(replace(config, **given)), folder, progress=progress)
    return Schema.load(written.schema), folder


def _public_data(preset: str, source: Path | None) -> tuple[Schema, Path]:
    from training.presets import load_preset

    if source is None:
        raise click.UsageError("--preset needs --source FOLDER, where the data set lies")
    return load_preset(preset, source), source


def _write_fast_config(workdir: Path) -> None:
    """Fewer epochs, unless the workdir has a configuration already."""
    path = workdir / "shortlist.yaml"
    if path.exists():
        return
    config = Config.model_validate(
        {"retrieval": {"two_tower": {"dim": 32, "epochs": 3}}, "ranking": {"dcn": {"epochs": 2}}}
    )
    workdir.mkdir(parents=True, exist_ok=True)
    config.save(path)


def _show_pages(workdir: Path, terminal: Terminal) -> None:
    from training.dataset import Dataset

    dataset = Dataset.load(workdir / "dataset")
    known = typical_user(dataset)
    terminal.out.print(f"\nUser {escape(known)} lately: {escape(_lately(dataset, known))}")
    asyncio.run(_pages_over_grpc(workdir, (known, NEW_USER), terminal))


async def _pages_over_grpc(workdir: Path, users: tuple[str, ...], terminal: Terminal) -> None:
    """Start a server in a process of its own, ask it for a page for each user, and stop it."""
    from orchestrator.supervisor import ChildSpec, Supervisor
    from shortlist.launch import module_command

    command = module_command("shortlist", "serve", "--workdir", str(workdir.resolve()))
    server = ChildSpec(name="server", role="orchestrator", command=tuple(command))
    async with Supervisor(workdir / "run", [lambda _: [server]]).running() as system:
        target = system.children[0].address
        terminal.err.print(f"[green]✓[/] Serving at {target}")
        for user in users:
            page = await ask_for_page(PageRequest(user_id=user, trace=True), None, target)
            show_page(page, terminal.out, title=f"For {user}")


def typical_user(dataset: Dataset) -> str:
    """A user with a median number of events, among those who have five or more; ties: first."""
    counts = np.bincount(dataset.events.user, minlength=dataset.n_users)
    active = np.flatnonzero(counts >= min(5, counts.max()))
    by_activity = active[np.argsort(counts[active], kind="stable")]
    return str(dataset.user_ids[int(by_activity[len(by_activity) // 2])].as_py())


def _lately(dataset: Dataset, user: str) -> str:
    row = dataset.user_row(user)
    items = dataset.events.item[dataset.events.user == row][::-1]
    return "; ".join(
        str(dataset.item_titles[item].as_py() or dataset.item_ids[item].as_py())
        for item in list(dict.fromkeys(items.tolist()))[:_SHOWN_HISTORY]
    )
