"""Who the page is for: the stored profile and what the request itself brings along."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from orchestrator.stages import Counts, Draft, Person, no_keys
from shortlist.errors import BudgetExceeded
from shortlist.ids import key_of
from shortlist.page import Degradation, DegradationReason
from shortlist.stores import Profile, ProfileStore, ProfilesUnavailable
from shortlist.tiers import History, Keys, UserContext

__all__ = ["ReadProfile", "anonymous", "merge_histories"]

_log = logging.getLogger(__name__)

_BUDGET_MS = 50.0


class ReadProfile:
    """Reads the stored profile; without the store the page is made from the request alone."""

    name = "profile"

    def __init__(self, profiles: ProfileStore, history_length: int) -> None:
        self._profiles = profiles
        self._history_length = history_length

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        person = draft.ask.person
        profile, degradations = await self._read(draft)
        history = _stored(profile, person)
        merged = merge_histories(history, person.recent)
        kept = merged.last(self._history_length)
        user = UserContext(
            user_key=draft.user.user_key,
            history=replace(kept, times_ms=np.minimum(kept.times_ms, draft.user.time_ms)),
            attributes={**(profile.attributes if profile else {}), **person.attributes},
            context=person.context,
            time_ms=draft.user.time_ms,
        )
        draft = replace(
            draft,
            user=user,
            seen=_seen(profile, person) if draft.ask.exclude_seen else no_keys(),
            cold_start=not len(merged),
            degradations=draft.degradations + degradations,
        )
        return draft, Counts(
            items_in=len(history) + len(person.recent),
            items_out=len(kept),
            dropped={
                "duplicate": len(history) + len(person.recent) - len(merged),
                "old": len(merged) - len(kept),
            },
        )

    async def _read(self, draft: Draft) -> tuple[Profile | None, tuple[Degradation, ...]]:
        user_id = draft.ask.person.user_id
        if not user_id:
            return None, ()
        try:
            async with draft.ask.budgets.total.or_after(_BUDGET_MS).enforced():
                return await self._profiles.get(user_id), ()
        except (ProfilesUnavailable, BudgetExceeded) as error:
            _log.warning("made without a profile: %s", error)
            return None, (
                Degradation(
                    reason=DegradationReason.PROFILE_UNAVAILABLE,
                    stage="profile",
                    detail=str(error),
                ),
            )


def anonymous(person: Person, as_of_ms: int) -> UserContext:
    """The person before the profile was read."""
    return UserContext(
        user_key=key_of(person.user_id) if person.user_id else 0,
        history=History.empty(),
        attributes=person.attributes,
        context=person.context,
        time_ms=as_of_ms,
    )


def merge_histories(stored: History, recent: History) -> History:
    """Both, oldest first; an event (item and time) that is in both counts as the recent one."""
    if not len(recent):
        return stored
    keys = np.concatenate([stored.keys, recent.keys])
    times = np.concatenate([stored.times_ms, recent.times_ms])
    weights = np.concatenate([stored.weights, recent.weights])
    row_of = {
        event: row for row, event in enumerate(zip(keys.tolist(), times.tolist(), strict=True))
    }
    rows = np.sort(np.fromiter(row_of.values(), np.intp, len(row_of)))
    rows = rows[np.argsort(times[rows], kind="stable")]
    return History(keys=keys[rows], times_ms=times[rows], weights=weights[rows])


def _stored(profile: Profile | None, person: Person) -> History:
    """The stored history as it was at the page's moment: one for the past must not know the future.

    A page for now knows all there is: where the clocks of two orchestrators differ, an event that
    one has taken in may lie in the other one's future.
    """
    if profile is None:
        return History.empty()
    history = profile.history
    if not person.dated or not len(history) or history.times_ms[-1] <= person.time_ms:
        return history
    past = history.times_ms <= person.time_ms
    return History(
        keys=history.keys[past],
        times_ms=history.times_ms[past],
        weights=history.weights[past],
    )


def _seen(profile: Profile | None, person: Person) -> Keys:
    stored = [profile.seen, profile.history.keys] if profile else []
    return np.unique(np.concatenate([*stored, person.recent.keys]))
