"""`shortlist import`: from a folder of files to the workdir's data set and store."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml
from rich.markup import escape
from rich.table import Table

from shortlist.commands.options import EXISTING_FOLDER, json_option, workdir_option
from shortlist.commands.terminal import Terminal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from shortlist.config import StoreConfig
    from shortlist.schema import Schema
    from training.bad_rows import BadRowLog
    from training.dataset import Dataset
    from training.importer import ImportReport

__all__ = ["fill_store", "import_data", "import_into", "schema_text", "show_import"]


@click.command("import")
@click.option(
    "--schema",
    "schema_file",
    show_envvar=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The YAML file that says what the files mean.",
)
@click.option(
    "--preset",
    show_envvar=True,
    metavar="NAME",
    help="A schema that comes with Shortlist; `shortlist data list` shows them.",
)
@click.option(
    "--source",
    show_envvar=True,
    required=True,
    type=EXISTING_FOLDER,
    help="The folder that holds the files.",
)
@workdir_option
@json_option
def import_data(
    schema_file: Path | None, preset: str | None, source: Path, workdir: Path, as_json: bool
) -> None:
    """Import events, items and users from files, and split them for training and evaluation.

    CSV, TSV, other separators, JSON lines and Parquet load. Rows that cannot be read are counted
    by reason, shown, and refused above the schema's threshold. An import replaces the one before,
    and leaves it alone when it fails.

    \b
    Your own files, described by a YAML file:
      shortlist import --schema my.yaml --source exports/ --workdir W
    \b
    A public data set that was downloaded before:
      shortlist import --preset movielens --source ml-latest-small/ --workdir W
    \b
    The smallest schema:
      name: my-shop
      interactions: [{path: orders.csv, user: customer, item: sku, time: ordered_at}]
    """
    terminal = Terminal(as_json=as_json)
    schema = _choose_schema(schema_file, preset, source)
    with terminal.only_json():
        report = import_into(workdir, schema, source, terminal)
    show_import(report, terminal)
    terminal.emit(asdict(report))


def _choose_schema(schema_file: Path | None, preset: str | None, source: Path) -> Schema:
    if (schema_file is None) == (preset is None):
        raise click.UsageError("give either --schema FILE or --preset NAME")
    if schema_file is not None:
        from shortlist.schema import Schema

        return Schema.load(schema_file)
    from training.presets import load_preset

    assert preset is not None
    return load_preset(preset, source)


def import_into(workdir: Path, schema: Schema, source: Path, terminal: Terminal) -> ImportReport:
    """Fill the workdir: data set, schema, configuration (an existing one stays), and the
    store's profiles and items, beneath what has happened live.
    """
    from shortlist.config import Config
    from training.forget import load_remembered
    from training.importer import import_dataset

    workdir.mkdir(parents=True, exist_ok=True)
    config_file = workdir / "shortlist.yaml"
    config = Config.load(config_file)
    with terminal.progress() as progress:
        report = import_dataset(schema, source, workdir / "dataset", progress=progress)
    (workdir / "schema.yaml").write_text(schema_text(schema), "utf-8")
    if not config_file.exists():
        config.save(config_file)
    with terminal.step("Writing profiles and items"):
        dataset = load_remembered(workdir, config).dataset
        asyncio.run(fill_store(dataset, config.store, workdir))
    return report


async def fill_store(
    dataset: Dataset,
    config: StoreConfig,
    workdir: Path,
    *,
    rows: npt.NDArray[np.int64] | None = None,
) -> None:
    """Put profiles, of all interactions or those of `rows`, and items beneath the live state."""
    from shortlist.stores.opening import open_store
    from training.profiles import items_of, profiles_of

    profiles = profiles_of(
        dataset, history_length=config.history_length, seen_length=config.seen_length, rows=rows
    )
    store = open_store(config, workdir)
    try:
        await store.replace_base(profiles, items_of(dataset))
    finally:
        await store.close()


def schema_text(schema: Schema) -> str:
    """The schema as YAML, without what is a default anyway."""
    return yaml.safe_dump(
        schema.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
    )


def show_import(report: ImportReport, terminal: Terminal) -> None:
    """What was imported, how it was split, and which rows were bad."""
    terminal.out.print(_counts_table(report))
    if any(log.bad for log in report.bad_rows):
        terminal.out.print(_bad_rows_table(report.bad_rows))
    for note in report.notes:
        terminal.out.print(f"[yellow]note:[/] {escape(note)}")


def _counts_table(report: ImportReport) -> Table:
    table = Table(title="Imported")
    for name in ("users", "items", "interactions"):
        table.add_column(name, justify="right")
    table.add_column("event types")
    table.add_column(f"train / validation / test ({report.split_method} split)", justify="right")
    table.add_row(
        f"{report.users:,}",
        f"{report.items:,}",
        f"{report.interactions:,}",
        ", ".join(report.event_types),
        f"{report.train:,} / {report.validation:,} / {report.test:,}",
    )
    return table


def _bad_rows_table(logs: tuple[BadRowLog, ...]) -> Table:
    table = Table("table", "reason", "rows", "share", "for example", title="Bad rows, left out")
    for log in logs:
        for reason, count in log.counts.items():
            examples = log.examples.get(reason, [])
            table.add_row(
                log.table,
                reason,
                f"{count:,}",
                f"{count / max(log.rows, 1):.2%}",
                escape(f"{examples[0].where}: {examples[0].text}") if examples else "",
            )
    return table
