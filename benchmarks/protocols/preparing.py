"""From a publisher's files to a workdir that the training jobs take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from benchmarks.protocols.held_out import schema_of, write_split
from benchmarks.protocols.protocol import Protocol
from shortlist.commands.import_data import import_into
from shortlist.commands.terminal import Terminal
from shortlist.schema import Schema
from training.dataset import SPLITS, Dataset, write_dataset
from training.presets import load_preset

__all__ = ["files_folder", "judge_by_validation", "prepare"]

Part = Literal["test", "validation"]


def prepare(
    protocol: Protocol, source: Path, workdir: Path, part: Part, terminal: Terminal
) -> None:
    """Configure the workdir as the protocol says and import the data, split for judging `part`.

    Raises `FilesAbsent`, `TooFewUsers`, and what an import raises.
    """
    protocol.check_files(source)
    workdir.mkdir(parents=True, exist_ok=True)
    protocol.config().save(workdir / "shortlist.yaml")
    if protocol.held_out_users is not None:
        with terminal.step("Holding users out"):
            write_split(source, files_folder(workdir), protocol.held_out_users, part)
        import_into(workdir, schema_of(protocol.name), files_folder(workdir), terminal)
        return
    import_into(workdir, _schema(protocol), source, terminal)
    if part == "validation":
        judge_by_validation(workdir / "dataset")


def files_folder(workdir: Path) -> Path:
    """Where files lie that the protocol itself has made."""
    return workdir / "files"


def judge_by_validation(folder: Path) -> None:
    """Rewrite a data set so that its validation part is the test part, and forget the test part.

    For choosing settings: nothing that runs afterwards can have seen the test part.
    """
    dataset = Dataset.load(folder)
    events, info = dataset.events, dataset.info
    rows = dataset.rows_of_split("train", "validation")
    is_test = events.split[rows] == SPLITS.index("validation")
    columns = ("user", "item", "event", "value", "weight", "time_ms")
    interactions = pa.table(
        {name: getattr(events, name)[rows] for name in columns}
        | {"split": np.where(is_test, SPLITS.index("test"), 0).astype(np.int8)}
        | {f"ctx_{name}": column.take(pa.array(rows)) for name, column in events.context.items()}
    )
    write_dataset(
        folder,
        items=dataset.items,
        users=dataset.users,
        interactions=interactions,
        info=replace(
            info,
            validation_end_ms=info.train_end_ms,
            test_end_ms=info.validation_end_ms,
            notes=(*info.notes, "judged by the validation part; the test part is left out"),
        ),
    )


def _schema(protocol: Protocol) -> Schema:
    assert protocol.preset is not None
    preset = load_preset(protocol.preset).model_dump(mode="json", exclude_defaults=True)
    return Schema.of(preset | protocol.schema_changes, source=f"protocol {protocol.name}")
