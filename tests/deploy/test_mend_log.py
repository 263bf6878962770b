"""What the store's container runs before each start, on logs that end early or are damaged."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.redis_server import redis_program


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def transaction(*words: bytes) -> bytes:
    return command(b"MULTI") + command(*words) + command(b"EXEC")


WHOLE = command(b"SELECT", b"0") + transaction(b"SET", b"a", b"1") + command(b"SET", b"b", b"EXEC")
LAST = transaction(b"SET", b"c", b"two\r\nlines")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "redis-check-aof").symlink_to(redis_program())
    return tmp_path / "appendonly.aof"


def mend(log: Path, checkout: Path) -> subprocess.CompletedProcess[str]:
    script = checkout / "deploy/kubernetes/base/config/mend-log.sh"
    return subprocess.run(
        ["sh", script, log.with_name("redis-check-aof"), log],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_log_is_cut_where_its_last_whole_transaction_ends(log: Path, checkout: Path) -> None:
    for stays in range(1, len(LAST)):
        log.write_bytes(WHOLE + LAST[:stays])
        assert mend(log, checkout).returncode == 0
        assert log.read_bytes() == WHOLE, stays


@pytest.mark.parametrize("content", [b"", WHOLE, WHOLE + LAST])
def test_a_log_that_is_whole_stays(content: bytes, log: Path, checkout: Path) -> None:
    log.write_bytes(content)
    done = mend(log, checkout)
    assert (done.returncode, done.stdout) == (0, "")
    assert log.read_bytes() == content


def test_a_store_without_a_log_may_start(log: Path, checkout: Path) -> None:
    assert mend(log, checkout).returncode == 0


def test_damage_that_whole_transactions_follow_is_left(log: Path, checkout: Path) -> None:
    damaged = WHOLE + LAST.replace(b"$3", b"$x") + LAST
    log.write_bytes(damaged)
    done = mend(log, checkout)
    assert done.returncode == 1
    assert "is damaged, and not at its end alone" in done.stderr
    assert log.read_bytes() == damaged
