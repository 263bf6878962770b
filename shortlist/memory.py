"""How much memory a process may still take, and a refusal before it takes more.

Linux tells it in two places: the machine's free memory, and the limit of every control group that
the process is in. Running into the former swaps or kills somebody, into the latter kills us.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shortlist.errors import ShortlistError

__all__ = ["NotEnoughMemory", "available_bytes", "check_head_room"]

_CGROUPS = "sys/fs/cgroup"


class NotEnoughMemory(ShortlistError):
    """Another version does not fit beside what is in memory."""

    status_name = "RESOURCE_EXHAUSTED"


def check_head_room(what: str, file_bytes: int, *, factor: float, root: Path = Path("/")) -> None:
    """Raises `NotEnoughMemory` unless `factor` times the files' size is free.

    Nothing is refused where the system does not say how much is free.
    """
    needed, free = int(factor * file_bytes), available_bytes(root)
    if free is not None and needed > free:
        raise NotEnoughMemory(
            f"{what} needs about {_megabytes(needed)} of memory ({factor:g} times its files), "
            f"and {_megabytes(free)} are free; what serves goes on"
        )


def available_bytes(root: Path = Path("/")) -> int | None:
    """What this process may still take; None where nothing says so (no Linux)."""
    limits = [_free_on_machine(root), *_left_in_groups(root)]
    return min((one for one in limits if one is not None), default=None)


def _free_on_machine(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def _left_in_groups(root: Path) -> Iterator[int | None]:
    """Of the process's control group and of all that it is part of."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if not controllers:
            for folder in _group_and_parents(root / _CGROUPS, name):
                yield _left(folder, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            for folder in _group_and_parents(root / _CGROUPS / "memory", name):
                yield _left(
                    folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
                )


def _group_and_parents(top: Path, name: str) -> Iterator[Path]:
    """From the group to the top. In a container the name may be the host's, and only the top here
    is ours: folders that do not exist say nothing."""
    folder = top / name.strip("/")
    while folder != top:
        yield folder
        folder = folder.parent
    yield top


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """The limit less what is used, where the kernel can drop pages of files for those in need."""
    most, used = _read(folder / limit).strip(), _read(folder / usage).strip()
    if not most.isdigit() or not used.isdigit():  # "max", or no such file
        return None
    return max(0, int(most) - int(used) + _statistic(folder / "memory.stat", reclaimable))


def _statistic(path: Path, name: str) -> int:
    for line in _read(path).splitlines():
        found, _, value = line.partition(" ")
        if found == name:
            return int(value)
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
