"""Which versions answer whom."""

from __future__ import annotations

import asyncio

from orchestrator.budget import Deadline
from orchestrator.models import RankerModels
from orchestrator.releases import Release
from orchestrator.versions import IndexVersionTracker

__all__ = ["Rollout"]

_REFRESH_MS = 2000.0


class Rollout:
    """What this orchestrator serves to whom, and how it went so far."""

    def __init__(self, versions: IndexVersionTracker, models: RankerModels) -> None:
        self._versions = versions
        self._models = models

    @property
    def stable(self) -> Release:
        """The active versions, as far as they are known."""
        index = self._versions.current
        return Release(retrieval=index.version if index else "", ranking=self._models.current)

    async def refresh(self) -> Release:
        """Ask every replica now what is active; requests name that from then on."""
        await asyncio.gather(
            self._versions.refresh(Deadline.after(_REFRESH_MS), anew=True),
            self._models.refresh(anew=True),
        )
        return self.stable
