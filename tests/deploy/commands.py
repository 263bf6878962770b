"""Whether a command of ours takes the arguments that a container gives it."""

from __future__ import annotations

from collections.abc import Sequence

import click

__all__ = ["accept"]


def accept(command: click.Command, arguments: Sequence[str], *, given: Sequence[str] = ()) -> None:
    """Parse as click would; folders of a container do not exist here, so values stay texts.

    Parameters in `given` come from the image's environment. Raises `click.UsageError`, and
    `AssertionError` for arguments that are left over or missing.
    """
    parser = command.make_parser(click.Context(command))
    parsed, left, _ = parser.parse_args(list(arguments))  # raises for an unknown option
    assert left == []
    taken = {name: value for name, value in parsed.items() if isinstance(value, str | list | tuple)}
    required = {p.name for p in command.params if p.required}
    assert required - taken.keys() <= set(given)
    for parameter in command.params:
        if isinstance(parameter.type, click.Choice) and parameter.name in taken:
            parameter.type.convert(taken[parameter.name], parameter, None)
