from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shortlist.artifacts import ArtifactStore
from shortlist.errors import ArtifactCorrupt
from tests.faults.forgery import an_artifact


@pytest.mark.slow  # a process for each of some four hundred steps
def test_a_publisher_killed_at_any_step_leaves_nothing_half_made(
    tmp_path: Path, checkout: Path, record_fault: Callable[..., None]
) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.faults.publisher", str(tmp_path)],
        cwd=checkout,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    # Readers never saw anything but these three, and each was seen.
    assert found["finished"] == "promoted"
    assert found["nothing"] > 50
    assert found["published"] > 50
    assert found["promoted"] > 0
    record_fault(killed_at_steps=found["steps"])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [truncate, Path.unlink], ids=["truncated", "missing"])
@pytest.mark.parametrize("name", ["manifest.json", "engine/weights.bin", "names.txt"])
def test_a_damaged_version_is_refused_and_the_old_one_stays(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    store = ArtifactStore(tmp_path)
    an_artifact(store, version="v1")
    store.promote("ranking", "v1", expected=None)
    damage(an_artifact(store, version="v2").path / name)
    with pytest.raises(ArtifactCorrupt, match=name):
        store.open("ranking", "v2")
    with pytest.raises(ArtifactCorrupt, match=name):
        store.promote("ranking", "v2", expected="v1")
    assert store.open("ranking").version == "v1"


def test_a_folder_without_a_manifest_is_no_version(tmp_path: Path) -> None:
    (tmp_path / "ranking" / "v3").mkdir(parents=True)
    (tmp_path / "ranking" / "v3" / "names.txt").write_text("half of it")
    store = ArtifactStore(tmp_path)
    assert store.versions("ranking") == []
    with pytest.raises(ArtifactCorrupt, match=r"v3/manifest\.json"):
        store.open("ranking", "v3")
