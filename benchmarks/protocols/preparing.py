"""From a publisher's files to a workdir that the training jobs take."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from benchmarks.protocols.held_out import schema_of, write_split
from benchmarks.protocols.protocol import Protocol
from shortlist.commands.import_data import import_into
from shortlist.commands.terminal import Terminal
from shortlist.errors import ShortlistError
from shortlist.schema import Schema
from training.dataset import SPLITS, Dataset, write_dataset
from training.presets import load_preset

__all__ = ["NotPrepared", "Part", "Prepared", "files_folder", "judge_by_validation", "prepare"]

Part = Literal["test", "validation"]

_PREPARED = "protocol.json"


class NotPrepared(ShortlistError):
    """The workdir is not that of an earlier run of the protocol."""

    status_name = "FAILED_PRECONDITION"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a workdir was made for."""

    protocol: str
    part: Part  # that judges
    seed: int  # of training

    def save(self, workdir: Path) -> None:
        (workdir / _PREPARED).write_text(json.dumps(asdict(self)) + "\n", "utf-8")

    @staticmethod
    def load(workdir: Path, protocol: str) -> Prepared:
        """Raises `NotPrepared` where no run, or one of another protocol, has been."""
        path = workdir / _PREPARED
        if not path.is_file():
            raise NotPrepared(f"{workdir} is not the workdir of an earlier run: no {_PREPARED}")
        prepared = Prepared(**json.loads(path.read_text("utf-8")))
        if prepared.protocol != protocol:
            raise NotPrepared(f"{workdir} is of the protocol {prepared.protocol}, not {protocol}")
        return prepared


def prepare(
    protocol: Protocol, source: Path, workdir: Path, prepared: Prepared, terminal: Terminal
) -> None:
    """Configure the workdir as the protocol says and import the data, split for the part to judge.

    Raises `FilesAbsent`, `TooFewUsers`, and what an import raises.
    """
    protocol.check_files(source)
    workdir.mkdir(parents=True, exist_ok=True)
    prepared.save(workdir)
    protocol.config().save(workdir / "shortlist.yaml")
    if protocol.held_out_users is not None:
        with terminal.step("Holding users out"):
            write_split(source, files_folder(workdir), protocol.held_out_users, prepared.part)
        import_into(workdir, schema_of(protocol.name), files_folder(workdir), terminal)
        return
    import_into(workdir, _schema(protocol), source, terminal)
    if prepared.part == "validation":
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
