"""`python -m simulator FOLDER`: write a simulated world as files that can be imported."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from shortlist.errors import ShortlistError
from simulator.config import WorldConfig
from simulator.dataset import FileFormat, write_dataset
from simulator.world import World

_DEFAULTS = WorldConfig()


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--users", default=_DEFAULTS.users, help="Number of users; nearly half join on the way."
)
@click.option("--items", default=_DEFAULTS.items, help="Number of items, up to tens of millions.")
@click.option("--events", default=_DEFAULTS.events, help="Clicks and likes to generate.")
@click.option("--days", default=_DEFAULTS.days, help="Length of the log.")
@click.option(
    "--start",
    type=click.DateTime(formats=["%Y-%m-%d"]),
    default=_DEFAULTS.start.isoformat(),
    help="First day of the log, UTC.",
)
@click.option("--seed", default=_DEFAULTS.seed, help="Equal seeds and sizes give equal files.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    help="Parquet is smaller and faster for large worlds.",
)
def main(
    folder: Path,
    users: int,
    items: int,
    events: int,
    days: int,
    start: datetime,
    seed: int,
    file_format: FileFormat,
) -> None:
    """Simulate a world of users and items and write its log into FOLDER.

    FOLDER gets events, items, users and the schema.yaml that describes them. Users have tastes that
    drift, items have creators, places and publication times, and what was clicked depends on all of
    these, on popularity and on the position on the page.

    \b
    A small world to try things out, and a large one:
        python -m simulator world --users 300 --items 1000 --events 10000
        python -m simulator big --users 1000000 --items 10000000 --events 5000000 --format parquet
    """
    console = Console(stderr=True)
    try:
        config = WorldConfig(
            users=users, items=items, events=events, days=days, start=start.date(), seed=seed
        )
        with _progress_bar(console) as bar:
            written = write_dataset(
                World(config), folder, file_format=file_format, progress=_Report(bar)
            )
    except (ShortlistError, OSError) as error:
        raise click.ClickException(str(error)) from None
    console.print(
        f"[bold]{written.events:,}[/] events of {written.users:,} users on {written.items:,} items;"
        f" schema in {written.schema}",
        soft_wrap=True,
    )


def _progress_bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


class _Report:
    """Shows one bar a table."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, expected: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=expected)
        self._bar.update(self._tasks[what], completed=done, total=max(done, expected))


if __name__ == "__main__":
    main(prog_name="python -m simulator")
