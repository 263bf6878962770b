"""What every test shares: a quiet environment, real data where there is some, no network."""

from __future__ import annotations

import ipaddress
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before any test module imports a library that reads them.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # the same sums on every machine
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# A token of this run's own: Ray would write one into the home folder.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("KERAS_HOME", str(Path(__file__).parent.parent / ".cache" / "keras"))

# A job that a shell runs in the background ignores Ctrl-C, and so would every process of a test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest

from tests.trained import trained, trained_copy  # noqa: F401  (fixtures of slow tests)

CHECKOUT = Path(__file__).resolve().parent.parent


class NetworkRefused(AssertionError):
    """A test tried to leave this machine."""


@pytest.fixture(scope="session")
def data_folder() -> Callable[[str], Path]:
    """The folder of a real data set by its name; skips the test where the machine has none.

    Looked for in `$SHORTLIST_DATA`, else in `../shared/data` beside the checkout.
    """
    root = Path(os.environ.get("SHORTLIST_DATA") or CHECKOUT.parent / "shared" / "data")

    def folder(name: str) -> Path:
        path = root / name
        if not path.is_dir():
            pytest.skip(
                f"no data set {name!r} in {root}; set SHORTLIST_DATA to a folder that has it"
            )
        return path

    return folder


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the source tree."""
    return CHECKOUT


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """TCP connections of Python code stay on this machine. Unix sockets and UDP are not touched."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        _refuse_if_remote(self, address)
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What tests write need not outlive a power cut, and they publish thousands of files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


def _refuse_if_remote(connection: socket.socket, address: Any) -> None:
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if connection.type != socket.SOCK_STREAM or _is_here(address[0]):
        return
    raise NetworkRefused(f"a test tried to connect to {address}")


def _is_here(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return False  # a name: looking it up would already be network
    return number.is_loopback or number.is_unspecified or _has_address(host)


def _has_address(host: str) -> bool:
    """Whether this machine owns `host`: Ray talks to itself over the machine's own address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
