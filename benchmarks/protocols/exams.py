"""What a protocol asks of the trained system, user by user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.protocols.held_out import read_held_out
from benchmarks.protocols.preparing import files_folder
from benchmarks.protocols.protocol import Protocol
from shortlist.config import Config
from shortlist.errors import ArtifactRefused
from shortlist.ids import key_of, keys_of
from shortlist.tiers import History, UserContext
from training.dataset import Dataset
from training.lessons import Moment, moments, relevant_rows, users_at
from training.windows import test_window

__all__ = ["Exam", "RatingExam", "exams_of", "rating_exams_of"]

E = TypeVar("E")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """A user with the whole known history, and the item rows to be found, at least one."""

    user_id: str
    user: UserContext
    relevant: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingExam:
    """A user, the items that the user rated next, and which of them the user liked."""

    user_id: str
    user: UserContext
    item_ids: tuple[str, ...]  # [n], different ones
    liked: npt.NDArray[np.bool_]  # [n]


def exams_of(protocol: Protocol, workdir: Path, users: int | None, seed: int) -> list[Exam]:
    """An exam a user with something to find; `users` of them, drawn by `seed`, where given.

    Raises `ArtifactRefused` when there are none.
    """
    dataset = Dataset.load(workdir / "dataset")
    if protocol.held_out_users is not None:
        found = _held_out_exams(dataset, files_folder(workdir))
    else:
        found = [
            Exam(user_id=user_id, user=user, relevant=relevant)
            for moment, user_id, user in _users(dataset, workdir)
            if (relevant := relevant_rows(dataset, moment))
        ]
    return _drawn(found, users, seed)


def rating_exams_of(workdir: Path, users: int | None, seed: int) -> list[RatingExam]:
    """An exam a user of the test part; an item that a user rated twice counts once, as liked if
    either rating says so. Raises `ArtifactRefused` when there are none."""
    dataset = Dataset.load(workdir / "dataset")
    events, all_ids = dataset.events, dataset.item_ids
    found = []
    for moment, user_id, user in _users(dataset, workdir):
        items, place = np.unique(events.item[moment.next], return_inverse=True)
        liked = np.bincount(place, weights=events.weight[moment.next]) > 0
        item_ids = tuple(all_ids.take(items).to_pylist())
        found.append(RatingExam(user_id=user_id, user=user, item_ids=item_ids, liked=liked))
    return _drawn(found, users, seed)


def _users(dataset: Dataset, workdir: Path) -> list[tuple[Moment, str, UserContext]]:
    """Every user of the test part, when the first event of that part happens."""
    todo = moments(
        dataset,
        test_window(dataset),
        limit=dataset.n_users,
        max_staleness_days=Config.load(workdir / "shortlist.yaml").serving.staleness_days,
        seed=0,
        first_only=True,
    )
    user_ids = dataset.user_ids  # put together anew each time it is asked for
    return [
        (moment, str(user_ids[moment.user].as_py()), user)
        for moment, user in zip(todo, users_at(dataset, todo), strict=True)
    ]


def _held_out_exams(dataset: Dataset, folder: Path) -> list[Exam]:
    table = read_held_out(folder)
    user, hidden = table["user"].to_numpy(), table["hidden"].to_numpy()
    keys = keys_of([str(item) for item in table["item"].to_pylist()])
    rows = np.searchsorted(dataset.item_keys, keys)
    order = np.argsort(user, kind="stable")
    found = []
    for mine in np.split(order, np.flatnonzero(np.diff(user[order])) + 1):
        relevant = frozenset(rows[mine[hidden[mine]]].tolist())
        if relevant:
            user_id = str(user[mine[0]])
            known = _stranger(user_id, keys[mine[~hidden[mine]]])
            found.append(Exam(user_id=user_id, user=known, relevant=relevant))
    return found


def _stranger(user_id: str, liked: npt.NDArray[np.uint64]) -> UserContext:
    """A user of whom nothing is known but what was liked."""
    history = History(
        keys=liked,
        times_ms=np.zeros(len(liked), np.int64),
        weights=np.ones(len(liked), np.float32),
    )
    return UserContext(user_key=key_of(user_id), history=history, time_ms=0)


def _drawn(found: list[E], users: int | None, seed: int) -> list[E]:
    if not found:
        raise ArtifactRefused("the protocol's test part has nothing to find")
    chosen = np.random.default_rng(seed).permutation(len(found))[:users]
    return [found[at] for at in np.sort(chosen)]
