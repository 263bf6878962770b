"""The options that all training jobs have."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from training.promotion import Ending

__all__ = ["JOB_CONTEXT", "job_options"]

JOB_CONTEXT = {"auto_envvar_prefix": "SHORTLIST", "show_default": True}


def job_options(workdir_help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a job's command, which gets `workdir`, `address`, `seed`, `log_sequence` and
    `ending`."""
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
        click.option(
            "--gate/--no-gate",
            default=True,
            help="Refuse a version that is worse than the one that serves.",
        ),
        click.option(
            "--redeploy",
            is_flag=True,
            help="Put the version into service on the processes that run, see docs/redeploy.md.",
        ),
        click.option(
            "--pair-follows",
            is_flag=True,
            help="The other tier is trained next: this version need not fit the one of now.",
        ),
    )

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(body)
        def command(gate: bool, redeploy: bool, pair_follows: bool, **others: Any) -> None:
            ending = Ending(gate=gate, redeploy=redeploy, pair_follows=pair_follows)
            body(ending=ending, **others)

        return functools.reduce(lambda made, option: option(made), reversed(options), command)

    return decorate
