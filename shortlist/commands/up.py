"""`shortlist up`: shards, rankers and orchestrators as separate processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from shortlist.commands.options import (
    host_option,
    metrics_port_option,
    port_option,
    workdir_option,
)
from shortlist.commands.terminal import Terminal

if TYPE_CHECKING:
    from orchestrator.supervisor import Child, Supervisor, SupervisorOptions
    from orchestrator.up import Plan

__all__ = ["retrieval_version", "supervisor_of", "up"]

_COUNT = click.IntRange(1, 64)


@click.command()
@workdir_option
@click.option(
    "--shards",
    type=_COUNT,
    show_envvar=True,
    help="Slices of the catalogue. Default: as the artifact was built. Another number re-slices "
    "it into a version of its own.",
)
@click.option(
    "--replicas",
    type=_COUNT,
    default=1,
    show_default=True,
    show_envvar=True,
    help="Processes for each shard.",
)
@click.option(
    "--rankers",
    type=_COUNT,
    default=1,
    show_default=True,
    show_envvar=True,
    help="Ranker processes.",
)
@click.option(
    "--orchestrators",
    type=_COUNT,
    default=1,
    show_default=True,
    show_envvar=True,
    help="Orchestrators; the second listens on PORT + 1, and so on.",
)
@host_option
@port_option
@metrics_port_option
@click.option(
    "--restart",
    is_flag=True,
    show_envvar=True,
    help="Start a process again that died. Without it a death is only reported.",
)
def up(
    workdir: Path,
    shards: int | None,
    replicas: int,
    rankers: int,
    orchestrators: int,
    host: str,
    port: int,
    metrics_port: int | None,
    restart: bool,
) -> int:
    """Serve with every tier in processes of its own, until Ctrl-C.

    W/run holds a log file for each process and, while it serves, up.json with their ports and
    process ids. With --metrics-port every process answers GET /metrics: the orchestrators on that
    port and the next ones, then the shards, then the rankers. Ctrl-C or SIGTERM drains and stops
    everything; the processes also end when this one is killed.

    \b
    Two shards with two replicas each, two rankers, one orchestrator on port 7700:
      shortlist up --workdir W --shards 2 --replicas 2 --rankers 2
    \b
    Ask it, from another terminal:
      shortlist recommend --target 127.0.0.1:7700 --user 42
    """
    from orchestrator.supervisor import SupervisorOptions
    from orchestrator.up import Plan
    from shortlist.artifacts import ArtifactStore

    terminal = Terminal()
    artifacts = ArtifactStore(workdir / "artifacts")
    artifacts.current("ranking")  # an untrained workdir is an error of this command
    _, built_shards = retrieval_version(workdir, shards, terminal)
    plan = Plan(
        workdir=workdir.resolve(),
        shards=built_shards,
        replicas=replicas,
        rankers=rankers,
        orchestrators=orchestrators,
        host=host,
        port=port,
        metrics_port=metrics_port,
    )
    supervisor = supervisor_of(plan, SupervisorOptions(restart=restart), terminal)
    try:
        return asyncio.run(_serve(supervisor, terminal))
    except asyncio.CancelledError:
        terminal.err.print("stopped")
        return 0


def retrieval_version(workdir: Path, shards: int | None, terminal: Terminal) -> tuple[str, int]:
    """The version to serve and its shards; re-sliced where another number is asked for."""
    from shortlist.artifacts import ArtifactStore

    artifact = ArtifactStore(workdir / "artifacts").open("retrieval")
    built = int(artifact.manifest.meta["shards"])  # type: ignore[arg-type]
    if shards is None or shards == built:
        return artifact.version, built
    with terminal.step(f"Re-slicing {artifact.version} from {built} to {shards} shards"):
        from training.retrieval import reshard

        return reshard(workdir, shards), shards


def supervisor_of(plan: Plan, options: SupervisorOptions, terminal: Terminal) -> Supervisor:
    """The supervisor of a plan; what it has to tell is printed in red."""
    from orchestrator.supervisor import Supervisor
    from orchestrator.up import waves_of

    return Supervisor(
        plan.workdir / "run",
        waves_of(plan),
        options=options,
        tell=lambda text: terminal.err.print(f"[bold red]{escape(text)}[/]"),
    )


async def _serve(supervisor: Supervisor, terminal: Terminal) -> int:
    with _cancelled_by(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        async with contextlib.AsyncExitStack() as stack:
            with terminal.err.status("Starting ..."):
                system = await stack.enter_async_context(supervisor.running())
            terminal.out.print(_children_table(system.children))
            await system.until_all_died()
    terminal.err.print("[bold red]every process has died[/]")
    return 1


@contextlib.contextmanager
def _cancelled_by(*signals: signal.Signals) -> Iterator[None]:
    """These signals cancel the current task."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _children_table(children: Sequence[Child]) -> Table:
    table = Table(
        "process",
        "address",
        "pid",
        "metrics",
        "log",
        title="Serving; Ctrl-C stops everything",
        caption=f"logs in {children[0].log.parent}",
    )
    for child in children:
        table.add_row(
            child.spec.name,
            child.address,
            str(child.pid),
            "" if child.metrics_port is None else str(child.metrics_port),
            child.log.name,
        )
    return table
