# ruff: noqa: ARG002 - the protocol decides the arguments of refusals
"""What the Admin service says of an orchestrator: it holds no version, it follows its shards."""

from __future__ import annotations

from orchestrator.pipeline import Recommender
from shortlist.admin import LoadedVersion, TierStatus
from shortlist.errors import NotImplementedYet

__all__ = ["FollowingTier"]

_REFUSAL = "an orchestrator serves the version that its shards serve; change it there"


class FollowingTier:
    """A `shortlist.admin.VersionedTier` over a recommender."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender

    def status(self) -> TierStatus:
        index = self._recommender.index
        if index is None:
            return TierStatus(tier="orchestrator", versions=(), capabilities=())
        served = LoadedVersion(
            version=index.version,
            active=True,
            items=0,  # they are on the shards
            items_total=index.items_total,
            watermark_ms=index.watermark_ms,
            log=self._recommender.log_position,
        )
        return TierStatus(tier="orchestrator", versions=(served,), capabilities=index.sources)

    async def prepare(self, version: str) -> None:
        raise NotImplementedYet(_REFUSAL)

    async def activate(self, version: str) -> str:
        raise NotImplementedYet(_REFUSAL)

    async def retire(self, version: str) -> None:
        raise NotImplementedYet(_REFUSAL)
