from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from ranking_svc.models import Outputs
from ranking_svc.models.ensemble import BLEND, blend_outputs, mix
from tests.training.lesson_groups import REWARDS, random_groups
from training.ensemble import fit_mixture, mixed
from training.groups import Groups
from training.judging import judge, ndcg_by_user

GROUPS = random_groups()

Floats = npt.NDArray[np.float32]


def guess(noise: float, seed: int) -> Floats:
    """Log odds that know the truth, up to noise; float32 [R, g, H]."""
    rng = np.random.default_rng(seed)
    truth = 3 * GROUPS.head_labels - 4
    return (truth + noise * rng.normal(size=truth.shape)).astype(np.float32)


def asked_by(users: npt.NDArray[np.bool_]) -> Groups:
    """The same requests, of two users."""
    return replace(GROUPS, user=users.astype(np.int32))


def test_models_that_know_different_things_are_better_together() -> None:
    outputs = {"one": guess(2.0, 0), "two": guess(2.0, 1), "three": guess(3.0, 2)}
    mixture = fit_mixture(outputs, GROUPS, REWARDS)
    together = judge(mixed(mixture, outputs, REWARDS), GROUPS, REWARDS)
    for alone in outputs.values():
        single = judge(alone, GROUPS, REWARDS)
        assert together["held_out_loss"] < single["held_out_loss"]
        assert together["ndcg@20"] > single["ndcg@20"]
    assert mixture.weights["one"] >= mixture.weights["three"] > 0


def test_a_gain_that_is_small_is_not_worth_leaving_the_mean_for() -> None:
    outputs = {"one": guess(2.0, 0), "two": guess(2.0, 1), "worse": guess(3.0, 2)}
    weights = fit_mixture(outputs, GROUPS, REWARDS).weights
    assert list(weights.values()) == pytest.approx([1 / 3] * 3)


def test_without_times_a_small_gain_that_is_sure_is_worth_it() -> None:
    outputs = {"one": guess(2.0, 0), "two": guess(2.0, 1), "worse": guess(3.0, 2)}
    mixtures = [fit_mixture(outputs, GROUPS, REWARDS, has_time=dated) for dated in (True, False)]
    assert mixtures[1].weights["worse"] < 0.9 * mixtures[1].weights["one"]
    equal, learned = (
        judge(mixed(one, outputs, REWARDS), GROUPS, REWARDS)["ndcg@20"] for one in mixtures
    )
    assert learned > equal


def test_a_model_that_knows_nothing_gets_no_say() -> None:
    rng = np.random.default_rng(5)
    nonsense = rng.normal(size=GROUPS.head_labels.shape).astype(np.float32)
    mixture = fit_mixture({"one": guess(0.5, 0), "nonsense": nonsense}, GROUPS, REWARDS)
    assert mixture.weights["nonsense"] < 0.05 * mixture.weights["one"]


def test_a_model_that_is_wrong_is_left_out_instead_of_turned_around() -> None:
    mixture = fit_mixture({"one": guess(1.0, 0), "wrong": -guess(1.0, 1)}, GROUPS, REWARDS)
    assert mixture.weights["wrong"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_mixture_is_not_surely_worse_than_the_best_model_alone(seed: int) -> None:
    outputs = {
        "one": guess(0.3, seed),
        "two": guess(4.0, seed + 10),
        "three": guess(6.0, seed + 20),
    }
    mixture = fit_mixture(outputs, GROUPS, REWARDS)
    together = ndcg_by_user(mixed(mixture, outputs, REWARDS), GROUPS, REWARDS)
    for alone in outputs.values():
        short = ndcg_by_user(alone, GROUPS, REWARDS) - together
        assert short.mean() <= 2 * short.std(ddof=1) / np.sqrt(len(short)) + 1e-9


def test_models_that_are_about_as_good_all_have_a_say() -> None:
    outputs = {"one": guess(2.0, 0), "two": guess(2.2, 1), "same as one": guess(2.0, 0)}
    mixture = fit_mixture(outputs, GROUPS, REWARDS)
    assert min(mixture.weights.values()) >= 1 / 6


def test_two_networks_count_as_much_as_the_trees() -> None:
    # Of what knows nothing, nothing is learned: the weights are those that they begin with.
    rng = np.random.default_rng(0)
    shape = GROUPS.head_labels.shape
    names = ("dcn", "gbdt", "linear", *(f"another {n}" for n in range(17)))
    chance = {name: rng.normal(size=shape).astype(np.float32) for name in names}
    weights = fit_mixture(chance, GROUPS, REWARDS).weights
    each = 1 / 19  # kinds
    assert list(weights.values()) == pytest.approx([each / 2, each, each / 2, *[each] * 17])


def test_the_blend_has_a_say_unless_it_surely_leads_astray() -> None:
    outputs = {"one": guess(2.0, 0), "two": guess(2.0, 1)}
    knows, misleads = (sign * guess(2.0, 3)[..., 0] for sign in (1, -3))
    assert fit_mixture(outputs, GROUPS, REWARDS, knows).weights[BLEND] >= 0.25
    assert fit_mixture(outputs, GROUPS, REWARDS, misleads).weights[BLEND] == 0


def of_strangers(**outputs: Floats) -> dict[str, float]:
    """Their weights, where every other request is of somebody of whom nothing is known."""
    some = np.arange(len(GROUPS)) % 2 == 0
    fused = guess(1.5, 9)[..., 0]
    mixture = fit_mixture(outputs, GROUPS, REWARDS, fused, strangers=some)
    assert mixture.strangers is not None
    assert fit_mixture(outputs, GROUPS, REWARDS, fused) == replace(mixture, strangers=None)
    return dict(mixture.strangers.weights)


def test_strangers_begin_with_the_trees_and_the_blend() -> None:
    alike = {name: guess(2.0, 0) for name in ("dcn", "gbdt", "linear")}
    assert of_strangers(**alike) == pytest.approx(
        {"dcn": 0, "gbdt": 1 / 3, "linear": 0, BLEND: 2 / 3}
    )
    networks = {name: guess(2.0, 0) for name in ("dcn", "linear")}
    assert of_strangers(**networks) == pytest.approx({"dcn": 1 / 6, "linear": 1 / 6, BLEND: 2 / 3})


def test_what_strangers_surely_gain_by_is_learned_of_strangers() -> None:
    weights = of_strangers(dcn=guess(0.1, 0), gbdt=-guess(1.0, 1))
    assert weights["dcn"] > 0.1 > 0.01 > weights["gbdt"]


def test_few_strangers_get_what_all_begin_with_and_the_odds_of_all() -> None:
    outputs = {"dcn": guess(0.1, 0), "gbdt": guess(3.0, 1)}
    fused = guess(2.0, 9)[..., 0]
    few, none = (np.arange(len(GROUPS)) < count for count in (29, 0))
    first, second = (
        fit_mixture(outputs, GROUPS, REWARDS, fused, strangers=one).strangers for one in (few, none)
    )
    assert first == second
    assert first is not None
    assert first.weights == pytest.approx({"dcn": 0, "gbdt": 1 / 3, BLEND: 2 / 3})


def test_each_request_is_mixed_for_whom_it_is_of() -> None:
    values = np.ones((*GROUPS.mass.shape, 1), np.float32)
    outputs = {"dcn": np.concatenate([guess(2.0, 0), values], axis=2), "gbdt": guess(2.0, 1)}
    fused, some = guess(2.0, 3)[..., 0], np.arange(len(GROUPS)) % 3 == 0
    mixture = fit_mixture(outputs, GROUPS, REWARDS, fused, strangers=some)
    together = mixed(mixture, outputs, REWARDS, fused, some)
    for mask, stranger in ((some, True), (~some, False)):
        alone = mixed(mixture.of(stranger=stranger), outputs, REWARDS, fused)
        np.testing.assert_array_equal(together[mask], alone[mask])
    np.testing.assert_array_equal(together[..., 2], 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_weights_that_are_only_good_for_whom_they_were_learned_from_are_not_taken(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    shape = GROUPS.head_labels.shape
    chance = {f"guess {n}": rng.normal(size=shape).astype(np.float32) for n in range(20)}
    weights = fit_mixture(chance, GROUPS, REWARDS).weights
    assert list(weights.values()) == pytest.approx([1 / 20] * 20)


def test_what_few_users_say_decides_nothing() -> None:
    outputs = {"one": guess(0.3, 0), "wrong": -guess(1.0, 1)}

    def weights(users: int) -> list[float]:
        few = GROUPS.take(np.arange(users))
        said = {name: one[:users] for name, one in outputs.items()}
        return list(fit_mixture(said, few, REWARDS).weights.values())

    assert weights(29) == [0.5, 0.5]
    assert weights(60)[1] == pytest.approx(0, abs=0.05)


def test_many_requests_of_few_users_are_not_sure_of_anything() -> None:
    outputs = {"one": guess(2.0, 0), "two": guess(2.0, 1)}
    rarely = np.arange(len(GROUPS)) % 10 == 0
    said = guess(0.5, 3)[..., 0] * np.where(rarely, 3, -3).astype(np.float32)[:, None]
    assert fit_mixture(outputs, GROUPS, REWARDS, said).weights[BLEND] == 0
    assert fit_mixture(outputs, asked_by(rarely), REWARDS, said).weights[BLEND] > 0


def test_ndcg_is_a_mean_over_users_however_often_they_ask() -> None:
    outputs = guess(2.0, 0)
    alone = ndcg_by_user(outputs, GROUPS, REWARDS)
    some = np.any((GROUPS.labels > 0) & (GROUPS.mass > 0), axis=1)
    often = np.arange(len(GROUPS)) % 10 != 0
    means = [alone[~often[some]].mean(), alone[often[some]].mean()]
    np.testing.assert_allclose(ndcg_by_user(outputs, asked_by(often), REWARDS), means)


def test_what_the_blend_says_is_the_same_in_training_and_serving() -> None:
    outputs = {"one": guess(2.0, 0), "two": guess(2.0, 1)}
    fused = guess(2.0, 3)[..., 0]
    mixture = fit_mixture(outputs, GROUPS, REWARDS, fused)
    together = mixed(mixture, outputs, REWARDS, fused)
    said = {name: Outputs(logits=one[0]) for name, one in outputs.items()}
    said[BLEND] = blend_outputs(fused[0], len(REWARDS.heads))
    np.testing.assert_allclose(together[0], mix(mixture, REWARDS.heads, said).logits, rtol=1e-6)


def test_biases_bring_every_head_to_its_own_odds() -> None:
    shifted = guess(1.0, 0) + np.array([3.0, -2.0], np.float32)
    mixture = fit_mixture({"one": guess(1.0, 0), "shifted": shifted}, GROUPS, REWARDS)
    loss = judge(
        mixed(mixture, {"one": guess(1.0, 0), "shifted": shifted}, REWARDS), GROUPS, REWARDS
    )
    assert loss["held_out_loss"] <= judge(guess(1.0, 0), GROUPS, REWARDS)["held_out_loss"]


def test_values_of_the_models_that_have_them_are_mixed() -> None:
    values = np.ones((*GROUPS.mass.shape, 1), np.float32)
    outputs = {"one": np.concatenate([guess(1.0, 0), values], axis=2), "two": guess(1.0, 1)}
    mixture = fit_mixture(outputs, GROUPS, REWARDS)
    together = mixed(mixture, outputs, REWARDS)
    assert together.shape == (*GROUPS.mass.shape, 3)
    np.testing.assert_allclose(together[..., 2], 1, rtol=1e-5)
