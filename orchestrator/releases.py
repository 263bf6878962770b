"""A pair of versions that answers a request: one of retrieval and one of ranking."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Release"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Versions by name; "" = the active one."""

    retrieval: str = ""
    ranking: str = ""

    def __str__(self) -> str:
        return f"retrieval {self.retrieval or 'as active'}, ranking {self.ranking or 'as active'}"
