"""What a candidate source is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from retrieval_svc.brute_force import Hits
from retrieval_svc.rows import Rows
from shortlist.tiers import UserContext

__all__ = ["Source", "SourceQuery"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceQuery:
    """One question to every source of a slice."""

    user: UserContext
    exclude: Rows  # int64 [e], ascending, unique: rows that no source may propose


class Source(Protocol):
    """Proposes items of one slice to one user."""

    @property
    def name(self) -> str: ...

    def propose(self, query: SourceQuery, k: int) -> Hits:
        """The source's best `k` rows that are not excluded, best first, with finite scores.

        Scores of one source may be compared across shards. Called from several threads at once.
        May raise anything: the other sources then answer without this one.
        """
        ...
