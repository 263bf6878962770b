"""Options that several commands share, so that they are called the same everywhere."""

from __future__ import annotations

from pathlib import Path

import click

from shortlist.errors import InvalidField
from shortlist.places import coordinates_of
from shortlist.tiers import AttributeValue

__all__ = [
    "EXISTING_FOLDER",
    "artifacts_option",
    "attribute_option",
    "exclude_option",
    "filter_option",
    "host_option",
    "json_option",
    "metrics_port_option",
    "page_size_option",
    "parse_blocked",
    "parse_context",
    "port_option",
    "store_option",
    "target_option",
    "trace_option",
    "workdir_option",
]

EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

workdir_option = click.option(
    "--workdir",
    "-w",
    envvar="SHORTLIST_WORKDIR",
    show_envvar=True,
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder that holds data set, artifacts and configuration.",
)

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    show_envvar=True,
    help="Print exactly one JSON object to stdout; progress goes to stderr.",
)

host_option = click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    show_envvar=True,
    help="Address to listen on. 0.0.0.0 = every interface.",
)

port_option = click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7700,
    show_default=True,
    show_envvar=True,
    help="Port to listen on. 0 = any free one.",
)

metrics_port_option = click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    show_envvar=True,
    help="Answer GET /metrics, for Prometheus, on this port; 0 = any free one. Default: count "
    "nothing.",
)


# -- of the commands that ask for items -----------------------------------------------------------

artifacts_option = click.option(
    "--workdir",
    "-w",
    envvar="SHORTLIST_WORKDIR",
    show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Answer from this workdir's artifacts, in this process.",
)

store_option = click.option(
    "--workdir",
    "-w",
    envvar="SHORTLIST_WORKDIR",
    show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Use this workdir's store directly.",
)

target_option = click.option(
    "--target", show_envvar=True, metavar="HOST:PORT", help="Ask this running server instead."
)

page_size_option = click.option(
    "--page-size",
    type=click.IntRange(1, 200),
    show_envvar=True,
    help="Items wanted. Default: the server's configuration.",
)

exclude_option = click.option(
    "--exclude",
    multiple=True,
    metavar="ITEM",
    show_envvar=True,
    help="An item to leave out. May be repeated.",
)

filter_option = click.option(
    "--filter",
    default="",
    metavar="EXPRESSION",
    show_envvar=True,
    help="Only items that match, for instance 'genre = \"drama\" AND published_at > now()-30d'; "
    "docs/filters.md describes the language.",
)

attribute_option = click.option(
    "--attribute",
    multiple=True,
    metavar="NAME",
    show_envvar=True,
    help="An item feature to return with each item. May be repeated.",
)

trace_option = click.option(
    "--trace/--no-trace",
    default=True,
    show_default=True,
    show_envvar=True,
    help="Show what each stage kept and dropped.",
)


def parse_context(pairs: tuple[str, ...]) -> dict[str, AttributeValue]:
    """`("device=phone", "hour=21", "tags=a,b")` -> values: a number where it reads as one, a
    tuple of texts where it has commas, but coordinates stay one text.

    Raises `InvalidField` naming the pair.
    """
    context: dict[str, AttributeValue] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not (name and separator):
            raise InvalidField("--context", f"{pair!r} is not NAME=VALUE")
        context[name] = _value(text)
    return context


def parse_blocked(pairs: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """`("genre=horror", "genre=war")` -> the values of each feature. Raises `InvalidField`."""
    blocked: dict[str, tuple[str, ...]] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not (name and separator):
            raise InvalidField("--block", f"{pair!r} is not NAME=VALUE")
        blocked[name] = (*blocked.get(name, ()), value)
    return blocked


def _value(text: str) -> AttributeValue:
    if coordinates_of(text):  # `48.86,2.35` is one place, not a list
        return text
    if "," in text:
        return tuple(part for part in text.split(",") if part)
    try:
        return float(text)
    except ValueError:
        return text
