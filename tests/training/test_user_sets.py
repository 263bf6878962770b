from __future__ import annotations

import numpy as np
import pytest

from training.user_sets import SetBatch, UserSets

ITEMS = 60


def random_sets(seed: int = 0, *, negatives: int = 20, users_a_step: int = 8) -> tuple:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 20, 300).astype(np.int32)
    item = rng.integers(0, ITEMS, 300).astype(np.int32)
    weight = rng.integers(1, 4, 300).astype(np.float32)
    sets = UserSets(
        user,
        item,
        weight,
        items=ITEMS,
        drawn_from=np.arange(ITEMS),
        users_a_step=users_a_step,
        negatives=negatives,
    )
    return user, item, weight, sets


def items_of(batch: SetBatch, side: str, at: int) -> list[int]:
    pairs, rows = {
        "known": (batch.known, batch.history),
        "targets": (batch.targets, batch.candidates),
        "hidden": (batch.hidden, batch.candidates),
    }[side]
    return rows[pairs[pairs[:, 0] == at, 1]].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_history_and_targets_divide_the_different_items_of_a_user(seed: int) -> None:
    user, item, _, sets = random_sets(seed)
    for batch in sets.batches(np.random.default_rng(seed)):
        owners = user[batch.example]
        assert len(set(owners.tolist())) == len(owners) == 8
        for at, owner in enumerate(owners):
            known, targets = items_of(batch, "known", at), items_of(batch, "targets", at)
            assert sorted(known + targets) == sorted(set(item[user == owner].tolist()))
            assert targets, "every user has something to predict"
            assert batch.size[at] == len(known)


def test_items_of_the_history_that_are_candidates_are_hidden() -> None:
    _, _, _, sets = random_sets(negatives=200)
    for batch in sets.batches(np.random.default_rng(0)):
        for at in range(8):
            expected = set(items_of(batch, "known", at)) & set(batch.candidates.tolist())
            assert set(items_of(batch, "hidden", at)) == expected


def test_strengths_of_a_history_are_shares_of_its_weights() -> None:
    user, item, weight, sets = random_sets()
    batch = next(sets.batches(np.random.default_rng(1)))
    for at, owner in enumerate(user[batch.example]):
        mine = batch.known[:, 0] == at
        if mine.any():
            rows = batch.history[batch.known[mine, 1]]
            heaviest = [weight[(user == owner) & (item == row)].max() for row in rows]
            np.testing.assert_allclose(batch.strength[mine], heaviest / np.sum(heaviest), rtol=1e-6)


def test_sets_are_divided_anew_each_time_and_alike_for_a_seed() -> None:
    _, _, _, sets = random_sets(users_a_step=20)

    def known(seed: int) -> list[list[int]]:
        batch = next(sets.batches(np.random.default_rng(seed)))
        return [items_of(batch, "known", at) for at in range(20)]

    assert known(1) == known(1) != known(2)


def test_the_chance_to_be_a_candidate_is_what_counting_finds() -> None:
    _, _, _, sets = random_sets(negatives=10, users_a_step=5)
    rng, seen, steps = np.random.default_rng(0), np.zeros(ITEMS), 0
    chance = np.full(ITEMS, np.nan)
    for _ in range(400):
        for batch in sets.batches(rng):
            seen[batch.candidates] += 1
            chance[batch.candidates] = np.exp(batch.log_chance)
            steps += 1
    assert np.abs(seen / steps - chance).max() < 0.08


def test_a_user_with_one_item_has_it_to_predict() -> None:
    one = UserSets(
        np.array([0], np.int32),
        np.array([3], np.int32),
        np.ones(1, np.float32),
        items=5,
        drawn_from=np.arange(5),
        users_a_step=256,
        negatives=4,
    )
    assert one.steps == 1
    for seed in range(5):
        batch = next(one.batches(np.random.default_rng(seed)))
        assert items_of(batch, "targets", 0) == [3]
        assert len(batch.known) == 0
