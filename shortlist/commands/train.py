"""`shortlist train`: run the training jobs, here or on a Ray cluster."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from shortlist.commands.options import workdir_option
from shortlist.commands.terminal import Terminal
from shortlist.errors import ClusterRefused, ClusterUnreachable, ShortlistError
from shortlist.launch import child_environment, module_command, private_ray, tethered

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = [
    "JobFailed",
    "asking_cluster",
    "follow_job",
    "job_client",
    "run_job_here",
    "run_to_end",
    "submission_id",
    "train",
]

TIERS = ("retrieval", "ranking")
PAIR = ("all", "retrieval")  # then ranking is trained next
_LONGEST_TMP = 16
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STOP_GRACE_S = 30.0
_POLL_S = 0.5


class JobFailed(ShortlistError):
    """A training job ended without success; its log says why."""


@click.command()
@click.argument("tier", type=click.Choice([*TIERS, "all"]), default="all")
@workdir_option
@click.option(
    "--address",
    show_envvar=True,
    metavar="URL",
    help="Submit to this Ray cluster, for instance http://ray-head:8265, instead of running here. "
    "The cluster must see the workdir under the same path and have Shortlist installed.",
)
@click.option(
    "--gate/--no-gate",
    default=True,
    show_default=True,
    show_envvar=True,
    help="Refuse a version that is worse than the one that serves.",
)
@click.option(
    "--redeploy",
    is_flag=True,
    show_envvar=True,
    help="Put the version into service on the processes that run, as `shortlist redeploy` does.",
)
def train(tier: str, workdir: Path, address: str | None, gate: bool, redeploy: bool) -> None:
    """Train a tier as a Ray job, judge its version, and publish it.

    TIER is retrieval (every source, and the blend), ranking (every ranker, on retrieval's
    candidates), or all, the default: one after the other. W/shortlist.yaml says what is on.
    Without --address the job brings its own Ray up on this machine and takes it down again.

    A version that is worse than the one that serves, on what neither has learned from, is refused:
    the exit code is not 0, and W/gate/TIER/VERSION.json says why. Another one is what serves from
    the next start on. While a system runs, it keeps its version until a redeploy.

    \b
    Train both tiers on this machine:
      shortlist train --workdir W
    \b
    Retrain the ranker alone, on a cluster:
      shortlist train ranking --workdir /shared/W --address http://ray-head:8265
    """
    terminal = Terminal()
    if not (workdir / "dataset").is_dir():
        raise click.UsageError(f"no data set in {workdir}: run `shortlist import` first")
    for name in TIERS if tier == "all" else (tier,):
        started = time.monotonic()
        terminal.err.rule(f"training {name}")
        options = _ending(gate=gate, redeploy=redeploy, pair_follows=(tier, name) == PAIR)
        if address is None:
            run_job_here(name, workdir, options)
        else:
            _run_job_on(address, name, workdir, options)
        terminal.err.print(f"[green]✓[/] {name} [dim]{time.monotonic() - started:.1f} s[/]")
    show_versions(workdir, terminal)


def _ending(*, gate: bool, redeploy: bool, pair_follows: bool) -> list[str]:
    """The options of a job that say what becomes of its version."""
    options = {"--no-gate": not gate, "--redeploy": redeploy, "--pair-follows": pair_follows}
    return [name for name, wanted in options.items() if wanted]


def run_job_here(tier: str, workdir: Path, options: Sequence[str] = ()) -> None:
    """Run `python -m training.<tier>` and its Ray on this machine. Raises `JobFailed`."""
    command = module_command(f"training.{tier}", "--workdir", str(workdir.resolve()), *options)
    run_to_end(command, f"training {tier}")


def run_to_end(command: list[str], name: str) -> None:
    """Run a job in a process of its own; what it prints goes to stderr.

    Ctrl-C and SIGTERM interrupt the job. It, its Ray and their temporary files are gone when this
    returns. Raises `JobFailed`.
    """
    with _private_tmp() as tmp:
        job = subprocess.Popen(
            tethered(command),
            stdout=2,
            env=child_environment(private_ray(tmp)),
            start_new_session=True,
        )
        with _stopping(job):
            code = job.wait()
    if code != 0:
        raise JobFailed(f"{name} ended with exit code {code}; its output is above")


@contextlib.contextmanager
def _private_tmp() -> Iterator[Path]:
    # Ray keeps Unix sockets some 85 bytes below it, and the kernel allows 107 in all.
    folder = tempfile.gettempdir()
    path = Path(tempfile.mkdtemp(prefix="", dir=folder if len(folder) <= _LONGEST_TMP else "/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _stopping(job: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM on to the job, and wait until it has ended."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _STOP_SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        job.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(_STOP_GRACE_S)
        raise
    finally:
        if job.poll() is None:
            job.kill()
            job.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_job_on(address: str, tier: str, workdir: Path, options: Sequence[str]) -> None:
    from shortlist.config import Config
    from training.snapshot import log_head

    folder = workdir.resolve()
    # The job learns from what was logged until now, however long it waits for its turn.
    sequence = log_head(folder, Config.load(folder / "shortlist.yaml"))
    entrypoint = ("python", "-m", f"training.{tier}", "--workdir", str(folder), *options)
    with asking_cluster(address):
        follow_job(
            job_client(address),
            job=submission_id(tier, folder, sequence),
            entrypoint=shlex.join([*entrypoint, "--log-sequence", str(sequence)]),
        )


def submission_id(tier: str, workdir: Path, log_sequence: int) -> str:
    """The same job has the same name, so submitting it twice runs it once: it is made of the tier,
    the folder, and what is trained on (data set, configuration, and where the log ends)."""
    digest = hashlib.sha256(f"{tier}\0{workdir}\0{log_sequence}\0".encode())
    for name in ("dataset/dataset.json", "shortlist.yaml"):
        path = workdir / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return f"shortlist-{tier}-{digest.hexdigest()[:12]}"


def job_client(address: str) -> JobSubmissionClient:
    """Raises what Ray raises: see `asking_cluster`."""
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(address)


@contextlib.contextmanager
def asking_cluster(address: str) -> Iterator[None]:
    """What Ray's client raises in the block becomes an error of ours, in one line.

    Raises `ClusterRefused` or `ClusterUnreachable`.
    """
    import aiohttp
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ClusterRefused(
            f"the Ray cluster at {address} does not accept the credentials "
            f"({error.message.splitlines()[0].rstrip('.')}): set RAY_AUTH_MODE=token and the "
            "cluster's token in RAY_AUTH_TOKEN, or a file that holds it in RAY_AUTH_TOKEN_PATH"
        ) from None
    except (OSError, aiohttp.ClientError) as error:
        raise ClusterUnreachable(
            f"the Ray cluster at {address} cannot be reached: {_first_line(error)}"
        ) from None
    except RuntimeError as error:
        raise ClusterRefused(f"the Ray cluster at {address}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def follow_job(client: JobSubmissionClient, *, job: str, entrypoint: str) -> None:
    """Submit the job, or join it where it runs already; show its log until it ends.

    Ctrl-C stops the job. Raises `JobFailed`.
    """
    _submit(client, job, entrypoint)
    try:
        asyncio.run(_print_log(client, job))
    except KeyboardInterrupt:
        client.stop_job(job)
        raise
    status = client.get_job_status(job)
    while not status.is_terminal():
        time.sleep(_POLL_S)
        status = client.get_job_status(job)
    if status.value != "SUCCEEDED":
        message = client.get_job_info(job).message or ""
        raise JobFailed(f"job {job} ended as {status.value}: {message}")


def _submit(client: JobSubmissionClient, job: str, entrypoint: str) -> None:
    earlier = {info.submission_id: info.status for info in client.list_jobs()}.get(job)
    if earlier is not None and not earlier.is_terminal():
        return  # it runs: join it
    if earlier is not None:
        client.delete_job(job)
    client.submit_job(
        entrypoint=entrypoint,
        submission_id=job,
        runtime_env={"env_vars": {"TF_USE_LEGACY_KERAS": "1"}},
    )


async def _print_log(client: JobSubmissionClient, job: str) -> None:
    async with contextlib.aclosing(client.tail_job_logs(job)) as log:
        async for text in log:
            sys.stderr.write(text)
            sys.stderr.flush()


def show_versions(workdir: Path, terminal: Terminal) -> None:
    """A table of the artifacts that would serve now."""
    from shortlist.artifacts import ArtifactStore

    store = ArtifactStore(workdir / "artifacts")
    table = Table("tier", "current version", "metrics", title="Artifacts")
    for tier in TIERS:
        if not store.versions(tier):
            table.add_row(tier, "none yet", "")
            continue
        artifact = store.open(tier)
        table.add_row(tier, artifact.version, _metrics(artifact.manifest.meta.get("metrics")))
    terminal.out.print(table)


def _metrics(metrics: object) -> str:
    """The plain figures; of a curve, its first and last point. Deeper structures are left out."""
    if not isinstance(metrics, dict):
        return ""
    shown = {name: _figure(value) for name, value in metrics.items()}
    return ", ".join(f"{name} {text}" for name, text in shown.items() if text)


def _figure(value: object) -> str:
    if isinstance(value, list) and value and all(isinstance(one, float) for one in value):
        return f"{value[0]:.4g} → {value[-1]:.4g}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if isinstance(value, int | str) else ""
