from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist.artifacts import ArtifactStore
from shortlist.errors import ArtifactRefused
from tests.faults.forgery import an_artifact, list_file


class Bomb:
    """Leaves a mark on disk when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._mark),)


def raw(bomb: Bomb) -> bytes:
    return pickle.dumps(bomb)


def object_array(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([bomb], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def zipped_object_array(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ids.npy", object_array(bomb))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scann_docids.pkl", raw),  # scann unpickles it where it finds it
        ("model.pickle", raw),
        ("no-suffix", raw),
        ("keys.npy", object_array),
        ("keys.npy", raw),  # numpy would offer to unpickle a .npy that is none
        ("no-suffix", object_array),
        ("tower.npz", zipped_object_array),
    ],
)
def test_a_pickle_is_refused_by_publisher_and_reader_and_never_loaded(
    tmp_path: Path, name: str, content: Any
) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    mark = tmp_path / "it ran"
    bomb = content(Bomb(mark))
    with store.stage("retrieval") as staged:
        (staged.path / name).write_bytes(bomb)
        with pytest.raises(ArtifactRefused, match=re.escape(name)):
            staged.publish(version="v1", meta={})
    list_file(an_artifact(store, "retrieval", "v2").path, name, bomb)
    with pytest.raises(ArtifactRefused, match=re.escape(name)):
        store.open("retrieval", "v2")
    assert not mark.exists()
