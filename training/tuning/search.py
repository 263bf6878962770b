"""Random search on Ray Tune: the current values first, then draws, until the time is over."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import ray
from ray import tune
from ray.tune.search import Searcher

from shortlist.errors import ShortlistError
from training.tuning.parts import Between, Parameter, Part, Values

__all__ = ["Direction", "Objective", "Trial", "Watch", "best_of", "search"]

Objective = Callable[[Values], float]
"""Trains with these values and says how good that was; it runs in a worker. A `ShortlistError` is
a failure of the trial."""

Direction = Literal["max", "min"]

Watch = Callable[[float, int, float | None], None]
"""Is told the seconds since the start, how many trials have ended, and the best score so far."""

_SCORE, _FAILURE = "score", "failure"
_DRAWS = 100  # tries for values that were not drawn before
_CUT_SHORT = "the time was over before it ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of some values."""

    number: int  # from 1; the first has the current values
    values: Values
    score: float | None  # None where it failed or was cut short
    seconds: float | None
    failure: str = ""


def search(
    part: Part,
    current: Values,
    objective: Objective,
    *,
    seconds: float,
    trials: int | None,
    direction: Direction,
    seed: int,
    watch: Watch = lambda *_: None,
) -> list[Trial]:
    """Try values of a part, as many at a time as there are cores, for so many seconds or trials.

    Needs a Ray session. What Ray Tune writes is gone afterwards. A failed first trial ends the
    search: what the current values cannot do, others will not do either.
    """
    with _quiet(), tempfile.TemporaryDirectory(prefix="sl-tune-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_run, objective=objective), {"cpu": 1}),
            tune_config=tune.TuneConfig(
                metric=_SCORE,
                mode=direction,
                search_alg=_RandomSearcher(part.parameters, current, trials, direction, seed),
                num_samples=-1,
                max_concurrent_trials=_cores(),
                time_budget_s=seconds,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=part.name,
                storage_path=folder,
                verbose=0,
                callbacks=[_Watcher(watch, direction)],
            ),
        )
        results = tuner.fit()
        return sorted((_trial(result) for result in results if result.config), key=_number)


def best_of(trials: list[Trial], direction: Direction) -> Trial | None:
    """The trial with the best score, of equal ones the first; None where nothing ended."""
    scored = [trial for trial in trials if trial.score is not None]
    sign = 1 if direction == "min" else -1
    return min(scored, key=lambda trial: (sign * (trial.score or 0.0), trial.number), default=None)


def _run(config: dict[str, Any], objective: Objective) -> None:
    try:
        tune.report({_SCORE: float(objective(config["values"])), _FAILURE: ""})
    except ShortlistError as error:
        tune.report({_SCORE: float("nan"), _FAILURE: str(error)})


def _trial(result: Any) -> Trial:
    metrics, config = result.metrics or {}, result.config
    score = metrics.get(_SCORE)
    failure = str(metrics.get(_FAILURE, ""))
    if result.error is not None:
        failure = str(result.error).strip().splitlines()[-1]
    elif score is None:
        failure = _CUT_SHORT
    elif not np.isfinite(score):
        failure = failure or f"its score is {score}"
    return Trial(
        number=config["number"],
        values=config["values"],
        score=None if failure else score,
        seconds=metrics.get("time_total_s"),
        failure=failure,
    )


def _number(trial: Trial) -> int:
    return trial.number


class _RandomSearcher(Searcher):
    """Proposes the current values, then values at random, none twice."""

    def __init__(
        self,
        parameters: tuple[Parameter, ...],
        current: Values,
        trials: int | None,
        direction: Direction,
        seed: int,
    ) -> None:
        super().__init__(metric=_SCORE, mode=direction)
        self._parameters, self._current, self._limit = parameters, dict(current), trials
        self._rng = np.random.default_rng(seed)
        self._proposed: list[Values] = []
        self._first = ""  # Ray's id of the first trial
        self._ended = False

    def suggest(self, trial_id: str) -> Any:
        enough = self._limit is not None and len(self._proposed) >= self._limit
        values = None if enough or self._ended else self._next()
        if values is None:
            return Searcher.FINISHED
        self._first = self._first or trial_id
        self._proposed.append(values)
        return {"number": len(self._proposed), "values": values}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        failed = error or bool((result or {}).get(_FAILURE))
        self._ended = self._ended or (failed and trial_id == self._first)

    def save(self, checkpoint_path: str) -> None:
        """A search is not resumed."""

    def restore(self, checkpoint_path: str) -> None:
        """A search is not resumed."""

    def _next(self) -> Values | None:
        """None where everything was tried."""
        if not self._proposed:
            return self._current
        for _ in range(_DRAWS):
            values = {one.name: _draw(one, self._rng) for one in self._parameters}
            if values not in self._proposed:
                return values
        return None


def _draw(parameter: Parameter, rng: np.random.Generator) -> Any:
    domain = parameter.domain
    if isinstance(domain, Between):
        drawn = np.exp(rng.uniform(np.log(domain.low), np.log(domain.high)))
        return float(f"{drawn:.3g}")  # as it will stand in the configuration
    return domain.options[rng.integers(len(domain.options))]


class _Watcher(tune.Callback):
    """Tells how the search is going."""

    def __init__(self, watch: Watch, direction: Direction) -> None:
        self._watch, self._better = watch, max if direction == "max" else min
        self._started = time.monotonic()
        self._ended, self._best = 0, None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune saves its callbacks to resume a search, which we never do."""
        return {}

    def on_step_end(self, **_: Any) -> None:
        self._tell()

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:
        self._ended += 1
        score = (trial.last_result or {}).get(_SCORE)
        if score is not None and np.isfinite(score):
            self._best = score if self._best is None else self._better(self._best, score)
        self._tell()

    def on_trial_error(self, **_: Any) -> None:
        self._ended += 1
        self._tell()

    def _tell(self) -> None:
        self._watch(time.monotonic() - self._started, self._ended, self._best)


def _cores() -> int:
    return max(int(ray.cluster_resources().get("CPU", 1)), 1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray Tune's own reports, log files and handling of Ctrl-C are not wanted."""
    wanted = {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune")]
    levels = [logger.level for logger in loggers]
    os.environ.update(wanted)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
