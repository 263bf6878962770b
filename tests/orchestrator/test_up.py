"""Which processes make up a system, and what they are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.supervisor import Child, ChildSpec
from orchestrator.up import Plan, waves_of


def plan(**sizes: int | None) -> Plan:
    return Plan(
        workdir=Path("/w"),
        host="0.0.0.0",
        **sizes,
    )


def serving(spec: ChildSpec, port: int) -> Child:
    child = Child(spec, Path("/dev/null"))
    child.port = port
    return child


def after(spec: ChildSpec, option: str) -> list[str]:
    words = spec.command
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def test_tiers_start_first_one_process_for_each_replica() -> None:
    tiers, _ = waves_of(plan(shards=2, replicas=2, rankers=3))
    assert [spec.name for spec in tiers([])] == [
        "retrieval-0-0",
        "retrieval-0-1",
        "retrieval-1-0",
        "retrieval-1-1",
        "ranking-0",
        "ranking-1",
        "ranking-2",
    ]


def test_tiers_serve_what_is_current_on_this_machine_only() -> None:
    tiers, _ = waves_of(plan(shards=2))
    shard_0, shard_1, ranker = tiers([])
    assert after(shard_0, "--shard") == ["0"]
    assert after(shard_1, "--shard") == ["1"]
    assert after(shard_1, "--shards") == ["2"]
    assert after(shard_1, "--version") == after(ranker, "--version") == []
    assert {spec.host for spec in (shard_0, shard_1, ranker)} == {"127.0.0.1"}
    assert {spec.port for spec in (shard_0, shard_1, ranker)} == {0}


def test_a_version_can_be_pinned() -> None:
    pinned = replace(plan(), retrieval_version="v-retrieval", ranking_version="v-ranking")
    shard, *_, ranker = waves_of(pinned)[0]([])
    assert after(shard, "--version") == ["v-retrieval"]
    assert after(ranker, "--version") == ["v-ranking"]


def test_orchestrators_know_each_shards_replicas_and_all_rankers() -> None:
    tiers, orchestrators = waves_of(plan(shards=2, replicas=2, rankers=2))
    children = [serving(spec, port) for port, spec in enumerate(tiers([]), start=1)]
    (only,) = orchestrators(children)
    assert after(only, "--shard") == ["127.0.0.1:1,127.0.0.1:2", "127.0.0.1:3,127.0.0.1:4"]
    assert after(only, "--ranker") == ["127.0.0.1:5", "127.0.0.1:6"]


def test_ten_shards_are_told_apart_from_one() -> None:
    tiers, orchestrators = waves_of(plan(shards=11))
    children = [serving(spec, port) for port, spec in enumerate(tiers([]), start=100)]
    (only,) = orchestrators(children)
    assert after(only, "--shard") == [f"127.0.0.1:{port}" for port in range(100, 111)]


def test_orchestrators_count_on_from_the_port_and_listen_where_asked() -> None:
    _, orchestrators = waves_of(plan(orchestrators=3, port=7700))
    specs = orchestrators([])
    assert [spec.port for spec in specs] == [7700, 7701, 7702]
    assert {spec.host for spec in specs} == {"0.0.0.0"}


def test_port_zero_lets_every_orchestrator_take_a_free_one() -> None:
    _, orchestrators = waves_of(plan(orchestrators=2, port=0))
    assert [spec.port for spec in orchestrators([])] == [0, 0]


def test_clients_on_this_machine_reach_a_child_that_listens_everywhere() -> None:
    _, orchestrators = waves_of(plan(port=7700))
    assert serving(orchestrators([])[0], 7700).address == "127.0.0.1:7700"


def test_every_process_has_a_metrics_port_of_its_own() -> None:
    tiers, orchestrators = waves_of(
        plan(shards=2, replicas=2, rankers=2, orchestrators=2, metrics_port=9100)
    )
    specs = [*orchestrators([]), *tiers([])]
    assert [spec.metrics_port for spec in specs] == list(range(9100, 9108))


def test_metrics_ports_may_be_any_free_ones_or_none() -> None:
    for port in (0, None):
        tiers, orchestrators = waves_of(plan(shards=2, metrics_port=port))
        assert {spec.metrics_port for spec in (*tiers([]), *orchestrators([]))} == {port}
