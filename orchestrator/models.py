"""Which rankers the ranking tier offers, so that a request is never sent one that it lacks."""

from __future__ import annotations

import asyncio
import logging

from orchestrator.budget import Deadline
from orchestrator.replicas import Replicas
from shortlist.errors import ShortlistError
from shortlist.tiers import Ranker

__all__ = ["RankerModels"]

_log = logging.getLogger(__name__)

_STATUS_MS = 1000.0


class RankerModels:
    """Learns from the rankers' statuses what a query may name."""

    def __init__(self, rankers: Replicas[Ranker]) -> None:
        self._rankers = rankers
        self._offered: frozenset[str] | None = None

    @property
    def offered(self) -> frozenset[str] | None:
        """What every replica in reach offers; None while none said what it offers."""
        return self._offered

    async def refresh(self) -> None:
        """Ask every replica. What was known stays while none answers."""
        answers = await asyncio.gather(*(_models(one) for one in self._rankers.all))
        reached = [models for models in answers if models is not None]
        if reached:
            self._offered = frozenset.intersection(*reached)


async def _models(ranker: Ranker) -> frozenset[str] | None:
    try:
        async with Deadline.after(_STATUS_MS).enforced():
            # One that lists none just does not say: it has its default at least.
            return frozenset((await ranker.status()).models) or None
    except ShortlistError as error:
        _log.debug("%s does not say what it offers: %s", ranker.name, error)
    except Exception:
        _log.exception("%s does not say what it offers", ranker.name)
    return None
