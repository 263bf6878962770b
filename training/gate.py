"""The gate: is a new version worse than the one that serves?

Both answer the same users, of whose further doings neither has learned anything
(`training.held_out`), and differences are told from chance by drawing users anew (a paired
bootstrap). A version is refused when it is sure, at 95 %, to be worse by more than is tolerated.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.compatibility import IncompatibleVersions, check_pair
from shortlist.config import Config, GateConfig
from shortlist.errors import ArtifactNotFound, ShortlistError
from training.dataset import Dataset
from training.evaluation.bench import Bench, Rankers, Shards, ordered
from training.evaluation.bootstrap import Resamples, mean_of
from training.evaluation.calibration import PlattScale
from training.evaluation.exams import Exam, exams_of
from training.evaluation.hits import Hits
from training.evaluation.systems import PAGE, difference, pages_of
from training.held_out import held_out_from
from training.metrics import auc
from training.windows import test_window

__all__ = ["GateRefused", "Verdict", "judge", "pass_gate", "report_path"]

Rows = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
Tell = Callable[[str], None]

_CANDIDATES = 1000
_RESAMPLES = 1000
_BINS = 10
_FEWEST_ROWS = 200  # candidates without which nothing is said of calibration

# Figures that say something of a tier. What retrieval proposes decides how hard it is to order, so
# that AUC and calibration only compare rankers, which order the same candidates.
JUDGED: Mapping[str, tuple[str, ...]] = {
    "retrieval": ("recall_1000", "ndcg_20", "coverage", "latency_ms"),
    "ranking": ("ndcg_20", "auc", "calibration", "coverage", "latency_ms"),
}
LESS_IS_BETTER = ("calibration", "latency_ms")


class GateRefused(ShortlistError):
    """The version is worse than what serves; it is kept with its report, and not promoted."""

    status_name = "FAILED_PRECONDITION"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the gate found."""

    tier: str
    version: str
    rival: str | None  # the serving version; None = there is none
    reasons: tuple[str, ...]  # to refuse it
    figures: Mapping[str, Mapping[str, Any]]
    users: int
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.reasons

    def report(self) -> dict[str, Any]:
        return {
            "format": 1,
            "tier": self.tier,
            "version": self.version,
            "serving": self.rival,
            "passed": self.passed,
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "users": self.users,
            "figures": {name: dict(figure) for name, figure in self.figures.items()},
            "seconds": round(self.seconds, 1),
        }


def pass_gate(
    workdir: Path, config: Config, candidate: Artifact, *, seed: int = 0, tell: Tell = print
) -> Verdict:
    """Judge a published version and write the report. Raises `GateRefused` naming the report."""
    verdict = judge(workdir, config, candidate, seed=seed)
    path = report_path(workdir, candidate.tier, candidate.version)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(verdict.report()), indent=2, allow_nan=False) + "\n", "utf-8")
    if not verdict.passed:
        raise GateRefused(
            f"{candidate.tier} {candidate.version} is refused: {'; '.join(verdict.reasons)}; {path}"
        )
    tell(f"gate: {candidate.tier} {candidate.version} passes ({_against(verdict)}); {path}")
    return verdict


def report_path(workdir: Path, tier: str, version: str) -> Path:
    return workdir / "gate" / tier / f"{version}.json"


def judge(workdir: Path, config: Config, candidate: Artifact, *, seed: int = 0) -> Verdict:
    """Compare a version with the current one of its tier; the other tier is the current one.

    The first version of a tier has no rival, and is held to the floors of the configuration only.
    """
    started = time.monotonic()
    store = ArtifactStore(workdir / "artifacts")
    rival = _current(store, candidate.tier)
    if rival is not None and rival.version == candidate.version:
        rival = None
    contest = _Contest.of(store, config, candidate, rival)
    if rival is None and not config.gate.floors:
        return _verdict(contest, config.gate, None, [], seed, ("the first of its tier",), started)
    retrieval, *others = contest.artifacts
    dataset = held_out_from(workdir, config, retrieval, *others)
    exams = _exams(dataset, config, seed)
    if not exams:
        notes = (*contest.notes, "nothing was held out that it could be judged by")
        return _verdict(contest, config.gate, None, exams, seed, notes, started)
    figures = contest.answers(dataset, exams)
    return _verdict(contest, config.gate, figures, exams, seed, contest.notes, started)


# -- who is asked ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """A retrieval version, and a ranking version where there is one that goes with it."""

    retrieval: Artifact
    ranking: Artifact | None


@dataclass(frozen=True, kw_only=True)
class _Contest:
    """The pair with the new version, and the pair that serves."""

    tier: str
    candidate: Artifact
    rival: Artifact | None
    pairs: tuple[_Pair, ...]  # the new one first
    config: Config
    notes: tuple[str, ...]

    @staticmethod
    def of(
        store: ArtifactStore, config: Config, candidate: Artifact, rival: Artifact | None
    ) -> _Contest:
        """Raises `ArtifactNotFound` for a ranking version without a retrieval version."""
        other = _current(store, "ranking" if candidate.tier == "retrieval" else "retrieval")
        notes: list[str] = []
        if candidate.tier == "ranking":
            if other is None:
                raise ArtifactNotFound("there is no current retrieval version to judge it with")
            pairs = [_Pair(retrieval=other, ranking=one) for one in (candidate, rival) if one]
        else:
            if other and (reason := _refusal(candidate, other, config)):
                other = None
                notes.append(f"judged without a ranker: {reason}")
            pairs = [_Pair(retrieval=one, ranking=other) for one in (candidate, rival) if one]
        return _Contest(
            tier=candidate.tier,
            candidate=candidate,
            rival=rival,
            pairs=tuple(pairs),
            config=config,
            notes=tuple(notes),
        )

    @property
    def artifacts(self) -> list[Artifact]:
        """All that take part, once each, a retrieval version first: its items are in question."""
        every = [one for pair in self.pairs for one in (pair.retrieval, pair.ranking) if one]
        return list({(one.tier, one.version): one for one in every}.values())

    def answers(self, dataset: Dataset, exams: Sequence[Exam]) -> list[_Answers]:
        """What each pair answers to every user; they take turns, so that neither has a quieter
        machine."""
        shards: dict[str, Shards] = {}
        rankers: dict[str, Rankers] = {}
        sides = []
        for pair in self.pairs:
            version = pair.retrieval.version
            shards.setdefault(version, Shards(pair.retrieval))
            if pair.ranking is not None:
                rankers.setdefault(pair.ranking.version, Rankers(pair.ranking, self.config.ranking))
            ranker = rankers[pair.ranking.version] if pair.ranking else None
            sides.append(_Side(self.config, shards[version], ranker, dataset))
        for exam in exams:
            for side in sides:
                side.ask(exam)
        return [side.answers() for side in sides]


class _Side:
    """One pair of versions, and what it has answered so far."""

    def __init__(
        self, config: Config, shards: Shards, rankers: Rankers | None, dataset: Dataset
    ) -> None:
        # Without a ranker nothing of the bench needs one.
        self._bench = Bench(config=config, shards=shards, rankers=rankers)  # type: ignore[arg-type]
        self._rankers, self._keys = rankers, dataset.item_keys
        self._blended: list[Rows] = []
        self._ranked: list[Rows] = []
        self._scores: list[Floats] = []
        self._relevant: list[Rows] = []
        self._cpu_ms: list[float] = []

    def ask(self, exam: Exam) -> None:
        started = time.process_time()
        proposals = self._bench.shards.ask(exam.user, self._bench.quotas, exam.seen)
        _, candidates = self._bench.blend(proposals)
        scores = candidates.fused
        if self._rankers is not None:
            model = self._rankers.default
            scores = self._rankers.score(exam.user, candidates, [model])[model]
        order = ordered(candidates.keys, scores)
        self._cpu_ms.append(1000 * (time.process_time() - started))
        rows = self._rows(candidates.keys)
        self._blended.append(rows)
        self._ranked.append(rows[order])
        self._scores.append(scores)
        self._relevant.append(exam.relevant)

    def answers(self) -> _Answers:
        return _Answers(
            items=len(self._keys),
            ranker=self._rankers is not None,
            blended=self._blended,
            ranked=self._ranked,
            scores=self._scores,
            relevant=self._relevant,
            cpu_ms=np.array(self._cpu_ms),
        )

    def _rows(self, keys: npt.NDArray[np.uint64]) -> Rows:
        """Rows of the data set; one after the last for an item that it does not have."""
        rows = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[rows] == keys, rows, len(self._keys)).astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """Of one pair to all users; lists are best first."""

    items: int
    ranker: bool
    blended: Sequence[Rows]
    ranked: Sequence[Rows]
    scores: Sequence[Floats]  # aligned with `blended`
    relevant: Sequence[Rows]
    cpu_ms: Doubles  # [users], of one page

    def by_user(self) -> dict[str, Doubles]:
        """Figures that every user has one of."""
        hits = Hits.of(self.blended, self.relevant, self.items + 1)
        ranked = Hits.of(self.ranked, self.relevant, self.items + 1)
        figures = {"recall_1000": hits.recall(_CANDIDATES), "ndcg_20": ranked.ndcg(PAGE)}
        if self.ranker:
            pairs = zip(self.scores, self._liked(), strict=True)
            figures["auc"] = np.array([auc(scores, liked) for scores, liked in pairs])
        return figures

    def coverage(self) -> float:
        """Share of the items that are on some page."""
        pages = pages_of(self.ranked)
        shown = np.unique(pages[(pages >= 0) & (pages < self.items)])
        return len(shown) / self.items

    def calibration(self, resamples: Resamples) -> tuple[float, Doubles] | None:
        """Expected error of the probabilities, and the same for every draw of users.

        A line is fitted to the scores of every other user (Platt 1999); the others fall into bins
        of about as many candidates each. None without a ranker, or with too few rows.
        """
        if not self.ranker:
            return None
        sizes = np.array([len(one) for one in self.scores])
        scores, liked = np.concatenate(self.scores), np.concatenate(list(self._liked()))
        user = np.repeat(np.arange(len(sizes)), sizes)
        fitting = user % 2 == 0
        if not all(_both_kinds(liked[part]) for part in (fitting, ~fitting)):
            return None
        said = PlattScale.fit(scores[fitting], liked[fitting]).probabilities(scores[~fitting])
        edges = np.quantile(said, np.linspace(0, 1, _BINS + 1)[1:-1])
        cell = user[~fitting] * _BINS + np.searchsorted(edges, said)
        cells = len(sizes) * _BINS
        gaps = _in_cells(cell, said - liked[~fitting], cells)
        counts = _in_cells(cell, np.ones(len(cell)), cells)
        drawn = np.abs(resamples.sums(gaps)).sum(axis=1)
        rows = np.maximum(resamples.sums(counts).sum(axis=1), 1)
        return float(np.abs(gaps.sum(axis=0)).sum() / counts.sum()), drawn / rows

    def _liked(self) -> Iterator[Booleans]:
        pairs = zip(self.blended, self.relevant, strict=True)
        return (np.isin(rows, relevant) for rows, relevant in pairs)


# -- what is made of the answers ------------------------------------------------------------------


def _verdict(
    contest: _Contest,
    config: GateConfig,
    answers: Sequence[_Answers] | None,
    exams: Sequence[Exam],
    seed: int,
    notes: tuple[str, ...],
    started: float,
) -> Verdict:
    figures = {} if answers is None else _figures(contest.tier, config, answers, seed)
    return Verdict(
        tier=contest.tier,
        version=contest.candidate.version,
        rival=contest.rival.version if contest.rival else None,
        reasons=tuple(_reasons(figures, config)),
        figures=figures,
        users=len(exams),
        notes=notes,
        seconds=time.monotonic() - started,
    )


def _figures(
    tier: str, config: GateConfig, answers: Sequence[_Answers], seed: int
) -> dict[str, dict[str, Any]]:
    """Every figure of the new version and, with a rival, of that, and their difference."""
    resamples = Resamples(len(answers[0].relevant), resamples=_RESAMPLES, seed=seed)
    ours, *rest = answers
    theirs = rest[0] if rest else None
    figures: dict[str, dict[str, Any]] = {}
    served = theirs.by_user() if theirs else {}
    for name, values in ours.by_user().items():
        figures[name] = {"candidate": mean_of(values), "ci": resamples.interval(values)}
        if name in served:
            gap = difference(values, served[name], resamples)
            figures[name] |= {"serving": mean_of(served[name]), **_told(gap)}
    figures["coverage"] = {"candidate": ours.coverage()}
    figures["latency_ms"] = {"candidate": float(np.median(ours.cpu_ms))}
    if theirs:
        figures["coverage"] |= _gap(ours.coverage(), theirs.coverage())
        served_ms = float(np.median(theirs.cpu_ms))
        figures["latency_ms"] |= {
            "serving": served_ms,
            "ratio": figures["latency_ms"]["candidate"] / served_ms,
        }
    _add_calibration(figures, ours, theirs, resamples)
    for name, figure in figures.items():
        figure["judged"] = name in JUDGED[tier]
        figure["tolerance"] = getattr(config, "latency_ratio" if name == "latency_ms" else name)
    return figures


def _add_calibration(
    figures: dict[str, dict[str, Any]],
    ours: _Answers,
    theirs: _Answers | None,
    resamples: Resamples,
) -> None:
    found = ours.calibration(resamples)
    if found is None:
        return
    error, draws = found
    figures["calibration"] = {"candidate": error, "ci": _percentiles(draws)}
    if theirs and (served := theirs.calibration(resamples)):
        gap = {"difference": error - served[0], "ci": _percentiles(draws - served[1])}
        figures["calibration"] |= {"serving": served[0], **_told(gap)}


def _reasons(figures: Mapping[str, Mapping[str, Any]], config: GateConfig) -> Iterator[str]:
    for name, figure in figures.items():
        if figure["judged"] and (reason := _worse(name, figure)):
            yield reason
    for name, floor in config.floors.items():
        value = figures.get(name, {}).get("candidate", math.nan)
        missed = value > floor if name in LESS_IS_BETTER else value < floor
        if missed:
            most = "most" if name in LESS_IS_BETTER else "least"
            yield f"{name} is {value:.4g}, at {most} {floor:.4g} is asked for"


def _worse(name: str, figure: Mapping[str, Any]) -> str | None:
    """Why the version is refused for this figure; None if it is not sure to be worse."""
    tolerance, ours, theirs = figure["tolerance"], figure["candidate"], figure.get("serving")
    if theirs is None:
        return None
    said = f"{name} is {ours:.4g} where {theirs:.4g} serves"
    if name == "latency_ms":
        ratio = figure["ratio"]
        return f"{said}, {ratio:.2f} times as much" if ratio > tolerance else None
    low, high = figure.get("difference_ci", [figure["difference"]] * 2)
    loss = low if name in LESS_IS_BETTER else -high  # at least so much worse
    if loss > tolerance:
        return f"{said}, worse by at least {loss:.4g} ({tolerance:g} is tolerated)"
    return None


def _told(gap: Mapping[str, Any]) -> dict[str, Any]:
    return {"difference": gap["difference"], "difference_ci": gap["ci"]}


def _gap(ours: float, theirs: float) -> dict[str, float]:
    return {"serving": theirs, "difference": ours - theirs}


def _percentiles(draws: Doubles) -> list[float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return [float(low), float(high)]


def _in_cells(cell: npt.NDArray[np.int64], values: Doubles, cells: int) -> Doubles:
    """The sums of values in each cell, [users, bins]."""
    sums: npt.NDArray[np.generic] = np.bincount(cell, values, cells)
    return sums.astype(np.float64).reshape(-1, _BINS)


def _both_kinds(liked: Booleans) -> bool:
    return len(liked) >= _FEWEST_ROWS and bool(liked.any() and not liked.all())


def _exams(dataset: Dataset, config: Config, seed: int) -> list[Exam]:
    try:
        return exams_of(dataset, test_window(dataset), config, users=config.gate.users, seed=seed)
    except ShortlistError:  # no test part
        return []


def _current(store: ArtifactStore, tier: str) -> Artifact | None:
    try:
        return store.open(tier)
    except ArtifactNotFound:
        return None


def _refusal(retrieval: Artifact, ranking: Artifact, config: Config) -> str | None:
    try:
        check_pair(
            retrieval.manifest,
            ranking.manifest,
            least_known_items=config.deployment.least_known_items,
        )
    except IncompatibleVersions as error:
        return str(error)
    return None


def _against(verdict: Verdict) -> str:
    if verdict.rival is None:
        return "the first of its tier"
    shown = [
        f"{name} {figure['difference']:+.4f}"
        for name, figure in verdict.figures.items()
        if figure["judged"] and "difference" in figure
    ]
    return f"against {verdict.rival}: {', '.join(shown)}" if shown else f"after {verdict.rival}"


def _plain(value: Any) -> Any:
    """For JSON: null for what is not a number."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
