"""Budgets for tests that are not about them: a busy machine cannot make a page differ."""

from __future__ import annotations

from shortlist.config import ServingConfig

__all__ = ["PATIENT"]

PATIENT = ServingConfig(
    retrieval_budget_ms=20_000,
    ranking_budget_ms=20_000,
    describe_budget_ms=20_000,
    request_budget_ms=60_000,
)
