"""The versions of one shard that this process holds."""

from __future__ import annotations

from retrieval_svc.generation import TIER
from retrieval_svc.live import LiveGeneration
from shortlist.versions import LoadedVersions

__all__ = ["TIER", "LoadedGenerations"]

LoadedGenerations = LoadedVersions[LiveGeneration]
