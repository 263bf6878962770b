"""One worker's part of a step of the two-tower, and what the whole step touches.

A part has some of the step's queries, and all of its candidates: each query is held against the
same negatives, whoever has it, so the losses of the parts add up to that of the whole. What is
drawn at random was drawn for the whole before, alike by every worker.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["part_of_sequences", "part_of_sets", "touched_rows"]

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

# Of sequences and sets: one row a query.
_OF_QUERIES = (
    "user_tokens",
    "user_token_weights",
    "context_tokens",
    "context_token_weights",
    "numeric",
)


def part_of_sequences(step: Arrays, rank: int, workers: int) -> Arrays:
    """Every `workers`-th query from `rank` on, of a step as `_TwoTowerModel.draw` makes it.

    Of the items only those that the part needs are left. The first candidates are those that the
    part's queries are to find, in their order; then come all others.
    """
    mine = np.arange(len(step["history"])) % workers == rank
    drawn = np.ones(len(step["candidates"]) - len(mine), bool)
    candidates = step["candidates"]
    ours, others = np.append(mine, ~drawn), np.append(~mine, drawn)
    history = step["history"][mine]
    needed = np.concatenate([history.ravel(), candidates[ours], candidates[others]])
    items, place = np.unique(needed, return_inverse=True)
    place = place.astype(np.int32)
    return step | {
        **{name: step[name][mine] for name in (*_OF_QUERIES, "history_weight", "weight")},
        "rows": step["rows"][items],
        "kept": step["kept"][items],
        "history": place[: history.size].reshape(history.shape),
        "candidates": place[history.size :],
    }


def part_of_sets(step: Arrays, rank: int, workers: int) -> Arrays:
    """Every `workers`-th user from `rank` on, of a step as `_TwoTowerModel.draw` makes it.

    Of the items of histories only those that the part needs are left.
    """
    users = np.arange(len(step["numeric"])) % workers == rank
    number = np.cumsum(users) - 1  # user of the step -> user of the part
    known, targets, hidden = (users[step[name][:, 0]] for name in ("known", "targets", "hidden"))
    items, place = np.unique(step["known"][known, 1], return_inverse=True)

    def renumbered(pairs: Array) -> Array:
        return np.stack([number[pairs[:, 0]], pairs[:, 1]], axis=1)

    return step | {
        **{name: step[name][users] for name in _OF_QUERIES},
        "history": step["history"][items],
        "history_kept": step["history_kept"][items],
        "known": np.stack([number[step["known"][known, 0]], place], axis=1),
        "strength": step["strength"][known],
        "targets": renumbered(step["targets"][targets]),
        "weight": step["weight"][targets],
        "hidden": renumbered(step["hidden"][hidden]),
    }


def touched_rows(step: Arrays, item_tokens: Array) -> Arrays:
    """Table -> the rows that a step can change, ascending: the same for every worker.

    `item_tokens` are the tokens of each item, int [items, slots].
    """
    sides = ("rows",) if "rows" in step else ("history", "candidates")
    items = np.unique(np.concatenate([step[side] for side in sides]))
    return {
        "ids": items,
        "item_tokens": np.unique(item_tokens[items]),
        "user_tokens": np.unique(step["user_tokens"]),
        "context_tokens": np.unique(step["context_tokens"]),
    }
