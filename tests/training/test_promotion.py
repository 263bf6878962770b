"""What becomes of a version at the end of its job, without training one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from shortlist.artifacts import Artifact, ArtifactStore
from shortlist.compatibility import IncompatibleVersions
from shortlist.config import Config, DeploymentConfig
from shortlist.errors import ShortlistError
from shortlist.fleet import NothingServes
from tests.shortlist.fleets import publish_all, publish_ranking, publish_retrieval
from training.promotion import Ending, is_up, promote, put_forward

UNJUDGED = Ending(gate=False)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    publish_all(root)
    return root


@pytest.fixture
def workdir(published: Path, tmp_path: Path) -> Path:
    shutil.copytree(published, tmp_path / "artifacts")
    return tmp_path


@pytest.fixture
def store(workdir: Path) -> ArtifactStore:
    return ArtifactStore(workdir / "artifacts")


@pytest.fixture
def candidate(store: ArtifactStore) -> Artifact:
    return store.open("retrieval", "v2")


def test_a_version_becomes_current_where_nothing_runs(
    workdir: Path, store: ArtifactStore, candidate: Artifact
) -> None:
    put_forward(workdir, Config(), candidate, UNJUDGED)
    assert store.current("retrieval") == "v2"


def test_the_backtest_of_the_same_run_becomes_current_too(store: ArtifactStore) -> None:
    with store.stage("backtest") as staged:
        (staged.path / "x").write_text("x")
        staged.publish(version="b3", meta={})
    promote(store, publish_retrieval(store, "v3", parents={"backtest": "b3"}))
    assert (store.current("backtest"), store.current("retrieval")) == ("b3", "v3")


@pytest.mark.parametrize("where", ["up", "configured"])
def test_a_system_that_runs_keeps_its_version(
    where: str,
    workdir: Path,
    store: ArtifactStore,
    candidate: Artifact,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = Config()
    if where == "up":
        (workdir / "run").mkdir()
        (workdir / "run" / "up.json").write_text(json.dumps({"pid": os.getpid()}))
    else:
        config = Config(deployment=DeploymentConfig(processes=("127.0.0.1:1",)))
    put_forward(workdir, config, candidate, UNJUDGED)
    assert store.current("retrieval") == "v1"
    assert "`shortlist redeploy retrieval` puts it into service" in capsys.readouterr().err


def test_the_first_version_becomes_current_where_a_system_waits_for_it(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    config = Config(deployment=DeploymentConfig(processes=("127.0.0.1:1",)))
    put_forward(tmp_path, config, publish_retrieval(store, "v1"), UNJUDGED)
    assert store.current("retrieval") == "v1"


def test_what_a_killed_system_left_behind_is_no_system(workdir: Path) -> None:
    assert not is_up(workdir)
    (workdir / "run").mkdir()
    (workdir / "run" / "up.json").write_text(json.dumps({"pid": 2**22 + 1}))
    assert not is_up(workdir)


def test_a_version_that_does_not_fit_the_other_tier_is_refused_before_it_is_judged(
    workdir: Path, store: ArtifactStore
) -> None:
    odd = publish_ranking(store, "odd", sources=["another"])
    with pytest.raises(IncompatibleVersions, match="retrieval v1 and ranking odd"):
        put_forward(workdir, Config(), odd, Ending())
    assert store.current("ranking") == "r1"
    put_forward(workdir, Config(), odd, Ending(gate=False, pair_follows=True))
    assert store.current("ranking") == "odd"


def test_a_redeploy_without_a_system_promotes_nothing(
    workdir: Path, store: ArtifactStore, candidate: Artifact
) -> None:
    with pytest.raises(NothingServes) as raised:
        put_forward(workdir, Config(), candidate, Ending(gate=False, redeploy=True))
    assert isinstance(raised.value, ShortlistError)
    assert store.current("retrieval") == "v1"
