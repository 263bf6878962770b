"""`python -m benchmarks.redeploy`: both tiers train and take over, again and again, under load.

Two shards with two replicas each, a ranker and an orchestrator run in processes of their own, and
people ask for pages at half the rate that the system can answer. Meanwhile retrieval is trained and
redeployed, then ranking, then both at once. Nobody should notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import click
import numpy as np
import numpy.typing as npt
from rich.table import Table

from benchmarks.folders import kept_or_temporary
from benchmarks.live.systems import Sizes, known_users, prepare
from orchestrator.supervisor import Supervisor, SupervisorOptions
from orchestrator.up import Plan, waves_of
from shortlist.artifacts import ArtifactStore
from shortlist.client import AsyncClient
from shortlist.commands.terminal import Terminal
from shortlist.config import Config
from shortlist.errors import ShortlistError
from shortlist.launch import child_environment, module_command, private_ray, tethered
from shortlist.page import Page, PageRequest

__all__ = ["main"]

TIERS = ("retrieval", "ranking")
SCENARIOS = (("retrieval",), ("ranking",), TIERS)

_SHARDS, _REPLICAS = 2, 2
_PEOPLE = 8  # who ask at the same time
_AGAIN_EVERY = 10  # requests of a person, of which one asks for the next page, too
_REPLAYED = 100  # next pages that are asked for once more when all is over
_START_S = 300.0
_PATIENCE_S = 30.0  # a page that takes longer has failed
_TRAINING = {
    "retrieval": {
        "shards": _SHARDS,
        "candidates": 300,
        "two_tower": {"dim": 16, "epochs": 1},
        "mf": {"dim": 16, "iterations": 3},
    },
    "ranking": {"requests": 500, "dcn": {"epochs": 1, "hidden": [16]}, "gbdt": {"trees": 30}},
    # What is measured here is how versions change, not how good they are: the gate looks at every
    # version as it does always, and hardly refuses one.
    "gate": {
        "users": 300,
        "recall_1000": 0.3,
        "ndcg_20": 0.3,
        "auc": 0.3,
        "calibration": 0.3,
        "coverage": 0.9,
        "latency_ratio": 10.0,
    },
}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
@click.option("--rounds", default=3, show_default=True, help="Of retrieval, ranking, both.")
@click.option("--together", is_flag=True, help="Rounds of both tiers at once only.")
@click.option(
    "--nice/--no-nice", default=True, show_default=True, help="Training gives way to what serves."
)
@click.option("--items", default=3000, show_default=True, help="Items of the made-up world.")
@click.option("--users", default=800, show_default=True, help="People in it.")
@click.option("--events", default=20_000, show_default=True, help="What they did.")
@click.option("--load", default=0.5, show_default=True, help="Of what the system can answer.")
@click.option(
    "--seconds",
    default=20.0,
    show_default=True,
    help="Of a quiet stretch before each redeploy, to compare, and of the search for saturation.",
)
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the trained world here, and use it again; default: a temporary folder.",
)
def main(
    as_json: bool,
    rounds: int,
    together: bool,
    nice: bool,
    items: int,
    users: int,
    events: int,
    load: float,
    seconds: float,
    workdir: Path | None,
) -> None:
    """Redeploy under load, and count what went wrong.

    \b
      python -m benchmarks.redeploy --rounds 1
    """
    terminal = Terminal(as_json=as_json)
    sizes = Sizes(items=items, users=users, events=events)
    try:
        with terminal.only_json(), kept_or_temporary(workdir, "redeploy") as folder:
            _prepare(folder, sizes, terminal)
            plan = _Measuring(
                folder=folder,
                rounds=rounds,
                scenarios=(TIERS,) if together else SCENARIOS,
                load=load,
                seconds=seconds,
                nice=nice,
            )
            figures = asyncio.run(plan.run(terminal))
    except ShortlistError as error:
        raise click.ClickException(str(error)) from None
    terminal.out.print(_table(figures))
    terminal.emit(figures)


def _prepare(folder: Path, sizes: Sizes, terminal: Terminal) -> None:
    prepare(folder, sizes, terminal, config=Config.model_validate(_TRAINING))


# -- people ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """A next page, as it was when it was asked for first."""

    request: PageRequest
    versions: tuple[str, str]
    items: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What people saw in a stretch of time."""

    latencies_ms: list[float] = field(default_factory=list)
    training: list[bool] = field(default_factory=list)  # of each latency: no replica was loading
    loading: int = 0  # jobs whose versions the replicas load just now
    failures: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)  # what was wrong with each mixed answer
    coverage: float = 1.0  # the least
    degradations: Counter[str] = field(default_factory=Counter)  # pages by reason
    listings: list[_Listing] = field(default_factory=list)
    first_seen: dict[str, float] = field(default_factory=dict)  # version -> monotonic seconds

    def p99_ms(self, since: int = 0) -> float:
        """Of the pages from number `since` on."""
        return _p99(self.latencies_ms[since:])

    def p99_by_phase_ms(self) -> dict[str, float]:
        """While jobs train, and while replicas load and turn."""
        latencies, training = np.array(self.latencies_ms), np.array(self.training, np.bool_)
        return {"training": _p99(latencies[training]), "loading": _p99(latencies[~training])}

    def note(self, page: Page) -> None:
        searched, total = page.coverage.items_searched, page.coverage.items_total
        self.coverage = min(self.coverage, searched / total if total else 0.0)
        self.degradations.update({str(one.reason) for one in page.degradations})
        for version in _versions(page):
            self.first_seen.setdefault(version, time.monotonic())


def _p99(latencies_ms: Sequence[float] | npt.NDArray[np.float64]) -> float:
    return float(np.percentile(latencies_ms, 99)) if len(latencies_ms) else float("nan")


class _People:
    """A closed loop: everybody waits for an answer before the next question."""

    def __init__(self, client: AsyncClient, users: list[str], *, rate: float | None) -> None:
        """`rate` is all people's pages a second; None: as many as are answered."""
        self._client, self._users = client, users
        self._every_s = _PEOPLE / rate if rate else 0.0
        self.seen = _Seen()

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[_Seen]:
        """Ask while the block runs, then wait for the last answers."""
        stopped = asyncio.Event()
        people = [self._ask(np.random.default_rng(one), stopped) for one in range(_PEOPLE)]
        asking = asyncio.gather(*people)
        try:
            yield self.seen
        finally:
            stopped.set()
            await asking

    async def _ask(self, rng: np.random.Generator, stopped: asyncio.Event) -> None:
        due = time.perf_counter() + rng.random() * self._every_s
        asked = 0
        while not stopped.is_set():
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            # Who had to wait does not ask faster afterwards.
            due = max(due, time.perf_counter() - self._every_s) + self._every_s
            request = PageRequest(user_id=self._users[int(rng.integers(len(self._users)))])
            page = await self._page(request)
            asked += 1
            if page is not None and page.next_page_token and asked % _AGAIN_EVERY == 0:
                await self._next_page(request, page)

    async def _next_page(self, request: PageRequest, page: Page) -> None:
        following = replace(request, page_token=page.next_page_token)
        more = await self._page(following)
        if more is None:
            return
        # A tier that took no part in an answer names no version; that is a degradation.
        pairs = zip(_versions(more), _versions(page), strict=True)
        if any(one and other and one != other for one, other in pairs):
            self.seen.mixed.append(f"begun by {_versions(page)}, continued by {_versions(more)}")
        if not more.degradations:
            self.seen.listings.append(
                _Listing(request=following, versions=_versions(more), items=_items(more))
            )

    async def _page(self, request: PageRequest) -> Page | None:
        started, training = time.perf_counter(), not self.seen.loading
        try:
            page = await self._client.recommend(request)
        except Exception as error:
            self.seen.failures.append(f"{type(error).__name__}: {error}")
            return None
        self.seen.latencies_ms.append(1000 * (time.perf_counter() - started))
        self.seen.training.append(training and not self.seen.loading)
        self.seen.note(page)
        return page


async def _changed_pages(
    client: AsyncClient, listings: list[_Listing], loaded: set[str]
) -> list[str]:
    """How pages are not what they were, of versions that are still there.

    A page that was put together from two versions would not come out again.
    """
    kept = [one for one in listings if set(one.versions) <= loaded][-_REPLAYED:]
    pages = [await client.recommend(one.request) for one in kept]
    return [
        f"{one.versions} had {one.items}, {_versions(page)} has {_items(page)}"
        for page, one in zip(pages, kept, strict=True)
        if not page.degradations and _items(page) != one.items
    ]


def _versions(page: Page) -> tuple[str, str]:
    return page.versions.retrieval, page.versions.ranking


def _items(page: Page) -> tuple[str, ...]:
    return tuple(item.id for item in page.items)


# -- what is measured -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Measuring:
    """One run of the benchmark."""

    folder: Path
    rounds: int
    scenarios: tuple[tuple[str, ...], ...]
    load: float
    seconds: float
    nice: bool

    async def run(self, terminal: Terminal) -> dict[str, Any]:
        plan = Plan(workdir=self.folder, shards=_SHARDS, replicas=_REPLICAS, port=0)
        supervisor = Supervisor(
            self.folder / "run",
            waves_of(plan),
            options=SupervisorOptions(start_timeout_s=_START_S),
            tell=terminal.err.print,
        )
        users = known_users(self.folder)
        async with supervisor.running():
            target = supervisor.children[-1].address
            async with AsyncClient(target, timeout_s=_PATIENCE_S, retries=False) as client:
                saturation = await self._saturation(client, users)
                rate = self.load * saturation
                terminal.err.print(f"{saturation:.1f} pages/s at most; {rate:.1f} from now on")
                before, people = (_People(client, users, rate=rate) for _ in range(2))
                taken = await self._redeploy(before, people, client, terminal)
        return _figures(self.rounds, saturation, rate, before.seen, people.seen, taken)

    async def _saturation(self, client: AsyncClient, users: list[str]) -> float:
        """Pages a second that are answered when people ask without a pause."""
        people = _People(client, users, rate=None)
        async with people.asking():
            await asyncio.sleep(2.0)  # until everything is warm
            begun, started = len(people.seen.latencies_ms), time.perf_counter()
            await asyncio.sleep(self.seconds)
            answered = len(people.seen.latencies_ms) - begun
            return answered / (time.perf_counter() - started)

    async def _redeploy(
        self, before: _People, people: _People, client: AsyncClient, terminal: Terminal
    ) -> list[dict[str, Any]]:
        """Quiet stretches and redeploys in turn: a machine is not always as fast."""
        taken = []
        seed = 0
        for number in range(self.rounds):
            for tiers in self.scenarios:
                seed += 1
                since = len(before.seen.latencies_ms), len(people.seen.latencies_ms)
                async with before.asking():
                    await asyncio.sleep(self.seconds)
                begun = len(people.seen.listings)
                async with people.asking() as seen:
                    jobs = [self._train(tier, seed, seen) for tier in tiers]
                    seconds = dict(zip(tiers, await asyncio.gather(*jobs), strict=True))
                loaded = self._loaded()
                seen.mixed += await _changed_pages(client, seen.listings[begun:], loaded)
                p99_ms = before.seen.p99_ms(since[0]), seen.p99_ms(since[1])
                taken.append(
                    {
                        "round": number + 1,
                        "redeployed": list(tiers),
                        "seconds": seconds,
                        "p99_ms": p99_ms,
                    }
                )
                terminal.err.print(
                    f"round {number + 1}, {' and '.join(tiers)}: "
                    + ", ".join(f"{one:.0f} s" for one in seconds.values())
                    + f"; p99 {p99_ms[0]:.0f} -> {p99_ms[1]:.0f} ms"
                    + f"; {len(seen.failures)} failed, {len(seen.mixed)} mixed"
                )
        return taken

    async def _train(self, tier: str, seed: int, seen: _Seen) -> float:
        """Train and redeploy; seconds until pages came of it."""
        command = module_command(
            f"training.{tier}",
            *("--workdir", str(self.folder), "--seed", str(seed), "--redeploy"),
        )
        started = time.monotonic()
        log = self.folder / f"job-{tier}-{seed}.log"
        with tempfile.TemporaryDirectory(prefix="", dir=_short_tmp()) as tmp, log.open("wb") as out:
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
            job = await asyncio.create_subprocess_exec(
                *tethered([*(_last_in_line() if self.nice else []), *command]),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=child_environment(private_ray(Path(tmp)) | threads),
                start_new_session=True,
            )
            await _follow(job, out, seen)
            code = await job.wait()
        if code != 0:
            raise ShortlistError(f"training {tier} ended with exit code {code}; see {log}")
        version = ArtifactStore(self.folder / "artifacts").current(tier)
        return seen.first_seen.get(version, time.monotonic()) - started

    def _loaded(self) -> set[str]:
        """The current version of each tier, and the one before, which is kept."""
        store = ArtifactStore(self.folder / "artifacts")
        kept = [(store.current(tier), store.previous(tier)) for tier in TIERS]
        return {version for pair in kept for version in pair if version}


async def _follow(job: asyncio.subprocess.Process, log: BinaryIO, seen: _Seen) -> None:
    """Keep what the job says, until its end; from a certain line on the replicas load."""
    assert job.stdout is not None
    loading = False
    async for line in job.stdout:
        log.write(line)
        if not loading and line.startswith(b"loading "):
            loading = True
            seen.loading += 1
    seen.loading -= loading


def _last_in_line() -> list[str]:
    """What serves goes first, on the processor and on the disk.

    A core on which only SCHED_IDLE runs counts as idle when Linux looks for one for a thread that
    wakes up; one on which somebody nice runs does not. Linux may share the processors among
    sessions before it looks within one (see autogroup in sched(7)), so the session is nice as well.
    """
    wanted = (("ionice", "-c", "3"), ("chrt", "--idle", "0"), ("nice", "-n", "19"))
    found = [(shutil.which(name), options) for name, *options in wanted]
    nice = [word for path, options in found if path for word in (path, *options)]
    return ["/bin/sh", "-c", '(echo 19 > /proc/self/autogroup) 2>/dev/null; exec "$@"', "sh", *nice]


def _short_tmp() -> str:
    """Where temporary files are; Ray's sockets need a short name."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= 16 else "/tmp"


def _figures(
    rounds: int,
    saturation: float,
    rate: float,
    before: _Seen,
    during: _Seen,
    taken: list[dict[str, Any]],
) -> dict[str, Any]:
    # Each redeploy is compared with the quiet stretch just before it, and the median one counts:
    # one hiccup of the machine in 20 quiet seconds is their p99, and all stretches' together.
    ratios = [one["p99_ms"][1] / one["p99_ms"][0] for one in taken]
    return {
        "rounds": rounds,
        "pages": len(during.latencies_ms),
        "failed_requests": len(during.failures),
        "failures": sorted(set(during.failures))[:5],
        "mixed_version_responses": len(during.mixed),
        "mixed": during.mixed[:5],
        "degradations": dict(during.degradations),
        "coverage_min": during.coverage,
        "saturation_per_s": round(saturation, 1),
        "rate_per_s": round(rate, 1),
        "p99_before_ms": round(before.p99_ms(), 1),
        "p99_during_ms": round(during.p99_ms(), 1),
        "p99_by_phase_ms": {
            phase: round(value, 1) for phase, value in during.p99_by_phase_ms().items()
        },
        "slowest_ms": round(max(during.latencies_ms, default=0.0), 1),
        "p99_ratio": round(float(np.median(ratios)), 2),
        "p99_ratios": [round(one, 2) for one in ratios],
        "p99_ratio_of_all_pages": round(during.p99_ms() / before.p99_ms(), 2),
        "job_to_serving_s": {
            "_and_".join(tiers): [
                round(max(one["seconds"].values()), 1)
                for one in taken
                if tuple(one["redeployed"]) == tiers
            ]
            for tiers in dict.fromkeys(tuple(one["redeployed"]) for one in taken)
        },
    }


def _table(figures: Mapping[str, Any]) -> Table:
    table = Table("figure", "value", title=f"{figures['rounds']} rounds under load")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), str(value))
    return table


if __name__ == "__main__":
    main()
