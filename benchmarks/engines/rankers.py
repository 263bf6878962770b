"""Every engine scores the same candidates with the same weights, checked first, then in turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.engines.networks import NETWORKS, NetworkCase, Scorer, reference
from benchmarks.engines.trees import TREES, forest
from benchmarks.serving.rankers import flops, load_weights
from benchmarks.serving.sgemm import best_sgemm_gflops
from benchmarks.serving.world import Probes
from ranking_svc.features import FeatureRows
from ranking_svc.models.dcn import PARITY, InputAssembler
from ranking_svc.ranker import RankerGeneration
from shortlist.artifacts import ArtifactStore
from shortlist.config import Config, RankingConfig
from shortlist.stores.opening import open_store
from shortlist.tiers import Candidates, UserContext

__all__ = ["RankerRow", "compare_networks", "compare_trees"]

Floats = npt.NDArray[np.float32]
Tell = Callable[[str], None]
Case = TypeVar("Case")

_OURS = {"ours, numpy": "numpy", "ours, ONNX Runtime": "onnx"}
_HEAD = 20  # best items, which have to be the same ones
_CALLS = 30  # of an engine in a round


@dataclass(frozen=True, slots=True, kw_only=True)
class RankerRow:
    """One engine, one call with all candidates, on one thread; milliseconds."""

    engine: str
    skipped: str = ""  # why there are no figures
    difference: float = 0.0  # largest, as a share of the largest score (at least 1)
    same_head: bool = False  # whether the best 20 are the reference's
    p50_ms: float = 0.0  # median of the rounds' medians
    spread_ms: tuple[float, float] = (0.0, 0.0)  # of the rounds' medians
    cpu_ms: float = 0.0
    of_sgemm: float = 0.0  # FLOPs of the network / (CPU time * what sgemm did just before)


@dataclass(slots=True)
class _Entry:
    engine: str
    call: Callable[[], Floats]
    difference: float
    same_head: bool
    p50_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    gflops: list[float] = field(default_factory=list)


def compare_networks(
    workdir: Path, form: str, candidates: int, rounds: int, tell: Tell
) -> list[RankerRow]:
    """Of the world in `workdir`, which `benchmarks.serving.world.prepare` has made.

    Ours begin with the candidates' features and gather the items' embeddings; the others get the
    network's input ready made.
    """
    artifact = ArtifactStore(workdir / "artifacts").open("ranking", form)
    weights = load_weights(artifact.path)
    config = RankingConfig(default="dcn", models=("dcn",))
    generations = {
        name: RankerGeneration.open(artifact, config.model_copy(update={"engine": engine}))
        for name, engine in _OURS.items()
    }
    builder = next(iter(generations.values())).builder
    rows = _feature_rows(workdir, next(iter(generations.values())), candidates)
    x0 = InputAssembler(weights, builder.table, builder.item_slots).assemble(rows)
    wanted = reference(weights, x0)
    with TemporaryDirectory() as folder:
        case = NetworkCase(weights=weights, rows=len(x0), folder=Path(folder))
        ours = {name: partial(_served, one, rows) for name, one in generations.items()}
        others = {name: partial(_given, make, case, x0) for name, make in NETWORKS.items()}
        work = flops(weights, len(x0))
        return _compare(wanted, {**ours, **others}, rounds, work, tell)


def compare_trees(candidates: int, rounds: int, tell: Tell) -> list[RankerRow]:
    """Of 300 trees with 63 leaves each, grown on random rows."""
    tell("growing trees")
    grown, numeric = forest(candidates)
    wanted = grown.predict(numeric).astype(np.float64)
    with TemporaryDirectory() as folder:
        makers = {
            name: partial(_given, partial(make, grown), Path(folder), numeric)
            for name, make in TREES.items()
        }
        return _compare(wanted, makers, rounds, 0, tell)


def _compare(
    wanted: npt.NDArray[np.float64],
    makers: Mapping[str, Callable[[], Callable[[], Floats]]],
    rounds: int,
    work: int,
    tell: Tell,
) -> list[RankerRow]:
    rows: dict[str, RankerRow] = {}
    entries: list[_Entry] = []
    for engine, make in makers.items():
        tell(f"checking {engine}")
        try:
            call = make()
        except ImportError as error:
            rows[engine] = RankerRow(engine=engine, skipped=f"not installed: {error.name}")
            continue
        entry = _checked(engine, call, wanted)
        if entry.difference > PARITY:
            skipped = f"scores differ by {entry.difference:.2g}"
            rows[engine] = RankerRow(engine=engine, skipped=skipped, difference=entry.difference)
            continue
        entries.append(entry)
    for number in range(rounds):
        for entry in entries:
            tell(f"round {number + 1}, {entry.engine}")
            _time(entry)
    for entry in entries:
        rows[entry.engine] = _row(entry, work)
    return [rows[engine] for engine in makers]


def _checked(engine: str, call: Callable[[], Floats], wanted: npt.NDArray[np.float64]) -> _Entry:
    scores = call()
    largest = max(1.0, float(np.abs(wanted).max()))
    return _Entry(
        engine=engine,
        call=call,
        difference=float(np.abs(scores - wanted).max()) / largest,
        same_head=set(_best(scores[:, 0])) == set(_best(wanted[:, 0])),
    )


def _time(entry: _Entry) -> None:
    entry.gflops.append(best_sgemm_gflops())
    entry.call()
    took = []
    cpu = time.process_time()
    for _ in range(_CALLS):
        started = time.perf_counter()
        entry.call()
        took.append(1000 * (time.perf_counter() - started))
    entry.cpu_ms.append(1000 * (time.process_time() - cpu) / _CALLS)
    entry.p50_ms.append(float(np.median(took)))


def _row(entry: _Entry, work: int) -> RankerRow:
    shares = [
        work / (cpu / 1000 * rate * 1e9)
        for cpu, rate in zip(entry.cpu_ms, entry.gflops, strict=True)
    ]
    return RankerRow(
        engine=entry.engine,
        difference=entry.difference,
        same_head=entry.same_head,
        p50_ms=float(np.median(entry.p50_ms)),
        spread_ms=(min(entry.p50_ms), max(entry.p50_ms)),
        cpu_ms=float(np.median(entry.cpu_ms)),
        of_sgemm=float(np.median(shares)),
    )


def _served(generation: RankerGeneration, rows: FeatureRows) -> Callable[[], Floats]:
    model = generation.models["dcn"]
    return lambda: model.score(rows).columns


def _given(make: Callable[[Case], Scorer], case: Case, inputs: Floats) -> Callable[[], Floats]:
    score = make(case)
    return lambda: score(inputs)


def _best(scores: npt.NDArray[np.floating]) -> list[int]:
    return np.argsort(-scores, kind="stable")[:_HEAD].tolist()


def _feature_rows(workdir: Path, generation: RankerGeneration, candidates: int) -> FeatureRows:
    """Of what an exact search finds for a user of the world."""
    probes = Probes.load(workdir / "probes.npz")
    user = asyncio.run(_user(workdir, probes))
    keys = probes.exact[0][:candidates]
    n = len(keys)
    ranks = np.random.default_rng(0).permutation(n).astype(np.int32)
    return generation.builder.build(
        user,
        Candidates(
            keys=keys,
            source_names=("two_tower",),
            sources=np.ones(n, np.uint32),
            scores=(1.0 - ranks / n).astype(np.float32)[None],
            ranks=ranks[None],
            fused=(1.0 / (61 + ranks)).astype(np.float32),
        ),
    )


async def _user(workdir: Path, probes: Probes) -> UserContext:
    store = open_store(Config.load(workdir / "shortlist.yaml").store, workdir)
    try:
        profile = await store.get(probes.users[0])
    finally:
        await store.close()
    assert profile is not None
    return UserContext(
        user_key=profile.user_key,
        history=profile.history,
        attributes=profile.attributes,
        time_ms=probes.now_ms,
    )
