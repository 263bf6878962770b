"""A Ray cluster for one job: the one it was submitted to, or a private one that leaves no trace."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from shortlist.errors import ClusterRefused, ClusterUnreachable

__all__ = [
    "cores_of_a_node",
    "cores_of_the_cluster",
    "new_board",
    "ray_session",
    "wait_for",
]

# Legacy Keras is what TF-Recommenders is written against; one thread a worker, one worker a core.
WORKER_ENVIRONMENT = {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
_OBJECT_STORE_BYTES = 512 * 1024 * 1024
_STARTS = 3  # of a private cluster, at most


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connect to `address`, else to the cluster of the enclosing `ray job`, else start one here.

    A private cluster keeps its files in a folder of its own and takes them along when it ends. What
    a task raises comes out as it is. Raises `ClusterRefused` or `ClusterUnreachable`.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A submitted job has a runtime environment already, which may name the same variables.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    # Warnings of Ray and of what it imports are not ours to act upon.
    warnings.filterwarnings("ignore", module="ray|opentelemetry|pkg_resources")
    with _connected(address) if address else _private_cluster():
        _hear_sigterm_again()
        try:
            yield
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None


@contextmanager
def _connected(address: str) -> Iterator[None]:
    environment = {"env_vars": WORKER_ENVIRONMENT}
    try:
        ray.init(address=address, runtime_env=environment, log_to_driver=False)
    except ray.exceptions.AuthenticationError as error:
        raise ClusterRefused(
            f"the Ray cluster at {address} does not accept the credentials: set "
            "RAY_AUTH_MODE=token and the cluster's token in RAY_AUTH_TOKEN"
        ) from error
    except ConnectionError as error:
        raise ClusterUnreachable(f"no Ray cluster answers at {address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _private_cluster() -> Iterator[None]:
    # Ray's socket paths must be short, so the folder cannot lie in the workdir.
    home = tempfile.mkdtemp(prefix="sl-ray-")
    # Workers are killed in the end, so what they leave behind has to lie in the folder, too.
    private = {"TMPDIR": home, "KERAS_HOME": f"{home}/keras"}
    # Without a token in the environment Ray would write one to the home directory.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        _start(
            address="local",
            num_cpus=os.cpu_count(),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            runtime_env={"env_vars": WORKER_ENVIRONMENT | private},
            _temp_dir=home,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(home, ignore_errors=True)


def _hear_sigterm_again() -> None:
    """Ray puts a handler of its own in front of ours, which ends the process without a clean-up."""
    ours = signal.getsignal(signal.SIGTERM)
    if callable(ours) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ours)


def _start(**settings: Any) -> None:
    """Start a cluster. Ray gives it half a minute, which may be too short on a busy machine."""
    for attempt in range(_STARTS):
        try:
            ray.init(**settings)
            return
        except Exception as error:
            ray.shutdown()
            if "timed out during startup" not in str(error) or attempt == _STARTS - 1:
                raise


class _Board:
    """Where tasks write how far they are, and the driver reads it."""

    def __init__(self) -> None:
        self._progress: dict[str, tuple[int, int]] = {}

    def report(self, task: str, done: int, total: int) -> None:
        self._progress[task] = (done, total)

    def read(self) -> dict[str, tuple[int, int]]:
        return self._progress


def cores_of_a_node() -> int:
    """The most cores that one task can get; needs a Ray session."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return int(max(resources.get("CPU", 1) for resources in nodes))


def cores_of_the_cluster() -> int:
    """How many tasks of one core run at once; needs a Ray session."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def new_board() -> Any:
    """An actor with the methods of `_Board`; needs a Ray session."""
    return ray.remote(num_cpus=0)(_Board).remote()


def wait_for(results: Sequence[ray.ObjectRef], board: Any, title: str) -> list[Any]:
    """The results in order, with progress bars on stderr while they are made.

    The first task that fails ends the wait.
    """
    console = Console(stderr=True)
    tell = _show if console.is_terminal else _tell
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=False) as bars:
        shown: dict[str, Any] = {}
        pending = list(results)
        while pending:
            finished, pending = ray.wait(pending, num_returns=1, timeout=0.5)
            tell(bars, shown, ray.get(board.read.remote()), title)
            ray.get(finished)
        # The last reports may have come after the last look.
        tell(bars, shown, ray.get(board.read.remote()), title)
    return ray.get(list(results))


def _show(
    bars: Progress, shown: dict[str, Any], progress: dict[str, tuple[int, int]], title: str
) -> None:
    for task, (done, total) in progress.items():
        if task not in shown:
            shown[task] = bars.add_task(f"{title}: {task}", total=total)
        bars.update(shown[task], completed=done, total=total)


def _tell(
    bars: Progress, shown: dict[str, Any], progress: dict[str, tuple[int, int]], title: str
) -> None:
    """For logs: a line at each tenth of a task."""
    for task, (done, total) in progress.items():
        tenth = 10 * done // max(total, 1)
        if shown.get(task) != tenth:
            shown[task] = tenth
            bars.console.print(f"{title}: {task} {10 * tenth} %")
