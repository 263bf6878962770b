from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shortlist.commands.train import (
    JobFailed,
    asking_cluster,
    follow_job,
    job_client,
    run_to_end,
    submission_id,
)
from shortlist.errors import ClusterUnreachable
from shortlist.launch import child_environment, private_ray

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def test_the_same_job_has_the_same_name(tmp_path: Path) -> None:
    assert submission_id("retrieval", tmp_path, 7) == submission_id("retrieval", tmp_path, 7)
    assert submission_id("retrieval", tmp_path, 7) != submission_id("ranking", tmp_path, 7)


def test_new_events_make_another_job(tmp_path: Path) -> None:
    assert submission_id("retrieval", tmp_path, 7) != submission_id("retrieval", tmp_path, 8)


@pytest.mark.parametrize("name", ["shortlist.yaml", "dataset/dataset.json"])
def test_another_configuration_or_data_set_makes_another_job(tmp_path: Path, name: str) -> None:
    before = submission_id("retrieval", tmp_path, 7)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("something else")
    assert submission_id("retrieval", tmp_path, 7) != before


def test_an_address_without_a_cluster_is_an_error_of_one_line() -> None:
    address = f"http://127.0.0.1:{_free_port()}"
    with pytest.raises(ClusterUnreachable) as raised, asking_cluster(address):
        job_client(address)
    assert address in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_job_that_fails_is_an_error_and_leaves_no_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    job = "import os, sys; open(os.environ['TMPDIR'] + '/left', 'w'); sys.exit('no data')"
    with pytest.raises(JobFailed, match="training it ended with exit code 1"):
        run_to_end([sys.executable, "-c", job], "training it")
    assert "no data" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_reaches_the_job_and_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    job = f"""
        import os, pathlib, time
        folder = pathlib.Path({str(tmp_path)!r})
        try:
            (folder / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        except KeyboardInterrupt:
            (folder / "interrupted").touch()
    """
    starter = f"""
        import sys
        from shortlist.commands.train import run_to_end
        run_to_end([sys.executable, "-c", {textwrap.dedent(job)!r}], "the job")
    """
    command = [sys.executable, "-c", textwrap.dedent(starter)]
    running = subprocess.Popen(command, env=child_environment(), stderr=subprocess.DEVNULL)
    try:
        pid = int(_wait_for(tmp_path / "pid"))
        running.send_signal(number)
        assert running.wait(30) != 0
    finally:
        running.kill()
        running.wait()
    assert (tmp_path / "interrupted").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")  # Ray's own call
class TestOnACluster:
    """`follow_job` against a Ray head with its job server, as `--address` meets it."""

    def test_a_job_runs_to_its_end_and_its_log_is_shown(
        self, cluster: JobSubmissionClient, capsys: pytest.CaptureFixture[str]
    ) -> None:
        follow_job(cluster, job="good", entrypoint="echo the job speaks")
        assert "the job speaks" in capsys.readouterr().err

    def test_a_training_job_connects_to_the_cluster_that_runs_it(
        self, cluster: JobSubmissionClient, capfd: pytest.CaptureFixture[str]
    ) -> None:
        # The job's own environment names variables that the session sets for its workers, too.
        code = (
            "from training.ray_session import cores_of_a_node, ray_session\n"
            "with ray_session(): print('cores', cores_of_a_node())"
        )
        follow_job(cluster, job="session", entrypoint=shlex.join([sys.executable, "-c", code]))
        assert "cores 1" in "".join(capfd.readouterr())

    def test_a_finished_job_runs_again_under_its_name(self, cluster: JobSubmissionClient) -> None:
        follow_job(cluster, job="again", entrypoint="true")
        first = cluster.get_job_info("again").start_time
        follow_job(cluster, job="again", entrypoint="true")
        assert cluster.get_job_info("again").start_time > first

    def test_a_job_that_fails_is_an_error_that_names_it(self, cluster: JobSubmissionClient) -> None:
        with pytest.raises(JobFailed, match="job bad ended as FAILED"):
            follow_job(cluster, job="bad", entrypoint="exit 3")

    @pytest.mark.parametrize("token", ["wrong" * 12, ""])
    def test_wrong_credentials_are_an_error_of_one_line_that_says_what_to_set(
        self, cluster: JobSubmissionClient, token: str
    ) -> None:
        """In a process of its own: Ray reads the token once."""
        code = (
            "import sys\n"
            "from shortlist.commands.train import asking_cluster, job_client\n"
            "from shortlist.errors import ShortlistError\n"
            "try:\n"
            "    with asking_cluster(sys.argv[1]): job_client(sys.argv[1]).list_jobs()\n"
            "except ShortlistError as error: print(type(error).__name__, error)\n"
        )
        environment = {k: v for k, v in child_environment().items() if not k.startswith("RAY_")}
        if token:
            environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, cluster.get_address()],
            env=environment | {"HOME": "/nowhere"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.startswith("ClusterRefused the Ray cluster at http")
        assert "RAY_AUTH_TOKEN" in done.stdout
        assert done.stdout.count("\n") == 1
        assert token[:10] not in done.stdout or not token

    def test_a_running_job_is_joined_and_ctrl_c_stops_it(
        self, cluster: JobSubmissionClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster.submit_job(entrypoint="echo started; sleep 600", submission_id="long")

        def interrupt(_text: str) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(sys.stderr, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            follow_job(cluster, job="long", entrypoint="echo another")
        monkeypatch.undo()
        ends = time.monotonic() + 30
        while not cluster.get_job_status("long").is_terminal():
            assert time.monotonic() < ends
            time.sleep(0.1)
        assert cluster.get_job_status("long").value == "STOPPED"
        assert len([job for job in cluster.list_jobs() if job.submission_id == "long"]) == 1


@pytest.fixture(scope="module")
def cluster() -> Iterator[JobSubmissionClient]:
    from ray.job_submission import JobSubmissionClient

    tmp = tempfile.mkdtemp(prefix="sl-")
    head = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--port=0", "--dashboard-port=0", f"--temp-dir={tmp}", "--num-cpus=1"),
            *("--include-dashboard=true", "--disable-usage-stats"),
            # Another Ray on this machine may hold the usual port, and then no job ever starts.
            f"--dashboard-agent-listen-port={_free_port()}",
        ],
        env=child_environment(private_ray(Path(tmp))),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        client = JobSubmissionClient(_job_server(head))
        _wait_for_agent(client)
        yield client
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.communicate()
        _remove(Path(tmp))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _job_server(head: subprocess.Popen[str]) -> str:
    """The address that the head prints when it is up."""
    assert head.stdout is not None
    for line in head.stdout:
        if found := re.search(r"RAY_API_SERVER_ADDRESS='(\S+)'", line):
            return found[1]
    raise AssertionError("the Ray head did not start")


def _wait_for_agent(client: JobSubmissionClient, timeout_s: float = 120.0) -> None:
    """A new cluster answers 500 until the process that starts its jobs is there."""
    ends = time.monotonic() + timeout_s
    while True:
        try:
            client.submit_job(entrypoint="true")
            return
        except RuntimeError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.5)


def _remove(folder: Path, timeout_s: float = 10.0) -> None:
    """Processes that have just been killed may still add a file."""
    ends = time.monotonic() + timeout_s
    while folder.exists() and time.monotonic() < ends:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


def _wait_for(path: Path, timeout_s: float = 30.0) -> str:
    ends = time.monotonic() + timeout_s
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < ends, f"{path} did not appear"
        time.sleep(0.02)
    return path.read_text()
