"""`python -m benchmarks.live_index`: what is found in a slice of which a tenth has changed.

A third of the changes are new items, a third old ones that are described anew, a third deletions.
They come to a shard as the log brings them: what changed is searched exactly beside the old base,
what is gone is masked. Then the shard folds all of it into a new base by itself. Both are asked for
the items nearest to users, and compared with brute force over what the catalogue holds by then.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

os.environ.setdefault("OMP_NUM_THREADS", "1")  # numpy reads it when it is loaded

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from retrieval_svc.encoder import TowerWeights, UserEncoder, user_columns
from retrieval_svc.folding import FoldPolicy
from retrieval_svc.generation import Generation
from retrieval_svc.index import BruteForceIndex
from retrieval_svc.item_encoder import ItemEncoder
from retrieval_svc.live import LiveGeneration
from retrieval_svc.slice_files import RetrievalMeta
from retrieval_svc.source_data import SharedData, SourceData
from shortlist.config import Config
from shortlist.features import FeatureEncoder
from shortlist.ids import key_of, keys_of
from shortlist.live import CatalogItem, Changes, EventColumns, ItemChange
from shortlist.tiers import History, Keys, RetrieveQuery, UserContext
from training.shards import TOWER_SOURCE, Writer

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

ROLES: Final = {"shelf": "categorical", "words": "multi_categorical"}

_A_SHELF = 200  # items
_WORDS, _WORDS_OF_ITEM = 5000, 8
_OWN = 0.5  # length of what clicks have taught of an item, beside its shelf's vector of length 1
_HISTORY = 3  # items of a user
_TUNING_USERS = 256
_BATCH = 200  # changes that come at once
_BESIDE = (1_000, 5_000, 20_000, 50_000)  # rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    items: int
    dim: int
    k: int
    share: float  # of the items that change
    recall_target: float
    queries: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one state of the slice answers."""

    state: str
    items: int
    beside: int  # rows of changed items, searched exactly
    dead: int  # rows of the base that do not count any more
    recall: float
    least_recall: float  # of any user
    gone: int  # answers that name an item that is not there any more
    cpu_ms: float  # of a query, median


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    plan: Plan
    states: tuple[Found, ...]
    loss: float  # recall of the new base less that of the old one with the changes beside it
    apply_cpu_ms: float  # of a changed item, before it can be found
    exact_ms: dict[str, float]  # rows beside the base -> CPU ms to search them


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--items", type=click.IntRange(1500), default=200_000, show_default=True)
@click.option("--dim", type=click.IntRange(4), default=64, show_default=True)
@click.option("--k", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--share", type=click.FloatRange(0.001, 0.5), default=0.1, show_default=True)
@click.option("--recall-target", type=click.FloatRange(0, 1), default=0.97, show_default=True)
@click.option("--queries", type=click.IntRange(4), default=400, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, no tables.")
def main(as_json: bool, **plan: Any) -> None:
    """Measure one slice before, with, and after its changes are part of the base.

    \b
      python -m benchmarks.live_index
      python -m benchmarks.live_index --items 1000000 --json
    """
    measured = measure(Plan(**plan))
    if as_json:
        click.echo(json.dumps(asdict(measured), indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_states_table(measured))
    console.print(_exact_table(measured))


def measure(plan: Plan) -> Measured:
    rng = np.random.default_rng(plan.seed)
    before = Catalogue.drawn(np.arange(plan.items), rng)
    tower = item_tower(before, plan, rng)
    edits = Edits.drawn(before, plan.share, rng)
    after = edits.made_to(before)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        generation = published(folder, before, tower, plan, rng)
        # Due with one change more than all of them; until then the old base goes on.
        policy = FoldPolicy(fewest=edits.items + 1, most=edits.items + 1)
        live = LiveGeneration(generation, policy=policy)
        old = Judge(before, tower, plan, rng)
        judge = Judge(after, tower, plan, rng)
        states = [old.judged(live, "as published")]
        apply_cpu_ms = applied(live, edits.changes(rng)) / edits.items
        states.append(judge.judged(live, "changes beside"))
        live.apply(changes_of([_upserted(after.item(0))]))  # as it is already
        live.wait_for_new_base()
        states.append(judge.judged(live, "new base"))
        live.close()
    return Measured(
        plan=plan,
        states=tuple(states),
        loss=states[2].recall - states[1].recall,
        apply_cpu_ms=apply_cpu_ms,
        exact_ms={str(rows): exact_ms(rows, plan, rng) for rows in _BESIDE},
    )


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Items as columns, by ascending key."""

    keys: Keys  # uint64 [n]
    numbers: Numbers  # int64 [n], of which an id is made
    shelves: Numbers  # int64 [n]
    words: Numbers  # int64 [n, _WORDS_OF_ITEM]

    @staticmethod
    def of(numbers: Numbers, shelves: Numbers, words: Numbers) -> Catalogue:
        keys = keys_of(map(_id, numbers.tolist()))
        order = np.argsort(keys)
        return Catalogue(
            keys=keys[order], numbers=numbers[order], shelves=shelves[order], words=words[order]
        )

    @staticmethod
    def drawn(numbers: Numbers, rng: np.random.Generator, *, shelves: int = 0) -> Catalogue:
        """Items of these numbers; on shelves of some 200 unless there are so many `shelves`."""
        n = len(numbers)
        return Catalogue.of(
            numbers,
            rng.integers(shelves or max(1, n // _A_SHELF), size=n),
            rng.integers(_WORDS, size=(n, _WORDS_OF_ITEM)),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Numbers) -> Catalogue:
        return Catalogue.of(self.numbers[rows], self.shelves[rows], self.words[rows])

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """By feature, as encoders want them."""
        names = [f"word-{number}" for number in range(_WORDS)]
        return {
            "shelf": [f"shelf-{number}" for number in self.shelves.tolist()],
            "words": [tuple(names[word] for word in words) for words in self.words.tolist()],
        }

    def item(self, row: int) -> CatalogItem:
        words = tuple(f"word-{word}" for word in self.words[row].tolist())
        return CatalogItem(
            id=_id(int(self.numbers[row])),
            attributes={"shelf": f"shelf-{self.shelves[row]}", "words": words},
        )

    def table(self) -> pa.Table:
        ids = [_id(number) for number in self.numbers.tolist()]
        return pa.table(
            {
                "key": pa.array(self.keys, pa.uint64()),
                "id": pa.array(ids, pa.string()),
                "title": pa.array(ids, pa.string()),
                "published_ms": pa.nulls(len(self), pa.int64()),
                "f_shelf": pa.array(self.columns["shelf"], pa.string()),
                "f_words": pa.array(self.columns["words"], pa.list_(pa.string())),
            }
        )


def _id(number: int) -> str:
    return f"item-{number}"


@dataclass(frozen=True, kw_only=True)
class Edits:
    """What happens to a catalogue."""

    new: Catalogue
    changed: Catalogue  # items that were there, as they are now
    deleted: Catalogue

    @staticmethod
    def drawn(catalogue: Catalogue, share: float, rng: np.random.Generator) -> Edits:
        count = max(1, round(share * len(catalogue) / 3))
        chosen = rng.permutation(len(catalogue))[: 2 * count]
        shelves = int(catalogue.shelves.max()) + 1
        changed = catalogue.take(chosen[:count])
        return Edits(
            new=Catalogue.drawn(len(catalogue) + np.arange(count), rng, shelves=shelves),
            changed=Catalogue.drawn(changed.numbers, rng, shelves=shelves),
            deleted=catalogue.take(chosen[count:]),
        )

    @property
    def items(self) -> int:
        """How many change."""
        return len(self.new) + len(self.changed) + len(self.deleted)

    def made_to(self, catalogue: Catalogue) -> Catalogue:
        touched = np.concatenate([self.changed.keys, self.deleted.keys])
        others = np.flatnonzero(~np.isin(catalogue.keys, touched))
        parts = (catalogue.take(others), self.changed, self.new)
        return Catalogue.of(
            np.concatenate([part.numbers for part in parts]),
            np.concatenate([part.shelves for part in parts]),
            np.concatenate([part.words for part in parts]),
        )

    def changes(self, rng: np.random.Generator) -> list[Changes]:
        """In any order, some at a time."""
        parts = (self.new, self.changed)
        every = [_upserted(part.item(row)) for part in parts for row in range(len(part))]
        every += [ItemChange(sequence=0, key=key, item=None) for key in self.deleted.keys.tolist()]
        order = rng.permutation(len(every)).tolist()
        return [
            changes_of([every[place] for place in order[start : start + _BATCH]])
            for start in range(0, len(order), _BATCH)
        ]


def _upserted(item: CatalogItem) -> ItemChange:
    return ItemChange(sequence=0, key=key_of(item.id), item=item)


def changes_of(items: Sequence[ItemChange]) -> Changes:
    nothing = np.empty(0, np.int64)
    events = EventColumns(
        sequences=nothing,
        user_keys=np.empty(0, np.uint64),
        item_keys=np.empty(0, np.uint64),
        times_ms=nothing,
        weights=np.empty(0, np.float32),
        values=np.empty(0, np.float32),
        places=(),
    )
    return Changes(sequence=0, head=0, items=tuple(items), events=events)


def item_tower(catalogue: Catalogue, plan: Plan, rng: np.random.Generator) -> ItemEncoder:
    """Items of a shelf lie around a point; where, their words say, and what clicks have taught."""
    features = FeatureEncoder.fit(catalogue.columns, ROLES)
    tokens = _directions(features.vocabulary_size, plan.dim, rng)
    tokens[0] = 0  # of what nobody has heard of
    return ItemEncoder(
        features=features,
        keys=catalogue.keys,
        own=np.float32(_OWN) * _directions(len(catalogue), plan.dim, rng),
        tokens=tokens,
        numeric=np.empty((0, plan.dim), np.float32),
        any_item=np.zeros(plan.dim, np.float32),
    )


def user_tower(keys: Keys, vectors: Floats) -> UserEncoder:
    """Users lie between the items of their history, which is where the tuner never looked."""
    dim = vectors.shape[1]
    nothing = FeatureEncoder([], [])
    width = user_columns(nothing, nothing) + 2  # one token dimension a side
    return UserEncoder(
        keys=keys,
        vectors=vectors,
        user=nothing,
        context=nothing,
        weights=TowerWeights(
            position=np.zeros(_HISTORY, np.float32),
            user_tokens=np.zeros((1, 1), np.float32),
            context_tokens=np.zeros((1, 1), np.float32),
            history_map=np.eye(dim, dtype=np.float32),
            feature_map=np.zeros((width, dim), np.float32),
            bias=np.zeros(dim, np.float32),
            hidden_map=np.zeros((2 * dim + width, 1), np.float32),
            hidden_bias=np.zeros(1, np.float32),
            output_map=np.zeros((1, dim), np.float32),
            output_bias=np.zeros(dim, np.float32),
        ),
        has_time=True,
    )


def users_of(catalogue: Catalogue, count: int, rng: np.random.Generator) -> list[UserContext]:
    return [
        UserContext(
            user_key=0,
            time_ms=0,
            history=History(
                keys=catalogue.keys[rng.integers(len(catalogue), size=_HISTORY)],
                times_ms=np.zeros(_HISTORY, np.int64),
                weights=np.ones(_HISTORY, np.float32),
            ),
        )
        for _ in range(count)
    ]


def published(
    folder: Path, catalogue: Catalogue, tower: ItemEncoder, plan: Plan, rng: np.random.Generator
) -> Generation:
    """One slice of all items with its index, written and opened as the trainer and a shard do."""
    vectors = tower.encode(catalogue.keys, catalogue.columns)
    users = user_tower(catalogue.keys, vectors)
    (folder / "tower").mkdir()
    users.save(folder / "tower")
    tower.save(folder / "tower")
    asking = np.stack([users.encode(one) for one in users_of(catalogue, _TUNING_USERS, rng)])
    settings = {"candidates": plan.k, "recall_target": plan.recall_target, "exact_below": 0}
    config = Config().retrieval.model_copy(update=settings)
    writer = Writer(folder, catalogue.keys, config, 1)
    writer.make_folders()
    writer.write_items(catalogue.keys, vectors, catalogue.table(), 0)
    writer.write_shared(TOWER_SOURCE, SharedData())
    writer.write_source(TOWER_SOURCE, SourceData(), 0)
    report = writer.write_index(TOWER_SOURCE, vectors, 0, queries=asking, seed=plan.seed)
    if report["kind"] != "scann":
        raise click.ClickException(f"the index is {report['kind']}: {report['reason']}")
    meta = RetrievalMeta(
        dim=plan.dim,
        shards=1,
        items_total=len(catalogue),
        items_per_shard=[len(catalogue)],
        watermark_ms=0,
        item_features=dict(ROLES),
        sources=[TOWER_SOURCE],
    )
    return Generation.open_folder(folder, meta, 0, version="benchmark")


def applied(live: LiveGeneration, changes: Sequence[Changes]) -> float:
    """Take them in, one batch after the other; CPU milliseconds."""
    started = time.thread_time()
    for batch in changes:
        live.apply(batch)
    return (time.thread_time() - started) * 1000


class Judge:
    """Knows by brute force what users should be answered of a catalogue."""

    def __init__(
        self, catalogue: Catalogue, tower: ItemEncoder, plan: Plan, rng: np.random.Generator
    ) -> None:
        self._catalogue, self._k = catalogue, plan.k
        self._users = users_of(catalogue, plan.queries, rng)
        vectors = tower.encode(catalogue.keys, catalogue.columns)
        encoder, exact = user_tower(catalogue.keys, vectors), BruteForceIndex(vectors)
        self._truth = [
            catalogue.keys[exact.search(encoder.encode(user), plan.k)[0]] for user in self._users
        ]

    def judged(self, live: LiveGeneration, state: str) -> Found:
        recalls, times_ms, gone = [], [], 0
        for user, truth in zip(self._users, self._truth, strict=True):
            query = RetrieveQuery(
                request_id="benchmark",
                user=user,
                quotas={TOWER_SOURCE: self._k},
                exclude=np.empty(0, np.uint64),
            )
            started = time.thread_time()
            answer = live.retrieve(query)
            times_ms.append((time.thread_time() - started) * 1000)
            found = answer.sources[0].keys
            recalls.append(float(np.isin(truth, found).mean()))
            gone += int(np.count_nonzero(~np.isin(found, self._catalogue.keys)))
        snapshot = live.snapshot
        return Found(
            state=state,
            items=snapshot.items,
            beside=sum(part.standing.items for part in snapshot.segments),
            dead=len(snapshot.base.segment) - snapshot.base.standing.items,
            recall=float(np.mean(recalls)),
            least_recall=float(np.min(recalls)),
            gone=gone,
            cpu_ms=float(np.median(times_ms)),
        )


def exact_ms(rows: int, plan: Plan, rng: np.random.Generator) -> float:
    """CPU milliseconds to search so many rows exactly, the median of some."""
    index, times_ms = BruteForceIndex(_directions(rows, plan.dim, rng)), []
    for query in _directions(60, plan.dim, rng):
        started = time.thread_time()
        index.search(query, plan.k)
        times_ms.append((time.thread_time() - started) * 1000)
    return float(np.median(times_ms))


def _directions(rows: int, dim: int, rng: np.random.Generator) -> Floats:
    """Of length 1."""
    vectors = rng.standard_normal((rows, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _states_table(measured: Measured) -> Table:
    plan = measured.plan
    table = Table(
        title=f"The best {plan.k} of {plan.items:,} x {plan.dim} with {plan.share:.0%} changed; "
        f"loss {measured.loss:.4f}, {measured.apply_cpu_ms:.2f} ms to take in a change"
    )
    for name in ("state", "items", "beside", "dead", "recall", "worst", "gone", "CPU ms"):
        table.add_column(name, justify="left" if name == "state" else "right")
    for one in measured.states:
        table.add_row(
            one.state,
            f"{one.items:,}",
            f"{one.beside:,}",
            f"{one.dead:,}",
            f"{one.recall:.4f}",
            f"{one.least_recall:.3f}",
            str(one.gone),
            f"{one.cpu_ms:.2f}",
        )
    return table


def _exact_table(measured: Measured) -> Table:
    table = Table(title="Rows beside a base, searched exactly")
    for name in ("rows", "CPU ms"):
        table.add_column(name, justify="right")
    for rows, cpu_ms in measured.exact_ms.items():
        table.add_row(f"{int(rows):,}", f"{cpu_ms:.2f}")
    return table


if __name__ == "__main__":
    main()
