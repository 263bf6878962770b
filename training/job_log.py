"""What a job says of itself, line by line, on stderr: `ray job logs` shows it, and so do we."""

from __future__ import annotations

import json
import sys

from shortlist.artifacts import Artifact
from training.checkpoints import Steps
from training.snapshot import Snapshot

__all__ = ["tell", "tell_done", "tell_metrics", "tell_snapshot"]


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


def tell_done(what: str, steps: Steps) -> None:
    """What an earlier run of the same job has left, and this one need not do."""
    if steps.done:
        tell(f"{what}: finished before: {', '.join(steps.done)}")


def tell_metrics(artifact: Artifact) -> None:
    """A line for programs: `metrics: ` and JSON."""
    metrics = artifact.manifest.meta.get("metrics")
    said = {"tier": artifact.tier, "version": artifact.version, "metrics": metrics}
    tell("metrics: " + json.dumps(said))
