from __future__ import annotations

from pathlib import Path

import pytest

from shortlist.artifacts import ArtifactStore
from shortlist.errors import ArtifactNotFound
from shortlist.pointer import Rollout
from shortlist.starting import starting_versions
from tests.faults.forgery import an_artifact


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(tmp_path)
    an_artifact(store, version="v1")
    store.promote("ranking", "v1", expected=None)
    return store


def test_the_current_version_is_served(store: ArtifactStore) -> None:
    assert starting_versions(store, "ranking") == ["v1"]


def test_a_version_that_is_asked_for_is_served(store: ArtifactStore) -> None:
    assert starting_versions(store, "ranking", "v7") == ["v7"]


def test_what_is_being_prepared_is_not_needed(store: ArtifactStore) -> None:
    store.set_rollout("ranking", Rollout(version="v2", before="v1", step="preparing"))
    assert starting_versions(store, "ranking") == ["v1"]


def test_both_versions_are_needed_while_one_takes_over(store: ArtifactStore) -> None:
    store.set_rollout("ranking", Rollout(version="v2", before="v1", step="activating"))
    assert starting_versions(store, "ranking") == ["v2", "v1"]


def test_before_the_first_promotion_there_is_nothing_to_serve(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactNotFound):
        starting_versions(store, "retrieval")


def test_where_other_shards_run_the_version_divided_so_is_served(store: ArtifactStore) -> None:
    for version, shards in (("r1", 2), ("r1-s3", 3)):
        with store.stage("retrieval") as staged:
            (staged.path / "keys").write_text("k")
            staged.publish(version=version, meta={"shards": shards})
    store.promote("retrieval", "r1", expected=None)
    assert starting_versions(store, "retrieval", shards=2) == ["r1"]
    assert starting_versions(store, "retrieval", shards=3) == ["r1-s3"]
    with pytest.raises(ArtifactNotFound, match="r1-s4"):
        starting_versions(store, "retrieval", shards=4)
