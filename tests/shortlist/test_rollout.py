from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.embedded import embedded
from orchestrator.servicer import add_services
from shortlist.artifacts import RolloutUnderWay
from shortlist.compatibility import IncompatibleVersions
from shortlist.config import DeploymentConfig
from shortlist.errors import ArtifactNotFound, InvalidField, TierUnavailable, VersionNotServed
from shortlist.fleet import NothingServes
from shortlist.page import PageRequest
from shortlist.pointer import Rollout
from shortlist.redeploying import Place, redeploy
from shortlist.redeploying import roll_back as roll_back_place
from shortlist.rollout import NoPreviousVersion, Outcome, RolloutStopped
from shortlist.serving import Server, ServerOptions
from tests.shortlist.fleets import (
    QUICK,
    System,
    publish_all,
    publish_ranking,
    publish_retrieval,
    running,
)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    publish_all(root)
    return root


@pytest.fixture
async def system(artifacts: Path, tmp_path: Path) -> AsyncIterator[System]:
    shutil.copytree(artifacts, tmp_path, dirs_exist_ok=True)
    async with running(tmp_path) as system:
        yield system


async def deploy(
    system: System, tier: str, version: str, config: DeploymentConfig = QUICK
) -> Outcome:
    async with system.redeploy(tier, config) as redeploy:
        return await redeploy.deploy(version)


async def roll_back(system: System, tier: str) -> Outcome:
    async with system.redeploy(tier, strict=False) as redeploy:
        return await redeploy.roll_back()


async def test_every_replica_and_every_page_turns_to_the_new_version(system: System) -> None:
    assert (await system.page()).versions.retrieval == "v1"
    outcome = await deploy(system, "retrieval", "v2")
    assert (outcome.version, outcome.before, outcome.kept) == ("v2", "v1", "v1")
    assert (outcome.replicas, outcome.orchestrators) == (4, 1)
    assert system.active() == {"v2"}
    assert system.loaded() == [["v1", "v2"]] * 4
    assert (await system.page()).versions.retrieval == "v2"
    assert system.store.current("retrieval") == "v2"
    assert system.store.rollout("retrieval") is None


async def test_the_ranking_tier_moves_alone(system: System) -> None:
    await deploy(system, "ranking", "r2")
    versions = (await system.page()).versions
    assert (versions.retrieval, versions.ranking) == ("v1", "r2")
    assert system.store.current("ranking") == "r2"


async def test_the_version_before_is_unloaded_where_nobody_wants_it(system: System) -> None:
    config = DeploymentConfig(keep_previous=False, drain_s=0.0)
    assert (await deploy(system, "retrieval", "v2", config)).kept is None
    assert system.loaded() == [["v2"]] * 4


async def test_what_was_kept_for_a_rollback_makes_room_for_the_next_version(
    system: System,
) -> None:
    publish_retrieval(system.store, "v3", seed=2)
    await deploy(system, "retrieval", "v2")
    await deploy(system, "retrieval", "v3")
    assert system.loaded() == [["v2", "v3"]] * 4


async def test_one_replica_that_cannot_load_stops_the_rollout_everywhere(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(version: str) -> None:
        raise VersionNotServed(f"{version}: no room for it")

    monkeypatch.setattr(system.shards[3].versions, "prepare", refuse)
    with pytest.raises(RolloutStopped, match=r"v2: no room for it; v1 serves everywhere") as said:
        await deploy(system, "retrieval", "v2")
    assert system.targets[3] in str(said.value)
    assert system.active() == {"v1"}
    assert system.loaded() == [["v1"]] * 4
    assert system.store.current("retrieval") == "v1"
    assert system.store.rollout("retrieval") is None
    assert (await system.page()).versions.retrieval == "v1"


async def test_a_damaged_version_is_refused_by_the_replicas_and_named(system: System) -> None:
    path = system.store.open("retrieval", "v2").path / "shard-00001" / "keys.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RolloutStopped, match=r"shard-00001/keys\.npy"):
        await deploy(system, "retrieval", "v2")
    assert system.loaded() == [["v1"]] * 4


async def test_nothing_begins_while_a_process_is_away(system: System) -> None:
    await system.stop(2)
    with pytest.raises(TierUnavailable, match=system.targets[2]):
        await deploy(system, "retrieval", "v2")
    assert system.store.rollout("retrieval") is None


async def test_a_version_of_other_shards_does_not_fit(system: System) -> None:
    publish_retrieval(system.store, "wide", shards=3)
    with pytest.raises(InvalidField, match="wide has shards 0 to 2, the processes serve 0, 1"):
        await deploy(system, "retrieval", "wide")


async def test_a_version_that_does_not_exist_is_not_found(system: System) -> None:
    with pytest.raises(ArtifactNotFound, match="v9"):
        await deploy(system, "retrieval", "v9")


async def test_a_pair_that_cannot_work_together_is_refused_before_anything_is_loaded(
    system: System,
) -> None:
    publish_ranking(system.store, "odd", sources=["another"])
    with pytest.raises(IncompatibleVersions, match="retrieval v1 and ranking odd"):
        await deploy(system, "ranking", "odd")
    assert system.loaded("ranking") == [["r1"]]


async def test_two_jobs_do_not_change_the_same_tier(system: System) -> None:
    with system.store.redeploying("retrieval"):
        with pytest.raises(RolloutUnderWay):
            await deploy(system, "retrieval", "v2")
        await deploy(system, "ranking", "r2")  # the other tier is free


async def test_a_fleet_without_the_tier_has_nothing_to_change(system: System) -> None:
    system.targets[4:] = []
    with pytest.raises(NothingServes, match="ranking"):
        await deploy(system, "ranking", "r2")


async def test_a_rollback_returns_to_what_is_still_in_memory(system: System) -> None:
    await deploy(system, "retrieval", "v2")
    outcome = await roll_back(system, "retrieval")
    assert (outcome.version, outcome.before) == ("v1", "v2")
    assert system.active() == {"v1"}
    assert system.store.current("retrieval") == "v1"
    assert (await system.page()).versions.retrieval == "v1"
    with pytest.raises(NoPreviousVersion, match="retrieval"):
        await roll_back(system, "retrieval")


async def test_a_rollback_loads_what_was_unloaded(system: System) -> None:
    await deploy(system, "ranking", "r2", DeploymentConfig(keep_previous=False, drain_s=0.0))
    assert system.loaded("ranking") == [["r2"]]
    await roll_back(system, "ranking")
    assert (await system.page()).versions.ranking == "r1"


async def test_a_rollback_does_not_wait_for_a_process_that_is_away(system: System) -> None:
    await deploy(system, "retrieval", "v2")
    await system.stop(1)
    outcome = await roll_back(system, "retrieval")
    assert outcome.missing == (system.targets[1],)
    assert (await system.page()).versions.retrieval == "v1"


async def test_the_backtest_of_the_same_run_is_promoted_with_retrieval(system: System) -> None:
    for name in ("b2", "b3"):
        with system.store.stage("backtest") as staged:
            (staged.path / "x").write_text(name)
            staged.publish(version=name, meta={})
    publish_retrieval(system.store, "v3", seed=3, parents={"backtest": "b3"})
    await deploy(system, "retrieval", "v3")
    assert system.store.current("backtest") == "b3"


async def test_a_job_that_is_stopped_takes_back_what_it_has_begun(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = asyncio.Event()

    async def never(version: str) -> None:
        loading.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(system.shards[1].versions, "prepare", never)
    job = asyncio.create_task(deploy(system, "retrieval", "v2"))
    await loading.wait()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert system.store.rollout("retrieval") is None
    assert system.active() == {"v1"}


@pytest.mark.parametrize("activated", [0, 1, 3, 4])
async def test_what_a_killed_job_left_half_way_is_finished_by_the_next(
    system: System, activated: int
) -> None:
    await leave_half_way(system, activated)
    assert (await system.page()).versions.retrieval in ("v1", "v2")
    await deploy(system, "retrieval", "v2")
    assert system.active() == {"v2"}
    assert system.store.current("retrieval") == "v2"
    assert (await system.page()).versions.retrieval == "v2"


@pytest.mark.parametrize("activated", [0, 1, 3, 4])
async def test_what_a_killed_job_left_half_way_is_taken_back_by_a_rollback(
    system: System, activated: int
) -> None:
    await leave_half_way(system, activated)
    outcome = await roll_back(system, "retrieval")
    assert outcome.version == "v1"
    assert system.loaded() == [["v1"]] * 4
    assert system.store.rollout("retrieval") is None
    assert (await system.page()).versions.retrieval == "v1"


async def test_another_version_is_deployed_from_what_served_before_the_killed_job(
    system: System,
) -> None:
    publish_retrieval(system.store, "v3", seed=2)
    await leave_half_way(system, 3)
    outcome = await deploy(system, "retrieval", "v3")
    assert outcome.before == "v1"
    assert system.loaded() == [["v1", "v3"]] * 4
    assert [one.version for one in system.store.history("retrieval")] == ["v3", "v1"]


async def leave_half_way(system: System, activated: int) -> None:
    """As a job does that is killed while replicas turn to `v2`."""
    for shard in system.shards:
        await shard.versions.prepare("v2")
    for shard in system.shards[:activated]:
        await shard.versions.activate("v2")
    system.store.set_rollout("retrieval", Rollout(version="v2", before="v1", step="activating"))


async def test_a_system_in_one_process_turns_to_new_versions_too(
    artifacts: Path, tmp_path: Path
) -> None:
    shutil.copytree(artifacts, tmp_path / "artifacts")
    (tmp_path / "schema.yaml").write_text("name: tiny\ninteractions: [{path: events.csv}]\n")
    place = Place(workdir=tmp_path)
    recommender = await embedded(tmp_path)
    server = Server(ServerOptions(drain_s=0))
    add_services(server, recommender)
    async with recommender:
        place = replace(place, processes=(f"127.0.0.1:{await server.start()}",))
        publish_retrieval(place.store, "wide", shards=3)
        for tier, version in (("retrieval", "v2"), ("ranking", "r2")):
            outcome = await redeploy(place, tier, version)
            assert (outcome.version, outcome.replicas, outcome.orchestrators) == (version, 1, 1)
        page = await recommender.recommend(PageRequest(user_id="ann"))
        assert (page.versions.retrieval, page.versions.ranking) == ("v2", "r2")
        with pytest.raises(RolloutStopped, match="wide is divided over 3 shards, this system"):
            await redeploy(place, "retrieval", "wide")
        await roll_back_place(place, "retrieval")
        page = await recommender.recommend(PageRequest(user_id="ann"))
        assert (page.versions.retrieval, page.versions.ranking) == ("v1", "r2")
        await server.stop()
