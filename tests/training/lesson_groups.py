"""Groups of candidates at random, in which it is known what is liked and why."""

from __future__ import annotations

import numpy as np

from ranking_svc.features import FeatureRows
from ranking_svc.models import Worth
from shortlist.features import Encoded
from tests.ranking_svc.factory import HEADS, KEYS, random_builder
from training.groups import Groups
from training.rewards import Rewards

BUILDER = random_builder()
REQUESTS, SIZE = 240, 30

REWARDS = Rewards(
    worth=Worth(heads=dict(zip(HEADS, (1.0, 4.0), strict=True))),
    head_of=np.arange(2),
    value_scale=(3.0, 1.0),
)


def random_groups(*, requests: int = REQUESTS, seed: int = 0) -> Groups:
    """Candidates of a high first number and of rock are clicked, of a high second number bought.

    Values are the third number.
    """
    rng = np.random.default_rng(seed)
    numeric = rng.normal(size=(requests, SIZE, len(BUILDER.names))).astype(np.float32)
    items = rng.integers(len(KEYS), size=(requests, SIZE))
    tokens, weights = BUILDER.table.tokens[items], BUILDER.table.token_weights[items]
    mass = np.ones((requests, SIZE), np.float32)
    mass[::3, -5:] = 0  # padding
    mass[:, 10:20] *= 3
    likings = (numeric[:, :, 0] + 1.5 * (tokens[:, :, 0] == 1), numeric[:, :, 1])
    tops = [
        (one > np.sort(one, axis=1)[:, [-top]]) & (mass == 1)
        for one, top in zip(likings, (4, 2), strict=True)
    ]
    head_labels = np.stack(tops, axis=2).astype(np.float32)
    happened = head_labels.any(axis=2)
    users = BUILDER.user.encode(
        {"genre": rng.choice(["rock", "jazz", "folk"], requests).tolist()}, requests
    )
    contexts = BUILDER.context.encode(
        {"device": rng.choice(["phone", "desk"], requests).tolist()}, requests
    )
    return Groups(
        numeric=numeric * (mass > 0)[..., None],
        item_tokens=tokens,
        item_weights=weights,
        user_tokens=users.tokens,
        user_weights=users.weights,
        context_tokens=contexts.tokens,
        context_weights=contexts.weights,
        head_labels=head_labels,
        labels=(head_labels @ REWARDS.weights).astype(np.float32),
        values=np.where(happened, numeric[:, :, 2], np.nan).astype(np.float32),
        mass=mass,
        user=np.arange(requests, dtype=np.int32),
    )


def rows_of(groups: Groups, at: int) -> FeatureRows:
    """A request of the groups as serving would build it, on random items."""
    nothing = np.zeros((1, 0), np.float32)
    return FeatureRows(
        numeric=groups.numeric[at],
        items=np.random.default_rng(at).integers(len(KEYS) + 1, size=SIZE),
        user=Encoded(
            tokens=groups.user_tokens[[at]], weights=groups.user_weights[[at]], numeric=nothing
        ),
        context=Encoded(
            tokens=groups.context_tokens[[at]],
            weights=groups.context_weights[[at]],
            numeric=nothing,
        ),
        unknown=0,
    )
