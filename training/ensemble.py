"""How much each ranker counts in the ensemble, learned on held-out users."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.stats import t

from ranking_svc.models import NETWORKS, Outputs
from ranking_svc.models.ensemble import BLEND, Mixture, blend_outputs, mix
from training.groups import Groups
from training.judging import judge, ndcg_by_user
from training.losses import ranking_loss
from training.rewards import Rewards

__all__ = ["fit_mixture", "mixed"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

_STEPS = 100
_POINTS = 9  # of the way
_SURE = 0.975  # of Student's distribution, for as many users as there are
# Of the nDCG, where there are times. Held-out users are of the same days as the lessons: on later
# users smaller gains turned out as losses as often as not.
_WORTH_IT = 0.1
_ENOUGH = 30  # users: what fewer say is chance, however sure the distribution is
# What the blend counts beside models that count 1 together. With times, models have learned of
# other days than those that they are asked about, and the blend knows what is liked now;
# docs/training.md has the figures, for strangers beside the trees alone.
_OF_BLEND, _OF_BLEND_WITHOUT_TIMES, _OF_BLEND_FOR_STRANGERS = 1.0, 0.25, 2.0


def fit_mixture(
    outputs: Mapping[str, Floats],
    groups: Groups,
    rewards: Rewards,
    fused: Floats | None = None,
    *,
    has_time: bool = True,
    strangers: Booleans | None = None,
) -> Mixture:
    """Weights of the models whose `outputs` on the requests are float32 [R, g, H (+ 1)].

    Held-out requests are few, so learned weights are half noise, and equal ones are hard to beat
    (Smith and Wallis 2009; Claeskens et al. 2016): the mixture is the mean of the trees and of the
    networks, which share what is due to their kind, with a say of the blend, whose logarithmic
    scores on the requests are `fused`, float32 [R, g]; it errs in other ways than models do. Others
    are taken only where some are surely better for users that they were not learned from (a t-test
    over thirty users or more, each judged by what the other half of them teaches), and by a tenth
    where the data has times, as later users want other things than these: those on the way to the
    *learned* weights, and these. They minimise the loss that the models were trained on, which is
    convex in them; of the way from the best model alone to there, they are the point with the best
    nDCG@20.

    `strangers`, bool [R], are the requests of users without a history: with it these get a mixture
    of their own. It begins with the trees and much more of the blend, as a line through what users
    with histories did orders strangers by what is left of it, while trees ask first.
    """
    of_blend, worth_it = (_OF_BLEND, _WORTH_IT) if has_time else (_OF_BLEND_WITHOUT_TIMES, 0.0)
    requests = _Requests(
        outputs=outputs, groups=groups, rewards=rewards, fused=fused, of_blend=of_blend
    )
    mixture = _fit(requests, requests, worth_it)
    if strangers is None:
        return mixture
    theirs = _fit(requests.take(strangers), replace(requests, of_strangers=True), worth_it)
    return replace(mixture, strangers=theirs)


def _fit(asked: _Requests, every: _Requests, worth_it: float) -> Mixture:
    """The best mixture for what was `asked`; what few users say decides nothing but `every` head's
    odds."""
    alone = next(iter(asked.outputs.values()))
    if len(ndcg_by_user(alone, asked.groups, asked.rewards)) < _ENOUGH:
        return _mixtures(every)[0]
    asked = replace(asked, of_strangers=every.of_strangers)
    return _mixtures(asked)[_first_but_good(_gains_of_others(asked), worth_it)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Requests:
    """What the models and the blend say of requests, and what happened."""

    outputs: Mapping[str, Floats]
    groups: Groups
    rewards: Rewards
    fused: Floats | None
    of_blend: float
    of_strangers: bool = False

    def take(self, chosen: npt.NDArray[np.bool_]) -> _Requests:
        return replace(
            self,
            outputs={name: one[chosen] for name, one in self.outputs.items()},
            groups=self.groups.take(np.flatnonzero(chosen)),
            fused=None if self.fused is None else self.fused[chosen],
        )

    def gains(self, mixture: Mixture) -> Doubles:
        """nDCG@20, by user."""
        return ndcg_by_user(
            mixed(mixture, self.outputs, self.rewards, self.fused), self.groups, self.rewards
        )


def _mixtures(requests: _Requests) -> list[Mixture]:
    """The mixtures to choose from, the most trusted first."""
    outputs, groups, rewards = requests.outputs, requests.groups, requests.rewards
    names = list(outputs)
    columns = [outputs[name][..., : len(rewards.heads)] for name in names]
    logits: Doubles = np.stack(columns).astype(np.float64)  # [M, R, g, H]
    learned = _learned(names, outputs, logits, groups, rewards)
    if requests.fused is not None:
        said = np.broadcast_to(requests.fused[..., None], logits.shape[1:])
        logits = np.concatenate([logits, said[None].astype(np.float64)])
        names.append(BLEND)
    models = len(outputs)
    first = _without_networks if requests.of_strangers else _equal
    of_blend = _OF_BLEND_FOR_STRANGERS if requests.of_strangers else requests.of_blend
    equal = first(names[:models])
    shared = (learned[:models] + equal) / 2
    silent = np.zeros(len(names) - models)
    # Of all that counts the mean, so that the scores of strangers and of others are of one size.
    whole = 1 + of_blend * len(silent)
    ways = [np.append(one, silent + of_blend) / whole for one in (equal, shared)]
    ways.append(np.append(shared, silent))
    biased = [np.append(way, _biases(way, logits, groups, rewards)) for way in ways]
    plain = np.concatenate([learned[:models], silent, learned[models:]])
    return [_mixture(unknown, names, rewards) for unknown in (*biased, plain)]


def _equal(names: Sequence[str]) -> Doubles:
    """As much for each kind of model, and within a kind for each model: networks on the same inputs
    err alike, so two of them are not two opinions."""
    kinds = ["network" if name in NETWORKS else name for name in names]
    sizes = Counter(kinds)
    return np.array([1 / (len(sizes) * sizes[kind]) for kind in kinds])


def _without_networks(names: Sequence[str]) -> Doubles:
    """As much for each model that is no network; where all are, for each of them."""
    others = [name for name in names if name not in NETWORKS] or list(names)
    return np.array([(name in others) / len(others) for name in names])


def _gains_of_others(requests: _Requests) -> Doubles:
    """nDCG@20 of each of `_mixtures` for each user, taught by the other half of the users."""
    _, place = np.unique(requests.groups.user, return_inverse=True)
    odd = place % 2 == 1
    halves = [(requests.take(one), requests.take(~one)) for one in (odd, ~odd)]
    return np.concatenate(
        [[asked.gains(mixture) for mixture in _mixtures(taught)] for taught, asked in halves],
        axis=1,
    )


def _first_but_good(gains: Doubles, worth_it: float) -> int:
    """The first row that the best is not surely better than; than the very first, by the share that
    is worth to leave it for."""
    users = gains.shape[1]
    best = gains[gains.mean(axis=1).argmax()]
    short = best - gains
    short[0] -= worth_it * best
    error = short.std(axis=1, ddof=1) / np.sqrt(users)
    return int(np.argmax(short.mean(axis=1) <= t.ppf(_SURE, users - 1) * error))


def _learned(
    names: list[str],
    outputs: Mapping[str, Floats],
    logits: Doubles,
    groups: Groups,
    rewards: Rewards,
) -> Doubles:
    learned = _minimise(logits, groups, rewards)
    alone = [_alone(place, len(learned)) for place in range(len(names))]

    def ndcg(unknown: Doubles) -> float:
        mixture = _mixture(unknown, names, rewards)
        return judge(mixed(mixture, outputs, rewards), groups, rewards)["ndcg@20"]

    best = max(alone, key=ndcg)
    way = [best + part * (learned - best) for part in np.linspace(0, 1, _POINTS)]
    if not learned[: len(names)].any():  # no model knows anything: the end of the way is no order
        way.pop()
    return max(way, key=ndcg)  # the first of equals


def _mixture(unknown: Doubles, names: list[str], rewards: Rewards) -> Mixture:
    weights, biases = unknown[: len(names)].tolist(), unknown[len(names) :].tolist()
    return Mixture(
        weights=dict(zip(names, weights, strict=True)),
        biases=dict(zip(rewards.heads, biases, strict=True)),
    )


def mixed(
    mixture: Mixture,
    outputs: Mapping[str, Floats],
    rewards: Rewards,
    fused: Floats | None = None,
    strangers: Booleans | None = None,
) -> Floats:
    """The mixture's outputs, of the shape that its models' have, `strangers` as `fit_mixture`'s."""
    if strangers is not None and mixture.strangers is not None:
        both = [mixed(mixture.of(stranger=one), outputs, rewards, fused) for one in (False, True)]
        return np.where(strangers[:, None, None], both[1], both[0])
    shape = next(iter(outputs.values())).shape[:2]
    heads = len(rewards.heads)
    flat = {
        name: Outputs.of_columns(one.reshape(-1, one.shape[2]), heads)
        for name, one in outputs.items()
    }
    if fused is not None:
        flat[BLEND] = blend_outputs(fused.reshape(-1), heads)
    return mix(mixture, rewards.heads, flat).columns.reshape(*shape, -1)


def _minimise(logits: Doubles, groups: Groups, rewards: Rewards) -> Doubles:
    """M weights and H biases."""
    models, heads = logits.shape[0], logits.shape[3]

    def loss(unknown: Doubles) -> tuple[float, Doubles]:
        return _loss(unknown[:models], unknown[models:], logits, groups, rewards)

    start = np.concatenate([np.full(models, 1 / models), np.zeros(heads)])
    bounds = [(0.0, None)] * models + [(None, None)] * heads
    done = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS}
    )
    return done.x


def _loss(
    weights: Doubles, biases: Doubles, logits: Doubles, groups: Groups, rewards: Rewards
) -> tuple[float, Doubles]:
    """The loss of a mixture of `logits` float64 [M, R, g, H], and its slope [M + H]."""
    models, requests = logits.shape[:2]
    scores = np.tensordot(weights, logits, axes=1) + biases
    total, slope = 0.0, np.zeros(models + len(biases))
    for head, share in enumerate(rewards.loss_shares):
        one = ranking_loss(scores[..., head], groups.head_labels[..., head], groups.mass)
        total += share * one.mean
        gradient = share * one.gradient / requests
        slope[:models] += np.tensordot(logits[..., head], gradient, axes=2)
        slope[models + head] = gradient.sum()
    return total, slope


def _biases(weights: Doubles, logits: Doubles, groups: Groups, rewards: Rewards) -> Doubles:
    """H numbers that bring the heads of a mixture with these weights to their odds."""
    together = np.tensordot(weights, logits, axes=1)[None]
    one = np.ones(1)

    def loss(biases: Doubles) -> tuple[float, Doubles]:
        total, slope = _loss(one, biases, together, groups, rewards)
        return total, slope[1:]

    done = minimize(
        loss, np.zeros(logits.shape[3]), jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}
    )
    return done.x


def _alone(place: int, size: int) -> Doubles:
    """The solution in which one model counts as it is."""
    unknown = np.zeros(size)
    unknown[place] = 1.0
    return unknown
