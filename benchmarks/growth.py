"""`python -m benchmarks.growth`: what a page costs as items, candidates, shards and callers grow.

One thing grows at a time, from a base in the middle. Callers ask again as soon as they are
answered, so many of them are what a system meets that does not keep up. CPU time is that of the
processes' clocks, which a busy machine disturbs less than it does latencies.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # numpy reads it when it is loaded

import click
import grpc
import numpy as np
import yaml
from rich.table import Table

from benchmarks.folders import kept_or_temporary
from benchmarks.serving.rankers import FORMS
from benchmarks.serving.sgemm import sgemm_gflops
from benchmarks.serving.systems import Running, running
from benchmarks.serving.wire import Api, of_shortlist
from benchmarks.serving.world import WorldShape, prepare
from shortlist.commands.terminal import Terminal
from shortlist.errors import ShortlistError

__all__ = ["AXES", "main"]

Tell = Callable[[str], None]

AXES = ("items", "candidates", "shards", "in_flight")
_ROLES = ("retrieval", "ranking", "orchestrator")
_TIMEOUT_S = 30.0
_WARM_S = 3.0
_ASKED_USERS = 2000
_MOST_CONCURRENCY = 1024  # nothing is refused: what waits is part of what is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What one point is measured at."""

    items: int
    candidates: int
    shards: int
    in_flight: int

    def with_(self, axis: str, value: int) -> Setting:
        return Setting(**{**asdict(self), axis: value})


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Of one setting."""

    axis: str
    value: int
    pages: int
    failed: int
    rps: float
    p50_ms: float
    p99_ms: float
    cpu_ms: dict[str, float]  # by role, of a page, all its processes together
    memory_mb: dict[str, float]  # by role, as much as its largest process has of its own (PSS)
    gflops: float  # of one core just before


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
@click.option(
    "--axis",
    "axes",
    type=click.Choice(AXES),
    multiple=True,
    default=AXES,
    help="Let only this grow; may be repeated.",
)
@click.option(
    "--items",
    type=click.IntRange(2000),
    multiple=True,
    default=(10_000, 100_000, 1_000_000),
    show_default=True,
    help="The first time, a million take two minutes.",
)
@click.option(
    "--candidates",
    type=click.IntRange(20),
    multiple=True,
    default=(100, 300, 1000, 2000, 4000),
    show_default=True,
)
@click.option(
    "--shards", type=click.IntRange(1), multiple=True, default=(1, 2, 4, 8), show_default=True
)
@click.option(
    "--in-flight",
    type=click.IntRange(1),
    multiple=True,
    default=(1, 4, 16, 64, 256),
    show_default=True,
    help="Callers that ask again as soon as they are answered.",
)
@click.option("--base-items", type=click.IntRange(2000), default=100_000, show_default=True)
@click.option("--base-candidates", type=click.IntRange(20), default=1000, show_default=True)
@click.option("--users", type=click.IntRange(100), default=20_000, show_default=True)
@click.option("--form", type=click.Choice(list(FORMS)), default="fast", show_default=True)
@click.option("--rankers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--seconds", type=float, default=10.0, show_default=True, help="At each point.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw it here, as SVG or PNG."
)
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the worlds here, and use them again; default: a temporary folder.",
)
def main(
    as_json: bool,
    axes: tuple[str, ...],
    items: tuple[int, ...],
    candidates: tuple[int, ...],
    shards: tuple[int, ...],
    in_flight: tuple[int, ...],
    base_items: int,
    base_candidates: int,
    users: int,
    form: str,
    rankers: int,
    seconds: float,
    plot: Path | None,
    workdir: Path | None,
) -> None:
    """Let one thing grow at a time.

    \b
      python -m benchmarks.growth --workdir W --plot growth.svg
      python -m benchmarks.growth --workdir W --axis items --items 10000000
    """
    terminal = Terminal(as_json=as_json)
    values = {"items": items, "candidates": candidates, "shards": shards, "in_flight": in_flight}
    base = Setting(items=base_items, candidates=base_candidates, shards=2, in_flight=4)
    try:
        with terminal.only_json(), kept_or_temporary(workdir, "growth") as folder:
            wanted = sorted({base.shards, *shards})
            worlds = _Worlds(folder, base, wanted, users, form, terminal.err.print)
            run = _Run(worlds=worlds, form=form, rankers=rankers, seconds=seconds)
            points = [
                point
                for axis in dict.fromkeys(axes)
                for point in run.axis(axis, base, sorted(values[axis]))
            ]
    except ShortlistError as error:
        raise click.ClickException(str(error)) from None
    for axis in dict.fromkeys(axes):
        terminal.out.print(_table(axis, base, [one for one in points if one.axis == axis]))
    if plot:
        _draw(points, plot)
    terminal.emit(
        {"base": asdict(base), "form": form, "points": [asdict(point) for point in points]}
    )


class _Worlds:
    """One a number of items; other numbers of candidates borrow their artifacts."""

    def __init__(
        self,
        folder: Path,
        base: Setting,
        shards: Sequence[int],
        users: int,
        form: str,
        tell: Tell,
    ) -> None:
        self._folder, self._base = folder, base
        self._shards, self.users, self._form = tuple(shards), users, form
        self.tell = tell

    def of(self, setting: Setting) -> Path:
        """The workdir to serve `setting` from."""
        home = self._folder / f"items-{setting.items}"
        is_base = setting.items == self._base.items
        shape = WorldShape(
            items=setting.items,
            users=self.users,
            candidates=self._base.candidates,
            shards=self._shards if is_base else (self._base.shards,),
            forms=(self._form,),
        )
        prepare(home, shape, self.tell)
        return _variant(home, setting.candidates)


def _variant(home: Path, candidates: int) -> Path:
    """Beside `home`, with another number of candidates and no limit to callers."""
    folder = home.with_name(f"{home.name}-candidates-{candidates}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "artifacts").symlink_to(home / "artifacts")
    for file in (home / "schema.yaml", *home.glob("store.sqlite*")):
        shutil.copy(file, folder)
    settings = yaml.safe_load((home / "shortlist.yaml").read_text("utf-8"))
    retrieval, serving = settings["retrieval"], settings["serving"]
    retrieval["candidates"] = candidates
    retrieval["quotas"] = {
        name: candidates if quota else 0 for name, quota in retrieval["quotas"].items()
    }
    serving["max_concurrency"] = _MOST_CONCURRENCY
    # Callers that wait are no reason to leave anything out.
    for name in ("retrieval", "ranking", "describe", "request"):
        serving[f"{name}_budget_ms"] = round(1000 * _TIMEOUT_S)
    (folder / "shortlist.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What all points have in common."""

    worlds: _Worlds
    form: str
    rankers: int
    seconds: float

    def axis(self, axis: str, base: Setting, values: Sequence[int]) -> Iterator[Point]:
        for value in values:
            self.worlds.tell(f"{axis.replace('_', ' ')}: {value:,}")
            setting = base.with_(axis, value)
            folder = self.worlds.of(setting)
            yield asyncio.run(self._point(folder, setting, axis, value))

    async def _point(self, folder: Path, setting: Setting, axis: str, value: int) -> Point:
        async with (
            running(
                folder, "distributed", self.form, shards=setting.shards, rankers=self.rankers
            ) as system,
            _callers(system.target, self._api(), setting.in_flight) as callers,
        ):
            await callers.ask(_WARM_S)
            gflops = await asyncio.to_thread(sgemm_gflops)
            before = _cpu_s(system)
            took_ms, failed = await callers.ask(self.seconds)
            after = _cpu_s(system)
            return Point(
                axis=axis,
                value=value,
                pages=len(took_ms),
                failed=failed,
                rps=len(took_ms) / self.seconds,
                p50_ms=float(np.percentile(took_ms, 50)) if took_ms else float("nan"),
                p99_ms=float(np.percentile(took_ms, 99)) if took_ms else float("nan"),
                cpu_ms={
                    role: 1000 * (after[role] - before[role]) / max(1, len(took_ms))
                    for role in _ROLES
                },
                memory_mb=_memory_mb(system),
                gflops=gflops,
            )

    def _api(self) -> Api:
        count = min(_ASKED_USERS, self.worlds.users)
        return of_shortlist([f"user-{number:06d}" for number in range(count)])


class _Callers:
    """So many that ask, and ask again when they are answered."""

    def __init__(self, channel: grpc.aio.Channel, api: Api, count: int) -> None:
        self._call = channel.unary_unary(api.method)
        self._requests = [base64.b64decode(one) for one in api.plain]
        self._count, self._asked = count, 0

    async def ask(self, seconds: float) -> tuple[list[float], int]:
        """For so long. Milliseconds of the answers that came in time, and how many failed."""
        until = time.perf_counter() + seconds
        took_ms: list[float] = []
        failed = await asyncio.gather(*(self._one(until, took_ms) for _ in range(self._count)))
        return took_ms, sum(failed)

    async def _one(self, until: float, took_ms: list[float]) -> int:
        failed = 0
        while (started := time.perf_counter()) < until:
            self._asked += 1
            request = self._requests[self._asked % len(self._requests)]
            try:
                await self._call(request, timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError:
                failed += 1
                continue
            took_ms.append(1000 * (time.perf_counter() - started))
        return failed


@contextlib.asynccontextmanager
async def _callers(target: str, api: Api, count: int) -> AsyncIterator[_Callers]:
    async with grpc.aio.insecure_channel(
        target, options=[("grpc.enable_http_proxy", 0)]
    ) as channel:
        yield _Callers(channel, api, count)


def _cpu_s(system: Running) -> dict[str, float]:
    seconds = dict.fromkeys(_ROLES, 0.0)
    for one in system.processes:
        seconds[_role(one.name)] += one.cpu_s
    return seconds


def _memory_mb(system: Running) -> dict[str, float]:
    largest = dict.fromkeys(_ROLES, 0.0)
    for one in system.processes:
        role = _role(one.name)
        largest[role] = max(largest[role], one.memory_mb["pss"])
    return largest


def _role(name: str) -> str:
    return name.split("-")[0]


# -- shown ----------------------------------------------------------------------------------------


def _table(axis: str, base: Setting, points: Sequence[Point]) -> Table:
    others = ", ".join(
        f"{name.replace('_', ' ')} {value:,}"
        for name, value in asdict(base).items()
        if name != axis
    )
    table = Table(axis.replace("_", " "), title=f"else: {others}")
    for name in ("pages/s", "p50 ms", "p99 ms", *(f"{role} CPU ms" for role in _ROLES), "all"):
        table.add_column(name, justify="right")
    for role in _ROLES:
        table.add_column(f"{role} MB", justify="right")
    table.add_column("failed", justify="right")
    for one in points:
        table.add_row(
            f"{one.value:,}",
            f"{one.rps:.0f}",
            f"{one.p50_ms:.1f}",
            f"{one.p99_ms:.1f}",
            *(f"{one.cpu_ms[role]:.2f}" for role in _ROLES),
            f"{sum(one.cpu_ms.values()):.2f}",
            *(f"{one.memory_mb[role]:.0f}" for role in _ROLES),
            str(one.failed),
        )
    return table


def _draw(points: Sequence[Point], path: Path) -> None:
    """CPU by role above, latencies below, an axis a column."""
    from matplotlib.figure import Figure

    axes = list(dict.fromkeys(point.axis for point in points))
    figure = Figure(figsize=(3.2 * len(axes), 5.2), layout="constrained")
    grid = figure.subplots(2, len(axes), squeeze=False)
    for column, axis in enumerate(axes):
        some = [point for point in points if point.axis == axis]
        values = [point.value for point in some]
        above, below = grid[0][column], grid[1][column]
        for role in _ROLES:
            above.plot(values, [point.cpu_ms[role] for point in some], marker="o", label=role)
        below.plot(values, [point.p50_ms for point in some], marker="o", label="p50")
        below.plot(values, [point.p99_ms for point in some], marker="o", label="p99")
        below.set_yscale("log")
        for one in (above, below):
            one.set_xscale("log")
            one.spines[["top", "right"]].set_visible(False)
        above.set_ylim(bottom=0)
        below.set_xlabel(axis.replace("_", " "))
    grid[0][0].set_ylabel("CPU ms a page")
    grid[1][0].set_ylabel("ms until the page is there")
    for row in grid:
        row[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
