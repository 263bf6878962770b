"""A share of the users on another release, until somebody or one of its guards ends it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from orchestrator.guards import Guards, reason_to_end
from orchestrator.guards_clicks import ClickTest
from orchestrator.releases import Release, place_of
from orchestrator.rollout_figures import Figures, RollingFigures
from shortlist.ids import key_of
from shortlist.live import LiveEvent

__all__ = ["Canary", "SeenRelease"]

_log = logging.getLogger(__name__)

_CHECK_EVERY = 20  # requests of the canary, or clicks on either side


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRelease:
    """What was seen of one side."""

    figures: Figures  # of all requests
    newest: Figures  # what quantiles are taken from
    pages: int
    clicks: int


class Canary:
    """Who is in it, and what it and the others did.

    Every orchestrator puts the same users into it, as they hash by the versions' names; another
    canary gets other users. Both sides' pages carry a label, so that what is clicked on them can be
    told apart, here and in the event log.
    """

    def __init__(self, *, release: Release, share: float, guards: Guards, started_ms: int) -> None:
        self.release = release
        self.begun_share = share
        self.guards = guards
        self.started_ms = started_ms
        self.running = True
        self.rolled_back_because = ""
        self._salt = f"{release.retrieval}\n{release.ranking}"
        number = blake2b(f"{self._salt}\n{share}".encode(), digest_size=4).hexdigest()
        self._labels = {True: f"canary-{number}", False: f"others-{number}"}
        self._sides = {label: side for side, label in self._labels.items()}
        self._rolling = RollingFigures()
        self._clicks = ClickTest()
        self._unchecked = 0

    @property
    def share(self) -> float:
        """Of the users who get it now."""
        return self.begun_share if self.running else 0.0

    def includes(self, user: str) -> bool:
        """Whether somebody gets the canary while it runs."""
        return place_of(user, self._salt) < self.begun_share

    def label(self, *, canary: bool) -> str:
        """What the pages of one side carry."""
        return self._labels[canary]

    def side_of_label(self, label: str) -> bool | None:
        """None for what is not of this canary."""
        return self._sides.get(label)

    def seen(self, *, canary: bool) -> SeenRelease:
        at = 0 if canary else 1
        return SeenRelease(
            figures=self._rolling.all()[at],
            newest=self._rolling.newest()[at],
            pages=self._clicks.pages(canary=canary),
            clicks=self._clicks.clicks(canary=canary),
        )

    def end(self) -> None:
        """Everybody gets the stable release; what was seen stays."""
        self.running = False

    # -- what happens -----------------------------------------------------------------------------

    def answered(self, milliseconds: float, *, canary: bool, degraded: bool) -> None:
        self._rolling.of(canary=canary).answered(milliseconds, degraded=degraded)
        self._count(canary)

    def failed(self, *, canary: bool) -> None:
        self._rolling.of(canary=canary).fail()
        self._count(canary)

    def fell_back(self) -> None:
        """A replica had lost the canary's versions, and the stable ones answered."""
        self._rolling.of(canary=True).fell_back()
        self._count(canary=True)

    def shown(self, user_id: str, request_id: str, *, canary: bool) -> None:
        """A page is on its way; one for nobody in particular is a user of its own."""
        self._clicks.show(key_of(user_id or request_id), canary=canary)

    def hear(self, event: LiveEvent) -> None:
        """Count an event that came from a page of either side, if it says that it was liked."""
        came_from: Mapping[str, object] = event.attribution
        canary = self._sides.get(str(came_from.get("release", "")))
        if canary is None or event.weight <= 0 or not self.running:
            return
        request_id = str(came_from["request_id"])
        user = request_id if came_from.get("anonymous") else event.user_id
        item = key_of(f"{request_id} {came_from['rank']}")
        if self._clicks.click(key_of(user), item, canary=canary):
            self._count(canary=True)

    def _count(self, canary: bool) -> None:
        self._unchecked += canary
        if self._unchecked >= _CHECK_EVERY:
            self._unchecked = 0
            self._check()

    def _check(self) -> None:
        if not self.running:
            return
        reason = reason_to_end(self.guards, *self._rolling.newest(), self._clicks)
        if reason:
            self.rolled_back_because = reason
            self.end()
            _log.warning("canary of %s rolled back: %s", self.release, reason)
