"""A world of a few thousand items: the same files as of a million, written in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.serving.world import WorldShape, prepare

SHAPE = WorldShape(items=4000, users=150, candidates=200)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    prepare(folder, SHAPE, print)
    return folder
