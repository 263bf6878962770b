"""`shortlist redeploy` and `shortlist rollback`: change the version of a running system."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from shortlist.commands.options import json_option
from shortlist.commands.terminal import Terminal

if TYPE_CHECKING:
    from shortlist.redeploying import Place
    from shortlist.rollout import Outcome

__all__ = ["redeploy", "rollback", "system_options"]

TIERS = ("retrieval", "ranking")


_workdir_option = click.option(
    "--workdir",
    "-w",
    envvar="SHORTLIST_WORKDIR",
    show_envvar=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Its artifacts, its configuration, and the processes that `shortlist up` runs.",
)
_artifacts_option = click.option(
    "--artifacts",
    show_envvar=True,
    metavar="PATH|URL",
    help="Where the artifacts are, if not in the workdir.",
)
_processes_option = click.option(
    "--process",
    "processes",
    multiple=True,
    show_envvar=True,
    metavar="HOST:PORT[,HOST:PORT...]",
    help="A shard, ranker or orchestrator of the system; name all of them. Each says what "
    "it is. Default: `deployment.processes`, else what `shortlist up` runs.",
)


def system_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which running system is meant."""
    return _workdir_option(_processes_option(command))


def _place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which running system is meant, and where its artifacts are."""
    return _workdir_option(_artifacts_option(_processes_option(command)))


@click.command()
@click.argument("tier", type=click.Choice([*TIERS, "all"]), default="all")
@_place_options
@click.option(
    "--version",
    show_envvar=True,
    metavar="NAME",
    help="The version to put into service. Default: the newest that has not served yet and that "
    "the gate has not refused.",
)
@click.option(
    "--canary",
    type=click.FloatRange(0, 1),
    show_envvar=True,
    help="Give it to this share of the users first. Default: `deployment.canary`.",
)
@click.option(
    "--watch",
    "watch_s",
    type=click.FloatRange(0),
    show_envvar=True,
    metavar="SECONDS",
    help="How long only they get it. Default: `deployment.watch_s`.",
)
@json_option
def redeploy(
    tier: str,
    workdir: Path | None,
    artifacts: str | None,
    processes: tuple[str, ...],
    version: str | None,
    canary: float | None,
    watch_s: float | None,
    as_json: bool,
) -> None:
    """Put a trained version into service, while pages are served.

    Every replica verifies, loads and warms it beside the version that serves. Then all turn to it
    at once: no request fails, and none is answered by parts of two versions. If one replica cannot
    load it, the old version serves on everywhere. Run it again after it was interrupted: it
    finishes what it began.

    \b
    The newest versions, on the system that `shortlist up --workdir W` runs:
      shortlist redeploy --workdir W
    \b
    Retrieval alone, for a twentieth of the users at first:
      shortlist redeploy retrieval --workdir W --canary 0.05 --watch 600
    \b
    In one process, `shortlist serve`:
      shortlist redeploy --workdir W --process 127.0.0.1:7700
    """
    from shortlist.redeploying import redeploy as deploy

    if tier == "all" and version is not None:
        raise click.UsageError("--version is of one tier: name it")
    terminal = Terminal(as_json=as_json)
    place = _place(workdir, artifacts, processes)
    reslice = None if workdir is None else partial(_reslice, workdir)

    def change(tier: str, tell: Callable[[str], None]) -> Any:
        return deploy(
            place, tier, version, canary=canary, watch_s=watch_s, reslice=reslice, tell=tell
        )

    _change(tier, change, terminal, "serves")


@click.command()
@click.argument("tier", type=click.Choice(TIERS), required=False)
@_place_options
@json_option
def rollback(
    tier: str | None,
    workdir: Path | None,
    artifacts: str | None,
    processes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Return to the version that served before, at once where it is still in memory.

    Without TIER it is the tier whose version was changed last. What was rolled back is not put into
    service again unless `shortlist redeploy --version` names it. A rollout that was interrupted is
    taken back.

    \b
      shortlist rollback ranking --workdir W
    """
    from shortlist.redeploying import changed_last, roll_back

    place = _place(workdir, artifacts, processes)
    terminal = Terminal(as_json=as_json)

    def change(tier: str, tell: Callable[[str], None]) -> Any:
        return roll_back(place, tier, tell=tell)

    _change(tier or changed_last(place.store), change, terminal, "serves again")


def _change(
    tier: str,
    change: Callable[[str, Callable[[str], None]], Any],
    terminal: Terminal,
    done: str,
) -> None:
    from shortlist.redeploying import run

    outcomes = []
    for name in TIERS if tier == "all" else (tier,):
        outcome = run(change(name, lambda text: terminal.err.print(escape(text), style="dim")))
        seconds = sum(outcome.seconds.values())
        terminal.err.print(
            f"[green]✓[/] {name} {escape(outcome.version)} {done} [dim]{seconds:.1f} s[/]"
        )
        outcomes.append(outcome)
    terminal.out.print(_table(outcomes))
    terminal.emit({"changes": [outcome.summary() for outcome in outcomes]})


def _table(outcomes: list[Outcome]) -> Table:
    table = Table("tier", "serves", "before", "in memory for a rollback", "replicas", "away")
    for one in outcomes:
        table.add_row(
            one.tier,
            one.version,
            one.before or "",
            one.kept or "",
            str(one.replicas),
            ", ".join(one.missing),
        )
    return table


def _place(workdir: Path | None, artifacts: str | None, processes: tuple[str, ...]) -> Place:
    from shortlist.redeploying import Place

    if workdir is None and artifacts is None:
        raise click.UsageError("give --workdir, or --artifacts and --process")
    return Place(workdir=workdir, artifacts=artifacts, processes=processes)


def _reslice(workdir: Path, version: str, shards: int) -> str:
    from training.shards import reshard

    return reshard(workdir, shards, version=version)
