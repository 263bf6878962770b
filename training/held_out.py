"""What versions that were trained on snapshots of the log can be judged by."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

from shortlist.artifacts import Artifact
from shortlist.config import Config
from training.dataset import Dataset
from training.shards import read_slices
from training.snapshot import take_snapshot
from training.splits import Learned

__all__ = ["held_out_from", "learned_by"]


def held_out_from(workdir: Path, config: Config, retrieval: Artifact, *others: Artifact) -> Dataset:
    """The data set whose test part is all that none of the versions has learned from.

    By time that is whatever has come since, also after they were trained; by other splits, the
    import's test part without what was logged again before they were. Its items are those that
    `retrieval` can propose. Raises what `take_snapshot` raises.
    """
    artifacts = (retrieval, *others)
    learned = [one for artifact in artifacts if (one := learned_by(artifact)) is not None]
    if not learned:  # published before training read the log: they know the import's part only
        return Dataset.load(workdir / "dataset")
    return take_snapshot(
        workdir,
        config,
        learned=reduce(Learned.later_of, learned),
        catalogue=read_slices(retrieval).items,
    ).dataset


def learned_by(artifact: Artifact) -> Learned | None:
    """What a version of `retrieval` or `ranking` has learned from, None where it does not say."""
    meta = artifact.manifest.meta
    sequence, before = meta.get("log_sequence"), meta.get("imported_before_ms")
    if "snapshot_sequence" not in meta or not isinstance(sequence, int):
        return None
    return Learned(
        log_sequence=sequence, imported_before_ms=before if isinstance(before, int) else None
    )
