from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.errors import ArtifactRefused
from tests.faults.forgery import an_artifact, entry_of, forge

SECRET = b"a file of somebody else"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def artifact(store: ArtifactStore) -> Artifact:
    return an_artifact(store)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A real file outside, which a manifest may describe correctly."""
    path = tmp_path / "secret.txt"
    path.write_bytes(SECRET)
    return path


def point_at(folder: Path, name: str) -> None:
    forge(folder, lambda document: document["files"].update({name: entry_of(SECRET)}))


@pytest.mark.parametrize(
    "name",
    [
        "../../../secret.txt",
        "engine/../../../../secret.txt",
        "..",
        "./names.txt",
        "engine//weights.bin",
        "engine\\..\\names.txt",
        "nul\0byte",
        "",
    ],
)
def test_a_manifest_path_that_leaves_the_artifact_is_refused(
    store: ArtifactStore, artifact: Artifact, outside: Path, name: str
) -> None:
    point_at(artifact.path, name)
    with pytest.raises(ArtifactRefused, match=r"manifest\.json: path .* leaves the artifact"):
        store.open("ranking", "v1")


def test_an_absolute_manifest_path_is_refused(
    store: ArtifactStore, artifact: Artifact, outside: Path
) -> None:
    point_at(artifact.path, str(outside))
    with pytest.raises(ArtifactRefused, match=re.escape(str(outside))):
        store.open("ranking", "v1")


@pytest.mark.parametrize("name", ["names.txt", "engine/weights.bin", "manifest.json", "extra"])
def test_a_symbolic_link_to_a_file_is_refused(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path, name: str
) -> None:
    path = artifact.path / name
    if path.exists():
        path.rename(tmp_path / "moved")  # the same bytes, so that only the link can be wrong
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(ArtifactRefused, match=f"{re.escape(name)}: is a symbolic link"):
        store.open("ranking", "v1")


def test_a_symbolic_link_to_a_folder_is_refused(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    (artifact.path / "engine").rename(tmp_path / "moved")
    (artifact.path / "engine").symlink_to(tmp_path / "moved")
    with pytest.raises(ArtifactRefused, match="engine: is a symbolic link"):
        store.open("ranking", "v1")


def test_a_version_that_is_a_symbolic_link_is_refused(
    store: ArtifactStore, artifact: Artifact, tmp_path: Path
) -> None:
    artifact.path.rename(tmp_path / "moved")
    artifact.path.symlink_to(tmp_path / "moved")
    with pytest.raises(ArtifactRefused, match="v1: is a symbolic link"):
        store.open("ranking", "v1")


def test_a_pipe_in_an_artifact_is_refused_instead_of_waited_for(
    store: ArtifactStore, artifact: Artifact
) -> None:
    os.mkfifo(artifact.path / "pipe")
    with pytest.raises(ArtifactRefused, match="pipe: is not a regular file"):
        store.open("ranking", "v1")


def test_a_remote_manifest_cannot_write_outside_of_the_cache(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    url = f"file://{tmp_path}/bucket"
    an_artifact(ArtifactStore(url, cache=tmp_path / "trainer"))
    evil = tmp_path / "bucket" / "ranking" / "evil.txt"
    evil.write_bytes(SECRET)
    point_at(tmp_path / "bucket" / "ranking" / "v1", "../evil.txt")
    replica = ArtifactStore(url, cache=tmp_path / "replica")
    with pytest.raises(ArtifactRefused, match="leaves the artifact"):
        replica.open("ranking", "v1")
    assert os.listdir(tmp_path / "replica" / "ranking") == [".lock"]
