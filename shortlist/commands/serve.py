"""`shortlist serve`: orchestrator and both tiers in one process."""

from __future__ import annotations

import os
from pathlib import Path

import click

from shortlist.commands.options import (
    host_option,
    metrics_port_option,
    port_option,
    workdir_option,
)
from shortlist.launch import child_environment, module_command

__all__ = ["serve"]


@click.command()
@workdir_option
@host_option
@port_option
@metrics_port_option
def serve(workdir: Path, host: str, port: int, metrics_port: int | None) -> None:
    """Serve pages over gRPC from one process, until Ctrl-C.

    Orchestrator, all shards and the ranker share the process: the least to run, and the fastest
    for a catalogue that fits into one machine. `shortlist up` runs them as processes of their own.

    \b
      shortlist serve --workdir W --port 7700
      shortlist recommend --target 127.0.0.1:7700 --user 42
    \b
    The server describes itself by reflection, so any gRPC tool can ask it:
      grpcurl -plaintext -d '{"user": {"id": "42"}}' 127.0.0.1:7700 \\
        shortlist.v1.Orchestrator/Recommend
    """
    from shortlist.artifacts import ArtifactStore

    artifacts = ArtifactStore(workdir / "artifacts")
    for tier in ("retrieval", "ranking"):
        artifacts.current(tier)  # an untrained workdir is an error of this command
    command = module_command(
        "orchestrator", "--workdir", str(workdir), "--host", host, "--port", str(port)
    )
    if metrics_port is not None:
        command += ["--metrics-port", str(metrics_port)]
    # Not a call: numpy, which this process has loaded, reads its thread count only once.
    os.execve(command[0], command, child_environment())
