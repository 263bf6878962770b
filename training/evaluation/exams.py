"""The test users: what is known of each, and what each went on to like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from shortlist.config import Config
from shortlist.errors import ArtifactRefused
from shortlist.tiers import Keys, UserContext
from training.dataset import Dataset
from training.lessons import moments, relevant_rows, users_at
from training.rewards import Rewards
from training.windows import Window

__all__ = ["Exam", "exams_of", "sample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """A test user at the moment of the first thing to come."""

    user_id: str
    user: UserContext  # with as much history as is served
    seen: Keys  # uint64 [s], ascending; never recommended
    known_events: int  # of the whole history
    relevant: npt.NDArray[np.int32]  # [r] item rows, liked in the test part and not seen before
    worth: npt.NDArray[np.float64]  # [r], of what the user did with each, as declared

    def cut(self, events: int) -> Exam:
        """The same person with the newest `events` of the history only.

        Without the user's key, by which a model might know the person all the same. What was seen
        is still never recommended.
        """
        user = replace(self.user, user_key=0, history=self.user.history.last(events))
        return replace(self, user=user)


def exams_of(
    dataset: Dataset, window: Window, config: Config, *, users: int, seed: int
) -> list[Exam]:
    """At most `users` random test users, in order of their rows.

    Raises `ArtifactRefused` when there is none, and `InvalidField` when the configuration declares
    the worth of a head that the data lacks.
    """
    todo = moments(
        dataset,
        window,
        limit=users,
        max_staleness_days=config.serving.staleness_days,
        seed=seed,
        first_only=True,
    )
    exams = []
    rewards = Rewards.of(dataset, window.known, config.ranking)
    user_ids = dataset.user_ids  # put together anew each time it is asked for
    for moment, user in zip(todo, users_at(dataset, todo), strict=True):
        if relevant := relevant_rows(dataset, moment):
            newest = user.history.last(config.serving.history_length)
            liked = np.array(sorted(relevant), np.int32)
            labels, _ = rewards.labels(dataset, moment.next, dataset.item_keys[liked])
            exams.append(
                Exam(
                    user_id=user_ids[moment.user].as_py(),
                    user=replace(user, history=newest),
                    seen=np.unique(user.history.keys),
                    known_events=len(user.history),
                    relevant=liked,
                    worth=labels @ rewards.weights,
                )
            )
    if not exams:
        raise ArtifactRefused("the data set has no test part to evaluate on; see schema `split`")
    return exams


def sample(places: Sequence[int], limit: int, seed: int) -> list[int]:
    """At most `limit` of `places`, at random, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(places))[:limit]
    return [places[place] for place in np.sort(chosen)]
