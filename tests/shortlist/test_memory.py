from __future__ import annotations

from pathlib import Path

import pytest

from shortlist.memory import NotEnoughMemory, available_bytes, check_head_room

MEGABYTE = 1_000_000


def a_machine(root: Path, *, free: int | None = None, group: str = "0::/") -> Path:
    """Enough of /proc to be read."""
    (root / "proc/self").mkdir(parents=True)
    if free is not None:
        (root / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {free // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(f"9:cpu:/elsewhere\n{group}\n")
    return root


def a_group(root: Path, path: str, files: dict[str, object]) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def test_this_machine_says_something() -> None:
    free = available_bytes()
    assert free is None or free > 0


def test_a_system_that_says_nothing_refuses_nothing(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
    check_head_room("v2", 10**15, factor=2, root=tmp_path)


def test_the_machine_has_so_much(tmp_path: Path) -> None:
    assert available_bytes(a_machine(tmp_path, free=1024 * 1000)) == 1024 * 1000


def test_the_tightest_of_all_groups_counts(tmp_path: Path) -> None:
    a_machine(tmp_path, free=900 * MEGABYTE, group="0::/pods/shard")
    a_group(tmp_path, "pods", {"memory.max": 500 * MEGABYTE, "memory.current": 450 * MEGABYTE})
    a_group(tmp_path, "pods/shard", {"memory.max": "max", "memory.current": 10 * MEGABYTE})
    assert available_bytes(tmp_path) == 50 * MEGABYTE


def test_pages_of_files_can_be_taken_back(tmp_path: Path) -> None:
    a_machine(tmp_path, group="0::/")
    a_group(
        tmp_path,
        "",
        {
            "memory.max": 100 * MEGABYTE,
            "memory.current": 90 * MEGABYTE,
            "memory.stat": f"anon 5\ninactive_file {30 * MEGABYTE}",
        },
    )
    assert available_bytes(tmp_path) == 40 * MEGABYTE


def test_the_older_control_groups_count_as_well(tmp_path: Path) -> None:
    a_machine(tmp_path, group="4:memory:/job")
    a_group(
        tmp_path,
        "memory/job",
        {
            "memory.limit_in_bytes": 100 * MEGABYTE,
            "memory.usage_in_bytes": 120 * MEGABYTE,
            "memory.stat": "total_inactive_file 5",
        },
    )
    assert available_bytes(tmp_path) == 0


def test_a_refusal_names_what_is_needed_and_what_is_free(tmp_path: Path) -> None:
    a_machine(tmp_path, free=1024 * 50_000)
    check_head_room("v2", 25 * MEGABYTE, factor=2, root=tmp_path)
    with pytest.raises(NotEnoughMemory, match=r"v2 needs about 60\.0 MB .* 51\.2 MB are free"):
        check_head_room("v2", 30 * MEGABYTE, factor=2, root=tmp_path)
