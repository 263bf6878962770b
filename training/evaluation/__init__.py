"""How good the trained system is on the held-out part, measured on what is served.

Pages come from the embedded orchestrator itself, with the histories that were known before the
held-out part; sources, blend, rankers and slate are then measured one by one with the same code.
"""

from __future__ import annotations

from training.evaluation.evaluator import evaluate

__all__ = ["evaluate"]
