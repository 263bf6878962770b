"""The tuning job: look for better values of the few parameters that matter, and write them down.

    python -m training.tune --workdir W --minutes 10

Every source and every ranker is tuned alone, on the backtest and never on the test part (see
`training.windows`). What is found stands in `<workdir>/shortlist.yaml` and serves after the next
training; all trials stand in `<workdir>/tuning/<part>.csv`.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import ray
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from shortlist.artifacts import ArtifactStore
from shortlist.config import Config
from shortlist.errors import ShortlistError
from training.dataset import Dataset
from training.ray_session import ray_session
from training.snapshot import take_snapshot
from training.tuning.parts import Part, current_values, parts_of, seconds_of, with_values
from training.tuning.rankers import MEASURE as RANKER_MEASURE
from training.tuning.rankers import RankerObjective, ranker_lessons
from training.tuning.search import Direction, Objective, Trial, Watch, best_of, search
from training.tuning.sources import MEASURES, SourceObjective, source_lessons
from training.tuning.yaml_edit import set_value

__all__ = ["ConfigurationNotEditable", "Outcome", "main", "tune"]

FOLDER = "tuning"  # of the workdir
_CONFIG = "shortlist.yaml"


class ConfigurationNotEditable(ShortlistError):
    """The configuration file says things in a way that single values cannot be changed in."""

    status_name = "FAILED_PRECONDITION"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a part's search."""

    part: Part
    measure: str
    trials: Sequence[Trial]
    best: Trial | None  # None where no trial ended

    @property
    def changed(self) -> dict[str, Any]:
        """The values that are better than the current ones, by the parameter's name."""
        if self.best is None:
            return {}
        before = self.trials[0].values
        return {
            name: value for name, value in self.best.values.items() if value != before.get(name)
        }


@dataclass(frozen=True, kw_only=True)
class _Aim:
    """How the trials of a tier's parts are judged."""

    measure: str
    direction: Direction
    objective: Callable[[Part], Objective]


def tune(
    workdir: Path,
    tier: str = "all",
    *,
    minutes: float,
    trials: int | None = None,
    measure: str = "ndcg@100",
    seed: int = 0,
) -> list[Outcome]:
    """Tune the parts of a tier one after the other, and write down what is better.

    `minutes` are divided over the parts by their shares; with `trials`, a part also ends after so
    many. `measure` is what sources are judged by; rankers are judged by their held-out loss.
    Raises `ArtifactNotFound` when a ranker is to be tuned before retrieval was trained, and
    `ArtifactRefused` when there is nothing to tune on.
    """
    config = Config.load(workdir / _CONFIG)
    dataset = take_snapshot(workdir, config).dataset  # as the backtest version learned from
    parts = parts_of(tier, config, has_time=dataset.has_time)
    seconds = seconds_of(parts, minutes)
    if any(part.tier == "ranking" for part in parts):
        ArtifactStore(workdir / "artifacts").open("backtest")  # before the first minute is spent
    folder = workdir / FOLDER
    folder.mkdir(exist_ok=True)
    for part in parts:
        _table_path(folder, part).unlink(missing_ok=True)
    outcomes = []
    with ray_session():
        for name in dict.fromkeys(part.tier for part in parts):
            aim = _AIMS[name](workdir, dataset, config, measure, seed)
            for part in (one for one in parts if one.tier == name):
                outcome = _search(part, aim, config, seconds[part.name], trials, seed)
                # At once: what is found stays, whatever happens to the next part.
                _write_table(_table_path(folder, part), outcome)
                _write_config(workdir / _CONFIG, outcome)
                outcomes.append(outcome)
    return outcomes


def _search(
    part: Part, aim: _Aim, config: Config, seconds: float, trials: int | None, seed: int
) -> Outcome:
    with _bar(part.name, seconds) as watch:
        found = search(
            part,
            current_values(part, config),
            aim.objective(part),
            seconds=seconds,
            trials=trials,
            direction=aim.direction,
            seed=seed,
            watch=watch,
        )
    best = best_of(found, aim.direction)
    return Outcome(part=part, measure=aim.measure, trials=found, best=best)


def _aim_of_sources(
    _workdir: Path, dataset: Dataset, config: Config, measure: str, seed: int
) -> _Aim:
    lessons = ray.put(source_lessons(dataset, config, measure=measure, seed=seed))

    def objective(part: Part) -> Objective:
        return SourceObjective(part=part, lessons=lessons)

    return _Aim(measure=measure, direction="max", objective=objective)


def _aim_of_rankers(
    workdir: Path, dataset: Dataset, config: Config, _measure: str, seed: int
) -> _Aim:
    lessons = ranker_lessons(workdir, dataset, config, seed=seed)

    def objective(part: Part) -> Objective:
        return RankerObjective(part=part, lessons=lessons)

    return _Aim(measure=RANKER_MEASURE, direction="min", objective=objective)


_AIMS: Mapping[str, Callable[[Path, Dataset, Config, str, int], _Aim]] = {
    "retrieval": _aim_of_sources,
    "ranking": _aim_of_rankers,
}


def _table_path(folder: Path, part: Part) -> Path:
    return folder / f"{part.name}.csv"


def _write_table(path: Path, outcome: Outcome) -> None:
    """One row a trial, in order."""
    names = [parameter.name for parameter in outcome.part.parameters]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", *names, outcome.measure, "seconds", "note"])
        for trial in outcome.trials:
            writer.writerow(
                [
                    trial.number,
                    *(_cell(trial.values[name]) for name in names),
                    "" if trial.score is None else f"{trial.score:.6f}",
                    "" if trial.seconds is None else f"{trial.seconds:.1f}",
                    _note(trial, outcome.best),
                ]
            )


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "unset" if value is None else str(value)


def _note(trial: Trial, best: Trial | None) -> str:
    notes = [
        "current" if trial.number == 1 else "",
        "chosen" if best is not None and trial.number == best.number else "",
        trial.failure,
    ]
    return ", ".join(note for note in notes if note)


def _write_config(path: Path, outcome: Outcome) -> None:
    """Change the values that are better, and nothing else; the file is replaced in one step.

    Raises `ConfigurationNotEditable`.
    """
    if not outcome.changed or outcome.best is None:
        return
    before = Config.load(path)
    text = path.read_text("utf-8") if path.exists() else ""
    for parameter in outcome.part.parameters:
        if parameter.name in outcome.changed:
            value = outcome.changed[parameter.name]
            plain = list(value) if isinstance(value, tuple) else value
            text = set_value(text, parameter.path, plain)
    wanted = with_values(outcome.part, before, outcome.best.values)
    if Config.model_validate(yaml.safe_load(text)) != wanted:
        raise ConfigurationNotEditable(
            f"{path}: cannot change {', '.join(outcome.changed)} of {outcome.part.name} in place; "
            f"write them by hand: {outcome.changed}"
        )
    staged = path.with_name(f".{path.name}-{os.getpid()}")
    staged.write_text(text, "utf-8")
    os.replace(staged, path)


@contextmanager
def _bar(name: str, seconds: float) -> Iterator[Watch]:
    """A line on stderr that says how far a part's search is."""
    console = Console(stderr=True)
    columns = (
        TextColumn("tune: {task.description:<14}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    if not console.is_terminal:
        yield _tell(console, name)
        return
    with Progress(*columns, console=console) as bars:
        yield _show(bars, bars.add_task(name, total=seconds, state=""))


def _show(bars: Progress, task: TaskID) -> Watch:
    def watch(elapsed: float, ended: int, best: float | None) -> None:
        bars.update(task, completed=elapsed, state=_state(ended, best))

    return watch


def _tell(console: Console, name: str) -> Watch:
    """For logs: a line at each tenth trial, and the first."""
    told: set[int] = set()

    def watch(_elapsed: float, ended: int, best: float | None) -> None:
        if ended not in told and (ended == 1 or ended % 10 == 0):
            told.add(ended)
            console.print(f"tune: {name}, {_state(ended, best)}", highlight=False)

    return watch


def _state(ended: int, best: float | None) -> str:
    return f"{ended} trials" if best is None else f"{ended} trials, best {best:.4f}"


@click.command(context_settings={"auto_envvar_prefix": "SHORTLIST", "show_default": True})
@click.option(
    "--workdir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Where `shortlist import` put the data set.",
)
@click.option("--tier", type=click.Choice(["retrieval", "ranking", "all"]), default="all")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=10.0)
@click.option("--trials", type=click.IntRange(min=1), help="At most so many for each part.")
@click.option("--objective", type=click.Choice(list(MEASURES)), default="ndcg@100")
@click.option("--seed", default=0, help="Makes the draws repeatable.")
def main(
    workdir: Path, tier: str, minutes: float, trials: int | None, objective: str, seed: int
) -> None:
    """Look for better parameters, and write them to the configuration."""
    try:
        outcomes = tune(workdir, tier, minutes=minutes, trials=trials, measure=objective, seed=seed)
    except ShortlistError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print(json.dumps({outcome.part.name: outcome.changed for outcome in outcomes}))


if __name__ == "__main__":
    main()
