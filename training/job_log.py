"""What a job says of itself, line by line, on stderr: `ray job logs` shows it, and so do we."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from training.snapshot import Snapshot

__all__ = ["tell", "tell_metrics", "tell_snapshot"]


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def tell_snapshot(snapshot: Snapshot) -> None:
    """What is learned from."""
    dataset = snapshot.dataset
    tell(
        f"data: {len(dataset.events):,} interactions of {dataset.n_users:,} users with "
        f"{dataset.n_items:,} items; {snapshot.logged:,} of them from the log up to change "
        f"{snapshot.upto:,}, learned up to {snapshot.log_sequence:,}"
    )


def tell_metrics(tier: str, metrics: Mapping[str, Any]) -> None:
    """A line for programs: `metrics: ` and JSON."""
    tell("metrics: " + json.dumps({"tier": tier, **metrics}, default=str))
