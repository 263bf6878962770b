"""Parts of a step: together they are the whole, and none holds more than it needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.tower_parts import part_of_sequences, part_of_sets, touched_rows
from training.user_sets import UserSets

Arrays = dict[str, np.ndarray[Any, Any]]

QUERIES, LENGTH, ITEMS, DRAWN = 11, 5, 60, 8


def of_queries(rng: np.random.Generator, count: int) -> Arrays:
    return {
        "user_tokens": rng.integers(9, size=(count, 2)),
        "user_token_weights": rng.random((count, 2)),
        "context_tokens": rng.integers(4, size=(count, 1)),
        "context_token_weights": rng.random((count, 1)),
        "numeric": rng.random((count, 3)),
    }


def sequences(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    used = rng.integers(ITEMS, size=QUERIES * LENGTH + QUERIES + DRAWN)
    rows, place = np.unique(used, return_inverse=True)
    return {
        **of_queries(rng, QUERIES),
        "rows": rows,
        "kept": rng.random((len(rows), 1)) < 0.8,
        "history": place[: QUERIES * LENGTH].reshape(QUERIES, LENGTH),
        "history_weight": rng.random((QUERIES, LENGTH)),
        "candidates": place[QUERIES * LENGTH :],
        "weight": rng.random(QUERIES),
        "whole": np.float32(QUERIES),
    }


def sets(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    user, item = rng.integers(QUERIES, size=200), rng.integers(ITEMS, size=200)
    divided = UserSets(
        user.astype(np.int32),
        item.astype(np.int32),
        rng.random(200).astype(np.float32),
        items=ITEMS,
        drawn_from=np.arange(ITEMS),
        users_a_step=QUERIES,
        negatives=DRAWN,
    )
    batch = next(divided.batches(rng))
    return {
        **{name: getattr(batch, name) for name in batch.__slots__},
        **of_queries(rng, QUERIES),
        "history_kept": rng.random((len(batch.history), 1)) < 0.8,
        "candidates_kept": rng.random((len(batch.candidates), 1)) < 0.8,
        "whole": batch.weight.sum(),
    }


def what_is_found(step: Arrays) -> list[tuple[Any, ...]]:
    """Of each query of sequences: who, from what, which item, against which others."""
    rows, kept = step["rows"], step["kept"][:, 0]
    items = [(rows[at], kept[at]) for at in step["candidates"]]
    return [
        (
            *(tuple(step[name][at]) for name in ("user_tokens", "numeric", "history_weight")),
            tuple(rows[step["history"][at]]),
            tuple(kept[step["history"][at]]),
            step["weight"][at],
            items[at],
            tuple(sorted(items)),
        )
        for at in range(len(step["history"]))
    ]


@pytest.mark.parametrize("workers", [1, 2, 3, QUERIES + 2])
def test_every_sequence_is_in_one_part_against_all_candidates_of_the_step(workers: int) -> None:
    step = sequences()
    parts = [part_of_sequences(step, rank, workers) for rank in range(workers)]
    found = [one for part in parts for one in what_is_found(part)]
    assert sorted(found) == sorted(what_is_found(step))
    assert {len(part["weight"]) for part in parts} <= {QUERIES // workers, QUERIES // workers + 1}
    assert all(part["whole"] == QUERIES for part in parts)


def test_a_part_of_sequences_has_each_item_that_it_needs_once_and_no_other() -> None:
    step = sequences()
    for rank in range(2):
        part = part_of_sequences(step, rank, 2)
        used = np.concatenate([part["history"].ravel(), part["candidates"]])
        assert sorted(set(used.tolist())) == list(range(len(part["rows"])))
        assert len(set(part["rows"].tolist())) == len(part["rows"]) < len(step["rows"])


def pairs_of(step: Arrays) -> list[tuple[Any, ...]]:
    """Of each user of sets: who, and what belongs to them, with what was drawn for it."""

    def items(pairs: str, of: str, at: int, *beside: str) -> tuple[Any, ...]:
        mine = step[pairs][:, 0] == at
        place = step[pairs][mine, 1]
        columns = [step[of][place], step[f"{of}_kept"][place, 0], *(step[n][mine] for n in beside)]
        return tuple(zip(*(column.tolist() for column in columns), strict=True))

    return [
        (
            *(tuple(step[name][at]) for name in ("user_tokens", "numeric")),
            items("known", "history", at, "strength"),
            items("targets", "candidates", at, "weight"),
            items("hidden", "candidates", at),
        )
        for at in range(len(step["numeric"]))
    ]


@pytest.mark.parametrize("workers", [1, 2, 3, QUERIES + 2])
def test_every_set_is_in_one_part_against_all_candidates_of_the_step(workers: int) -> None:
    step = sets()
    parts = [part_of_sets(step, rank, workers) for rank in range(workers)]
    found = [one for part in parts for one in pairs_of(part)]
    assert sorted(found) == sorted(pairs_of(step))
    assert len(step["hidden"]) > 0
    for part in parts:
        for name in ("candidates", "candidates_kept", "log_chance", "whole"):
            np.testing.assert_array_equal(part[name], step[name])
        assert np.all(np.diff(part["known"][:, 0]) >= 0)
        needed = set(part["known"][:, 1].tolist())
        assert sorted(needed) == list(range(len(part["history"])))


@pytest.mark.parametrize("kind", ["sequences", "sets"])
def test_rows_that_a_step_touches_are_those_of_all_its_parts(kind: str) -> None:
    step, part_of = (
        (sequences(), part_of_sequences) if kind == "sequences" else (sets(), part_of_sets)
    )
    tokens = np.arange(2 * ITEMS).reshape(ITEMS, 2)
    touched = touched_rows(step, tokens)
    parts = [touched_rows(part_of(step, rank, 3), tokens) for rank in range(3)]
    for name, rows in touched.items():
        assert np.all(np.diff(rows) > 0)
        every = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(np.unique(every), rows)
    np.testing.assert_array_equal(touched["item_tokens"], tokens[touched["ids"]].ravel())
