"""The store's container, as it is started: on a real Redis, with the folders of this machine."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from redis.asyncio import Redis

from shortlist.config import StoreConfig
from shortlist.live import LiveEvent
from shortlist.stores.redis import RedisStore
from tests.deploy.manifests import pods_of, resources_of
from tests.redis_server import free_port, redis_program

PASSWORD = secrets.token_hex(16)
START_S = 20.0
SET, MULTI = b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$1\r\n1\r\n", b"*1\r\n$5\r\nMULTI\r\n"
LOG_THAT_ENDS_EARLY = SET % (5, b"whole") + MULTI + SET % (4, b"half") + b"*1\r\n$4\r\nEX"


@pytest.fixture(params=["kubernetes", "compose"])
def command(request: pytest.FixtureRequest, checkout: Path) -> list[str]:
    """What the container runs."""
    if request.param == "kubernetes":
        pods = pods_of(resources_of("base", checkout))
        (container,) = next(pod for pod in pods if pod.name == "store").containers
        return container["command"]
    services = yaml.safe_load((checkout / "deploy/compose.yaml").read_text("utf-8"))["services"]
    return [word.replace("$$", "$") for word in services["store"]["command"]]


@pytest.fixture
def url(command: list[str], tmp_path: Path, checkout: Path) -> Iterator[str]:
    """The store's address; it is started by `command`, whose folders lie in `tmp_path`."""
    for folder in ("etc", "run", "data"):
        (tmp_path / folder).mkdir()
    port = free_port()
    text = (checkout / "deploy/kubernetes/base/config/store.conf").read_text("utf-8")
    text = text.replace("dir /data", f"dir {tmp_path}/data").replace("6379", str(port))
    text = text.replace("/run/store", f"{tmp_path}/run").replace("bind * -::*", "bind 127.0.0.1")
    (tmp_path / "etc/store.conf").write_text(text)
    shutil.copy(checkout / "deploy/kubernetes/base/config/mend-log.sh", tmp_path / "etc")
    # A log that ends within a transaction, as of a server that was killed.
    name = "appendonlydir/appendonly.aof.manifest"
    log = "appendonly.aof"  # of servers before Redis 7, which need no folder
    (tmp_path / "data" / log).write_bytes(LOG_THAT_ENDS_EARLY)
    (tmp_path / "redis-check-aof").symlink_to(redis_program())
    script = command[-1].replace("/run/store", f"{tmp_path}/run").replace(name, log)
    script = script.replace("/etc/store", f"{tmp_path}/etc").replace("/data", f"{tmp_path}/data")
    script = script.replace("valkey-server", redis_program())
    script = script.replace("valkey-check-aof", str(tmp_path / "redis-check-aof"))
    process = subprocess.Popen(
        [*command[:-1], script],
        env={"PATH": os.environ["PATH"], "STORE_PASSWORD": PASSWORD},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        while "Ready to accept connections" not in (line := process.stdout.readline()):
            assert line, "the store ended"
        yield f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
        process.send_signal(signal.SIGTERM)  # reaches the server, not a shell around it
        assert process.wait(START_S) == 0
    finally:
        process.kill()
        process.communicate()


async def test_the_store_takes_events_and_keeps_its_password_to_itself(
    url: str, tmp_path: Path
) -> None:
    store = RedisStore(url, StoreConfig())  # refuses a server that is not set up as it has to be
    now_ms = time.time_ns() // 1_000_000
    event = LiveEvent(
        event_id="e", user_id="ann", item_id="i", event_type="view", time_ms=now_ms, weight=1.0
    )
    assert (await store.append([event])).sequence == 1
    await store.close()

    assert (tmp_path / "run/password.conf").stat().st_mode & 0o077 == 0
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert PASSWORD.encode() not in line.read_bytes()
        except OSError:
            continue  # it has just ended
    kept = b"".join(p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file())
    assert b"ann" in kept
    assert PASSWORD.encode() not in kept


async def test_the_store_starts_with_what_was_whole_in_its_log(url: str) -> None:
    async with Redis.from_url(url) as redis:
        assert await redis.keys() == [b"whole"]


def test_the_probe_of_the_store_asks_with_the_password(checkout: Path, url: str) -> None:
    pods = pods_of(resources_of("base", checkout))
    (container,) = next(pod for pod in pods if pod.name == "store").containers
    shell, option, probe = container["readinessProbe"]["exec"]["command"]
    client = str(Path(redis_program()).with_name("redis-cli"))
    if not os.access(client, os.X_OK):
        pytest.skip(f"no {client}")
    port = re.findall(r":(\d+)/", url)[0]
    here = probe.replace("valkey-cli", f"{client} -p {port}")
    for password, code in ((PASSWORD, 0), ("wrong", 1)):
        environment = {"PATH": os.environ["PATH"], "STORE_PASSWORD": password}
        done = subprocess.run([shell, option, here], env=environment, check=False)
        assert done.returncode == code
