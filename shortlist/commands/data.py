"""`shortlist data`: the public data sets that Shortlist has a schema for."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from shortlist.commands.options import EXISTING_FOLDER
from shortlist.commands.terminal import Terminal

__all__ = ["data"]


@click.group()
def data() -> None:
    """Public data sets: what there is, under which licence, and how to get it.

    No data set comes with Shortlist. `fetch` downloads one from its publisher, after showing the
    licence; `shortlist import --preset NAME --source FOLDER` imports what lies in a folder.

    \b
      shortlist data list
      shortlist data fetch movietweetings --to downloads/movietweetings
      shortlist import --preset movietweetings --source downloads/movietweetings --workdir W
    """


@data.command("list")
def list_() -> None:
    """Show the presets: name, description, licence."""
    from training.presets import PresetNotChosen, list_presets, load_preset

    table = Table("preset", "what it is", "licence", title="Presets", show_lines=True)
    for name in list_presets():
        try:
            card = load_preset(name).dataset
        except PresetNotChosen:
            table.add_row(name, "whichever of its layouts the --source folder holds", "")
            continue
        described = (escape(card.description), escape(card.licence.name)) if card else ("", "")
        table.add_row(name, *described)
    Terminal().out.print(table)


@data.command()
@click.argument("name")
@click.option(
    "--source",
    type=EXISTING_FOLDER,
    show_envvar=True,
    help="Its files: where one name has several layouts, they decide which is shown.",
)
def show(name: str, source: Path | None) -> None:
    """Print the schema of the preset NAME: a starting point for one's own.

    \b
      shortlist data show movietweetings > my.yaml
    """
    from shortlist.commands.import_data import schema_text
    from training.presets import load_preset

    click.echo(schema_text(load_preset(name, source)), nl=False)


@data.command()
@click.argument("name")
@click.option(
    "--to",
    "folder",
    required=True,
    show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder that the files go into.",
)
@click.option(
    "--accept-licence", is_flag=True, show_envvar=True, help="Agree to the licence that is shown."
)
def fetch(name: str, folder: Path, accept_licence: bool) -> None:
    """Download the data set NAME from its publisher and check it.

    The licence is shown first. Nothing is kept that does not match its checksum. Without the
    network, the error says which files to get in another way.

    \b
      shortlist data fetch movietweetings --to downloads/movietweetings --accept-licence
    """
    from training.fetch import fetch as download
    from training.fetch import licence_text
    from training.presets import load_preset

    terminal = Terminal()
    card = load_preset(name).dataset
    if card and not accept_licence and sys.stdin.isatty():
        terminal.out.print(escape(licence_text(card)))
        accept_licence = click.confirm("Do you agree to this licence?", default=False)
    with terminal.progress() as progress:
        files = download(
            name,
            folder,
            accept_licence=accept_licence,
            show=lambda text: terminal.out.print(escape(text)),
            progress=progress,
        )
    table = Table("file", "checked by", title=str(folder))
    for fetched in files:
        for path in fetched.files:
            table.add_row(path.name, escape(fetched.verified_by))
    terminal.out.print(table)
