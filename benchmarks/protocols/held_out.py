"""Strong generalisation: some users are never trained on; a part of what they like is shown at
request time, and the rest is to be found (Marlin 2004; Liang et al., WWW 2018).

The draws are made in the order, and with the generator, of the code that Liang et al. published, so
that the same file gives the same users and items.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from benchmarks.protocols.protocol import HeldOutUsers
from shortlist.errors import ShortlistError
from shortlist.schema import Schema
from training.readers import SourceUnreadable

__all__ = ["SplitByUser", "TooFewUsers", "read_held_out", "schema_of", "split_users", "write_split"]

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]

_COLUMNS = {"userId": pa.int64(), "movieId": pa.int64(), "rating": pa.float64()}
_TRAIN, _HELD_OUT = "train.parquet", "held-out.parquet"
_FEWEST_TO_HIDE = 5  # items of a held-out user; one with fewer shows them all and asks for none


class TooFewUsers(ShortlistError):
    """The data does not have as many users as are to be held out."""

    status_name = "INVALID_ARGUMENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitByUser:
    """Rows of the liked interactions."""

    train: Rows  # all of the training users
    shown: Rows  # the part of a held-out user's that the recommender sees
    hidden: Rows  # the part that it has to find


def split_users(
    user: Ids, item: Ids, plan: HeldOutUsers, part: Literal["test", "validation"]
) -> SplitByUser:
    """Divide liked interactions, [n] in the order of the file. Raises `TooFewUsers`."""
    users, counts = np.unique(user, return_counts=True)
    users = users[counts >= plan.fewest_items]
    if len(users) <= 2 * plan.users:
        raise TooFewUsers(
            f"{len(users)} users have {plan.fewest_items} liked items; "
            f"2 x {plan.users} are to be held out"
        )
    users = users[np.random.RandomState(plan.seed).permutation(len(users))]
    first = len(users) - (2 if part == "validation" else 1) * plan.users
    train = np.flatnonzero(np.isin(user, users[: -2 * plan.users]))
    theirs = np.isin(user, users[first : first + plan.users])
    held_out = np.flatnonzero(theirs & np.isin(item, np.unique(item[train])))
    hidden = _hidden(user[held_out], plan)
    return SplitByUser(train=train, shown=held_out[~hidden], hidden=held_out[hidden])


def _hidden(user: Ids, plan: HeldOutUsers) -> npt.NDArray[np.bool_]:
    """Which rows to hide, [n]; users are drawn for in ascending order."""
    rng = np.random.RandomState(plan.seed)
    hidden = np.zeros(len(user), np.bool_)
    order = np.argsort(user, kind="stable")
    for mine in np.split(order, np.flatnonzero(np.diff(user[order])) + 1):
        if len(mine) >= _FEWEST_TO_HIDE:
            count = int(plan.hidden_fraction * len(mine))
            hidden[mine[rng.choice(len(mine), size=count, replace=False)]] = True
    return hidden


def write_split(
    source: Path, folder: Path, plan: HeldOutUsers, part: Literal["test", "validation"]
) -> None:
    """Read the publisher's ratings, split them, and write both parts to `folder`.

    Raises `SourceUnreadable` or `TooFewUsers`.
    """
    ratings = _read_ratings(source / plan.ratings)
    liked = ratings.filter(pa.compute.greater(ratings["rating"], plan.liked_above))
    user, item = liked["userId"].to_numpy(), liked["movieId"].to_numpy()
    split = split_users(user, item, plan, part)
    folder.mkdir(parents=True, exist_ok=True)
    train = {"user": user[split.train], "item": item[split.train]}
    pq.write_table(pa.table(train), folder / _TRAIN)
    rows = np.concatenate([split.shown, split.hidden])
    held_out = {
        "user": user[rows],
        "item": item[rows],
        "hidden": np.arange(len(rows)) >= len(split.shown),
    }
    pq.write_table(pa.table(held_out), folder / _HELD_OUT)


def schema_of(name: str) -> Schema:
    """The schema of the training part that `write_split` wrote."""
    interactions = [{"path": _TRAIN, "event_type": "like", "split": "train"}]
    return Schema.of({"name": name, "interactions": interactions, "split": {"method": "given"}})


def read_held_out(folder: Path) -> pa.Table:
    """Columns user and item (int64) and hidden (bool) of the held-out users."""
    return pq.read_table(folder / _HELD_OUT)


def _read_ratings(path: Path) -> pa.Table:
    options = pa_csv.ConvertOptions(include_columns=list(_COLUMNS), column_types=_COLUMNS)
    try:
        return pa_csv.read_csv(path, convert_options=options)
    except (pa.ArrowException, KeyError) as error:
        raise SourceUnreadable(f"{path} is not the ratings file wanted: {error}") from error
