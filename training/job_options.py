"""The options that all training jobs have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = ["JOB_CONTEXT", "job_options"]

JOB_CONTEXT = {"auto_envvar_prefix": "SHORTLIST", "show_default": True}


def job_options(workdir_help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a job's command, which gets `workdir`, `address`, `seed` and
    `log_sequence`."""
    options = (
        click.option(
            "--workdir",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            required=True,
            help=workdir_help,
        ),
        click.option(
            "--address", help="A Ray cluster; default: the enclosing job's, or a private one."
        ),
        click.option("--seed", default=0, help="Makes training repeatable."),
        click.option(
            "--log-sequence",
            type=click.IntRange(min=0),
            help="Learn from what was logged up to this change; default: until now.",
        ),
    )

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            body = option(body)
        return body

    return decorate
