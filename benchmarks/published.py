"""`python -m benchmarks.published`: Shortlist on protocols of papers, beside what they published.

Everything runs as it is served: import, both training jobs on a private Ray, then every source
alone and the page of the whole system. Equal seeds give equal figures on the same machine.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from benchmarks.folders import kept_or_temporary
from benchmarks.protocols.cpu_meter import CpuMeter
from benchmarks.protocols.exams import exams_of, rating_exams_of
from benchmarks.protocols.marking import mark_rankings, mark_ratings
from benchmarks.protocols.preparing import Part, Prepared, prepare
from benchmarks.protocols.protocol import Protocol, protocol_names
from shortlist.artifacts import ArtifactStore
from shortlist.commands.terminal import Terminal
from shortlist.commands.train import TIERS, run_to_end
from shortlist.config import Config
from shortlist.errors import ShortlistError
from shortlist.launch import module_command

__all__ = ["main"]

Figures = dict[str, dict[str, float]]  # system -> metric -> mean over users


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("protocol", type=click.Choice(protocol_names()))
@click.option(
    "--source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder of the data set's files, as their publisher made them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no table.")
@click.option("--seed", default=0, show_default=True, help="Equal seeds give equal figures.")
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep data set and artifacts here; default: a temporary folder.",
)
@click.option("--users", type=click.IntRange(1), help="Ask for so many users only, at random.")
@click.option(
    "--part",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="What to judge by. Settings are chosen by `validation`, where the test part is left out.",
)
@click.option("--rankers", is_flag=True, help="Measure each ranker's own order, too.")
@click.option(
    "--measure-only", is_flag=True, help="Measure what an earlier run has trained in --workdir."
)
@click.option("--processes", type=click.IntRange(1), help="That measure; default: one a core.")
def main(
    protocol: str,
    source: Path | None,
    as_json: bool,
    seed: int,
    workdir: Path | None,
    users: int | None,
    part: Part,
    rankers: bool,
    measure_only: bool,
    processes: int | None,
) -> None:
    """Run a published protocol and print our figures beside those of papers.

    \b
      python -m benchmarks.published gowalla --source FOLDER
      python -m benchmarks.published gowalla --source FOLDER --json | jq .systems
    """
    if (source is None) != measure_only or (measure_only and workdir is None):
        raise click.UsageError("give --source, or else --measure-only with --workdir")
    terminal = Terminal(as_json=as_json)
    try:
        with terminal.only_json(), kept_or_temporary(workdir, "published") as folder:
            run = _Run(
                protocol=Protocol.load(protocol),
                workdir=folder,
                source=source,
                seed=seed,
                users=users,
                part=part,
                rankers=rankers,
                processes=processes or os.cpu_count() or 1,
            )
            result = run.everything(terminal)
    except ShortlistError as error:
        raise click.ClickException(str(error)) from None
    terminal.out.print(_table(result))
    terminal.out.print(_costs(result))
    terminal.emit(result)


@dataclass(frozen=True, kw_only=True)
class _Run:
    protocol: Protocol
    workdir: Path
    source: Path | None  # None: the workdir is trained already
    seed: int
    users: int | None
    part: Part
    rankers: bool
    processes: int

    def everything(self, terminal: Terminal) -> dict[str, Any]:
        """Import, train, measure; the object that `--json` prints."""
        started = time.monotonic()
        with CpuMeter() as meter:
            steps = _Steps(meter)
            prepared = self._prepare_and_train(steps, terminal)
            with steps.timed("measure"):
                systems, users = self._measure(terminal)
            cpu_s = meter.seconds
        store = ArtifactStore(self.workdir / "artifacts")
        return {
            "protocol": {
                "name": self.protocol.name,
                "title": self.protocol.title,
                "part": prepared.part,
                "users": users,
                "metrics": self.protocol.metrics,
            },
            "systems": systems,
            "published": [
                {"name": row.name, **row.figures, "citation": row.citation}
                for row in self.protocol.published
            ],
            "published_source": self.protocol.source,
            "seed": prepared.seed,
            "cpu_s": cpu_s,
            "seconds": time.monotonic() - started,
            "steps": steps.costs,
            "versions": {tier: store.current(tier) for tier in TIERS},
            "settings": Config.load(self.workdir / "shortlist.yaml").model_dump(
                mode="json", exclude_defaults=True
            ),
        }

    def _prepare_and_train(self, steps: _Steps, terminal: Terminal) -> Prepared:
        """What the workdir holds afterwards."""
        if self.source is None:
            return Prepared.load(self.workdir, self.protocol.name)
        prepared = Prepared(protocol=self.protocol.name, part=self.part, seed=self.seed)
        with steps.timed("import"):
            prepare(self.protocol, self.source, self.workdir, prepared, terminal)
        for tier in TIERS:
            with steps.timed(f"train {tier}"):
                self._train(tier, terminal)
        return prepared

    def _train(self, tier: str, terminal: Terminal) -> None:
        terminal.err.rule(f"training {tier}")
        arguments = ("--workdir", str(self.workdir), "--seed", str(self.seed))
        run_to_end(module_command(f"training.{tier}", *arguments), f"training {tier}")

    def _measure(self, terminal: Terminal) -> tuple[Figures, int]:
        with terminal.progress() as report:

            def progress(done: int, total: int) -> None:
                report("users asked for", done, total)

            if self.protocol.task == "rating":
                rated = rating_exams_of(self.workdir, self.users, self.seed)
                figures = mark_ratings(
                    self.workdir, rated, processes=self.processes, progress=progress
                )
                return figures, len(rated)
            exams = exams_of(self.protocol, self.workdir, self.users, self.seed)
            figures = mark_rankings(
                self.workdir,
                exams,
                self.protocol.ranking_metrics,
                rankers=self.rankers,
                processes=self.processes,
                progress=progress,
            )
            return figures, len(exams)


class _Steps:
    """What each step of a run costs."""

    def __init__(self, meter: CpuMeter) -> None:
        self._meter = meter
        self.costs: dict[str, dict[str, float | None]] = {}

    @contextlib.contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started, before = time.monotonic(), self._meter.seconds
        yield
        after = self._meter.seconds
        used = None if before is None or after is None else after - before
        self.costs[step] = {"seconds": time.monotonic() - started, "cpu_s": used}


def _table(result: dict[str, Any]) -> Table:
    """Ours and theirs, the best last."""
    protocol, metrics = result["protocol"], list(result["protocol"]["metrics"])
    title = f"{protocol['title']}; {protocol['part']} part, {protocol['users']:,} users"
    table = Table("system", title=escape(title), caption=escape(result["published_source"]))
    for metric in metrics:
        table.add_column(metric, justify="right")
    table.add_column("from", overflow="fold")
    ours = [
        (f"[bold]Shortlist: {escape(system)}[/]", figures, f"this run, seed {result['seed']}")
        for system, figures in result["systems"].items()
    ]
    theirs = [(escape(row["name"]), row, escape(row["citation"])) for row in result["published"]]
    for name, figures, origin in sorted(
        [*ours, *theirs], key=lambda row: row[1].get(metrics[-1], 0.0)
    ):
        shown = [f"{figures[metric]:.4f}" if metric in figures else "" for metric in metrics]
        table.add_row(name, *shown, origin)
    return table


def _costs(result: dict[str, Any]) -> str:
    def shown(cost: dict[str, Any]) -> str:
        cpu = "" if cost["cpu_s"] is None else f", {cost['cpu_s']:.0f} s of CPU"
        return f"{cost['seconds']:.0f} s{cpu}"

    steps = "; ".join(f"{step} {shown(cost)}" for step, cost in result["steps"].items())
    return f"In all {shown(result)} ({steps})"


if __name__ == "__main__":
    main()
