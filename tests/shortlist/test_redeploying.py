from __future__ import annotations

import json
from pathlib import Path

import pytest

from shortlist.artifacts import ArtifactStore
from shortlist.config import DeploymentConfig
from shortlist.errors import InvalidField
from shortlist.fleet import NothingServes, addresses, find_processes
from shortlist.pointer import Rollout
from shortlist.redeploying import changed_last, newest_candidate


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(tmp_path / "artifacts")
    for version in ("v1", "v2", "v3"):
        publish(store, version)
    store.promote("retrieval", "v1", expected=None)
    return store


def publish(store: ArtifactStore, version: str, **parents: str) -> None:
    with store.stage("retrieval") as staged:
        (staged.path / "x").write_text(version)
        staged.publish(version=version, meta={}, parents=parents)


def report(workdir: Path, version: str, *, passed: bool) -> None:
    path = workdir / "gate" / "retrieval" / f"{version}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"passed": passed}))


def test_the_newest_version_is_deployed(store: ArtifactStore, tmp_path: Path) -> None:
    assert newest_candidate(store, "retrieval", tmp_path) == "v3"


def test_what_the_gate_refused_is_not_deployed(store: ArtifactStore, tmp_path: Path) -> None:
    report(tmp_path, "v3", passed=False)
    report(tmp_path, "v2", passed=True)
    assert newest_candidate(store, "retrieval", tmp_path) == "v2"


def test_what_was_rolled_back_is_not_deployed_again(store: ArtifactStore) -> None:
    store.promote("retrieval", "v3", expected="v1")
    store.promote("retrieval", "v1", expected="v3")
    assert newest_candidate(store, "retrieval") == "v1"


def test_a_version_divided_anew_is_no_newer_version(store: ArtifactStore) -> None:
    publish(store, "v3-s5", retrieval="v3")
    assert newest_candidate(store, "retrieval") == "v3"


def test_an_unfinished_rollout_is_gone_on_with(store: ArtifactStore) -> None:
    store.set_rollout("retrieval", Rollout(version="v2", before="v1", step="preparing"))
    assert newest_candidate(store, "retrieval") == "v2"


def test_the_tier_that_changed_last_is_rolled_back(store: ArtifactStore) -> None:
    assert changed_last(store) == "retrieval"
    store.set_rollout("ranking", Rollout(version="r2", before="r1", step="preparing"))
    assert changed_last(store) == "ranking"


def test_processes_are_those_named_else_configured_else_up(tmp_path: Path) -> None:
    config = DeploymentConfig(processes=("127.0.0.1:1, 127.0.0.1:2",))
    assert find_processes(tmp_path, config, ("127.0.0.1:9",)) == ["127.0.0.1:9"]
    assert find_processes(tmp_path, config) == ["127.0.0.1:1", "127.0.0.1:2"]
    with pytest.raises(NothingServes, match="shortlist up"):
        find_processes(tmp_path, DeploymentConfig())
    (tmp_path / "run").mkdir()
    up = {"processes": [{"address": "127.0.0.1:7"}, {"address": "127.0.0.1:8"}]}
    (tmp_path / "run" / "up.json").write_text(json.dumps(up))
    assert find_processes(tmp_path, DeploymentConfig()) == ["127.0.0.1:7", "127.0.0.1:8"]


def test_a_name_means_every_address_that_it_has() -> None:
    assert addresses("127.0.0.1:7001") == ["127.0.0.1:7001"]
    assert addresses("[::1]:7001") == ["[::1]:7001"]


@pytest.mark.parametrize("text", ["7001", "host:", ":7", "host:x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="process"):
        addresses(text)
