"""The manifests: what Kubernetes and KubeRay accept, and what Shortlist needs of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

import shortlist
from orchestrator.__main__ import main as orchestrator
from ranking_svc.__main__ import main as ranking
from retrieval_svc.__main__ import main as retrieval
from shortlist.cli import cli
from shortlist.config import Config
from shortlist.schema import Schema
from tests.deploy.commands import accept
from tests.deploy.dockerfile import Dockerfile
from tests.deploy.kuberay_schema import check_ray
from tests.deploy.manifests import KUSTOMIZATIONS, Pod, kustomization, pods_of, resources_of
from training.ranking import main as train_ranking
from training.retrieval import main as train_retrieval

OLDEST, NEWEST = "1.30", "1.37"  # preStop's sleep came with 1.30
SERVICES = {"retrieval": retrieval, "ranking": ranking, "orchestrator": orchestrator}
JOBS = {"training.retrieval": train_retrieval, "training.ranking": train_ranking}
RAY = ("RayCluster", "RayJob")
TARGET = re.compile(r"([a-z0-9-]+):(\d+)")

Resource = dict[str, Any]


@pytest.fixture(scope="module")
def base(checkout: Path) -> list[Resource]:
    return resources_of("base", checkout)


@pytest.fixture(scope="module")
def everything(checkout: Path) -> list[Resource]:
    return [one for name in KUSTOMIZATIONS for one in resources_of(name, checkout)]


@pytest.fixture(scope="module")
def pods(everything: list[Resource]) -> list[Pod]:
    return list(pods_of(everything))


@pytest.fixture(scope="module")
def config(checkout: Path) -> Config:
    return Config.load(checkout / "deploy/kubernetes/base/config/shortlist.yaml")


# -- what Kubernetes accepts ----------------------------------------------------------------------


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_accepts_every_resource(version: str, everything: list[Resource]) -> None:
    checked = [check(one, version) for one in everything]
    assert len(checked) == len(everything) > 30


def test_a_misspelt_field_would_be_refused(base: list[Resource]) -> None:
    (shard,) = named(base, "StatefulSet", "retrieval-0")
    container = shard["spec"]["template"]["spec"]["containers"][0]
    wrong = json.loads(json.dumps(shard))
    wrong["spec"]["template"]["spec"]["containers"][0] = {**container, "livenesProbe": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong, NEWEST)


def test_a_misspelt_field_of_a_ray_cluster_would_be_refused(base: list[Resource]) -> None:
    (cluster,) = kind_of(base, "RayCluster")
    with pytest.raises(jsonschema.ValidationError):
        check({**cluster, "spec": {**cluster["spec"], "workerGroupSpec": []}}, NEWEST)
    wrong = json.loads(json.dumps(cluster))
    wrong["spec"]["headGroupSpec"]["template"]["spec"]["container"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong, NEWEST)


@pytest.mark.parametrize("name", ["base", "jobs", "example"])
def test_kustomize_makes_it_into_resources_that_kubernetes_accepts(
    name: str, checkout: Path
) -> None:
    made = rendered(checkout / "deploy/kubernetes" / name)
    for resource in made:
        check(resource, NEWEST)
        assert resource["metadata"].get("namespace", "shortlist") == "shortlist"
    images = [c["image"] for pod in pods_of(made) for c in pod.all_containers]
    assert [image for image in images if not re.fullmatch(r"[a-z./]+:[a-z0-9.-]+", image)] == []
    if name == "example":
        (shard,) = named(made, "StatefulSet", "retrieval-1")
        container = shard["spec"]["template"]["spec"]["containers"][0]
        assert container["resources"]["limits"] == {"memory": "8Gi"}
        (deployment,) = kind_of(made, "Deployment")
        assert deployment["spec"]["replicas"] == 3
        (settings,) = named(made, "ConfigMap", "shortlist")
        mine = Config.model_validate(yaml.safe_load(settings["data"]["shortlist.yaml"]))
        assert mine.ranking.engine == "numpy"
        assert "schema.yaml" in settings["data"]


# -- every pod ------------------------------------------------------------------------------------


def test_every_image_has_a_pinned_version_in_one_place(checkout: Path, pods: list[Pod]) -> None:
    for name in KUSTOMIZATIONS:
        tags = {one["name"]: one["newTag"] for one in kustomization(name, checkout)["images"]}
        used = {c["image"] for p in pods_of(resources_of(name, checkout)) for c in p.all_containers}
        assert used == set(tags)
        for image, tag in tags.items():
            assert tag != "latest"
            if image.startswith("shortlist/"):
                assert tag == shortlist.__version__
                assert (checkout / f"deploy/docker/{image.partition('/')[2]}.Dockerfile").is_file()


def test_every_container_can_do_no_more_than_it_needs(pods: list[Pod]) -> None:
    for pod in pods:
        assert pod.spec["securityContext"]["runAsNonRoot"] is True, pod
        assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, pod
        assert pod.spec["automountServiceAccountToken"] is False, pod
        assert pod.spec["serviceAccountName"] == "shortlist", pod
        for container in pod.all_containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, pod


def test_a_pod_runs_as_the_user_of_its_image(checkout: Path, pods: list[Pod]) -> None:
    for pod in pods:
        for container in pod.all_containers:
            if container["image"].startswith("shortlist/"):
                image = Dockerfile.of(container["image"].partition("/")[2], checkout)
                spec = pod.spec["securityContext"]
                assert f"{spec['runAsUser']}:{spec['runAsGroup']}" == image.one("USER"), pod


def test_every_container_asks_for_the_memory_that_it_may_use(pods: list[Pod]) -> None:
    for pod in pods:
        for container in pod.all_containers:
            resources = container["resources"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"], pod
            assert "cpu" in resources["requests"], pod


def test_no_variable_of_a_service_can_be_taken_for_an_option(pods: list[Pod]) -> None:
    """Kubernetes sets NAME_PORT=tcp://... for a Service NAME; SHORTLIST_PORT is an option."""
    assert [str(pod) for pod in pods if pod.spec["enableServiceLinks"] is not False] == []


def test_every_pod_that_serves_is_probed_in_all_three_ways(pods: list[Pod]) -> None:
    serving = [pod for pod in pods if pod.serves]
    assert len(serving) == 11
    for pod in serving:
        for container in pod.containers:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe]["failureThreshold"] > 1, pod
            # A pod that is busy loses its traffic long before it loses its life.
            assert seconds(container["livenessProbe"]) >= 4 * seconds(container["readinessProbe"])


def test_secrets_come_from_the_environment_and_stand_in_no_file(
    everything: list[Resource], pods: list[Pod]
) -> None:
    assert kind_of(everything, "Secret") == []
    for pod in pods:
        for container in pod.all_containers:
            for variable in container.get("env", []):
                if re.search("PASSWORD|AUTH_TOKEN", variable["name"]):
                    assert variable["valueFrom"].keys() == {"secretKeyRef"}, pod


def test_what_is_mounted_exists(everything: list[Resource], checkout: Path) -> None:
    generated = {one["name"] for one in kustomization("base", checkout)["configMapGenerator"]}
    claims = {one["metadata"]["name"] for one in kind_of(everything, "PersistentVolumeClaim")}
    for pod in pods_of(everything):
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        for container in pod.all_containers:
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            templates = {"data"} if str(pod) == "StatefulSet store" else set()
            assert mounted <= volumes.keys() | templates, pod
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in generated, pod
            if "persistentVolumeClaim" in volume:  # `files` is the team's own
                assert volume["persistentVolumeClaim"]["claimName"] in {*claims, "files"}, pod


# -- the services ---------------------------------------------------------------------------------


def test_commands_are_accepted_by_the_commands(
    pods: list[Pod], checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for pod, tier, container in services(pods):
        for name, value in Dockerfile.of(tier, checkout).environment.items():
            monkeypatch.setenv(name, value)
        taken = SERVICES[tier].make_context(tier, list(container["args"])).params
        seen.add(tier)
        assert taken["host"] == "0.0.0.0", pod
        assert taken["workdir"] == Path("/etc/shortlist"), pod
        assert ports(container) == {"grpc": taken["port"], "metrics": taken["metrics_port"]}, pod
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["grpc"] == {"port": taken["port"]}, pod
    assert seen == set(SERVICES)


def test_tools_and_jobs_are_accepted_by_the_commands(
    everything: list[Resource], pods: list[Pod]
) -> None:
    tools = [c for pod in pods if not pod.serves for c in pod.all_containers if "args" in c]
    lines = [container["args"] for container in tools]
    lines += [one["spec"]["entrypoint"].split() for one in kind_of(everything, "RayJob")]
    names = ["train", "redeploy", "import", "train", "redeploy", "rollback", "python", "python"]
    assert [words[0] for words in lines] == names
    for words in lines:
        if words[:2] == ["python", "-m"]:
            accept(JOBS[words[2]], words[3:])
        else:
            accept(cli.commands[words[0]], words[1:])


def test_there_are_as_many_shards_as_the_configuration_says(
    base: list[Resource], config: Config, pods: list[Pod]
) -> None:
    shards = {
        pod.name: retrieval.make_context("", list(container["args"])).params["shard"]
        for pod, tier, container in services(pods)
        if tier == "retrieval"
    }
    assert shards == {f"retrieval-{n}": n for n in range(config.retrieval.shards)}


def test_shards_differ_in_their_number_only(checkout: Path, config: Config) -> None:
    first = (checkout / "deploy/kubernetes/base/retrieval-0.yaml").read_text("utf-8")
    for shard in range(1, config.retrieval.shards):
        mine = (checkout / f"deploy/kubernetes/base/retrieval-{shard}.yaml").read_text("utf-8")
        expected = first.replace("retrieval-0", f"retrieval-{shard}")
        expected = expected.replace("--shard=0", f"--shard={shard}")
        assert mine == expected.replace("# Shard 0", f"# Shard {shard}")


def test_orchestrators_know_every_replica_of_every_shard_and_of_the_ranker(
    base: list[Resource], pods: list[Pod]
) -> None:
    replicas = {
        f"{name}-{n}"
        for one in kind_of(base, "StatefulSet")
        if (name := one["metadata"]["name"]) != "store"
        for n in range(one["spec"]["replicas"])
    }
    (arguments,) = (c["args"] for _, tier, c in services(pods) if tier == "orchestrator")
    taken = orchestrator.make_context("", list(arguments)).params
    named_shards = [TARGET.findall(group) for group in taken["shards"]]
    for group in named_shards:  # replicas of one shard each
        assert len({name.rpartition("-")[0] for name, _ in group}) == 1
    targets = [
        t for group in (*named_shards, *map(TARGET.findall, taken["rankers"])) for t in group
    ]
    assert sorted(name for name, _ in targets) == sorted(replicas)
    for name, port in targets:
        (service,) = named(base, "Service", name)
        selector = {"statefulset.kubernetes.io/pod-name": name}
        assert service["spec"]["selector"] == selector
        assert service_ports(service) == [int(port)]


def test_a_redeploy_reaches_every_process(
    base: list[Resource], config: Config, pods: list[Pod]
) -> None:
    reached = set()
    for target in config.deployment.processes:
        name, port = TARGET.fullmatch(target).groups()  # type: ignore[union-attr]
        (service,) = named(base, "Service", name)
        assert service["spec"]["clusterIP"] == "None"  # else it would stand for one pod at a time
        assert service_ports(service) == [int(port)]
        reached |= {str(pod) for pod in selected(pods, service["spec"]["selector"])}
    assert reached == {str(pod) for pod, _, _ in services(pods)}


def test_every_service_leads_to_a_port_of_a_pod(base: list[Resource], pods: list[Pod]) -> None:
    sets = {one["metadata"]["name"] for one in kind_of(base, "StatefulSet")}
    for service in kind_of(base, "Service"):
        selector = dict(service["spec"]["selector"])
        if pod_name := selector.pop("statefulset.kubernetes.io/pod-name", None):
            owner, _, number = pod_name.rpartition("-")
            (one,) = named(base, "StatefulSet", owner)
            assert int(number) < one["spec"]["replicas"]
            selector = {"app.kubernetes.io/name": owner}
        reached = selected(pods, selector)
        assert len({str(pod) for pod in reached}) == 1, service["metadata"]["name"]
        exposed = {number for c in reached[0].containers for number in ports(c).values()}
        assert set(service_ports(service)) <= exposed
    assert {one["spec"]["serviceName"] for one in kind_of(base, "StatefulSet")} == sets
    assert sets <= {one["metadata"]["name"] for one in kind_of(base, "Service")}


def test_a_process_has_time_to_end_its_requests(pods: list[Pod], config: Config) -> None:
    for pod, _, container in services(pods):
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pause > 0, pod
        grace = pod.spec["terminationGracePeriodSeconds"]
        assert grace > pause + config.serving.drain_s + config.deployment.drain_s, pod


def test_what_has_replicas_stays_up_while_nodes_are_drained(
    base: list[Resource], pods: list[Pod]
) -> None:
    budgets = {one["metadata"]["name"]: one["spec"] for one in kind_of(base, "PodDisruptionBudget")}
    replicated = [
        one
        for one in (*kind_of(base, "StatefulSet"), *kind_of(base, "Deployment"))
        if one["spec"]["replicas"] > 1
    ]
    assert sorted(budgets) == sorted(one["metadata"]["name"] for one in replicated)
    for one in replicated:
        name, labels = one["metadata"]["name"], one["spec"]["template"]["metadata"]["labels"]
        assert budgets[name]["maxUnavailable"] == 1
        chosen = selected(pods, budgets[name]["selector"]["matchLabels"])
        assert [(pod.name, pod.labels) for pod in chosen] == [(name, labels)]
        (apart,) = one["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"][
            "preferredDuringSchedulingIgnoredDuringExecution"
        ]
        wanted = apart["podAffinityTerm"]["labelSelector"]["matchLabels"]
        assert [pod.name for pod in selected(pods, wanted)] == [name]


def test_selectors_choose_the_pods_of_their_own_template(base: list[Resource]) -> None:
    for one in (*kind_of(base, "StatefulSet"), *kind_of(base, "Deployment")):
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_tiers_read_artifacts_that_they_cannot_change(pods: list[Pod]) -> None:
    for pod, tier, container in services(pods):
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert mounts["/etc/shortlist"]["readOnly"] is True
        if tier == "orchestrator":
            assert "/work" not in mounts
        else:
            assert mounts["/work"]["readOnly"] is True
            assert "--artifacts=/work/artifacts" in container["args"]
        assert "/tmp" in mounts, pod


def test_the_configuration_and_the_schema_load(checkout: Path, config: Config) -> None:
    folder = checkout / "deploy/kubernetes/base/config"
    schema = Schema.load(folder / "schema.yaml")
    assert schema == Schema.load(checkout / "examples/shop/shop.yaml")
    assert config.store.url == "redis://store:6379/0"
    assert Config.load(checkout / "deploy/kubernetes/example/shortlist.yaml").deployment == (
        config.deployment
    )


# -- the network ----------------------------------------------------------------------------------


def test_nobody_is_reached_by_default(base: list[Resource]) -> None:
    (nothing,) = named(base, "NetworkPolicy", "nothing")
    assert nothing["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize(
    ("client", "server", "port"),
    [
        ("orchestrator", "retrieval-0", 7001),
        ("orchestrator", "retrieval-1", 7001),
        ("orchestrator", "ranking", 7101),
        ("orchestrator", "store", 6379),
        ("retrieval-0", "store", 6379),
        ("ranking", "store", 6379),
        ("nightly", "shortlist-ray", 8265),
        ("nightly", "store", 6379),
        ("nightly", "retrieval-0", 7001),
        ("nightly", "ranking", 7101),
        ("nightly", "orchestrator", 7700),
        ("shortlist-ray", "shortlist-ray", 6379),
        ("shortlist-ray", "store", 6379),
        ("import", "store", 6379),
    ],
)
def test_who_has_to_talk_to_whom_may(
    client: str, server: str, port: int, base: list[Resource], pods: list[Pod]
) -> None:
    assert may_talk(base, pod_named(pods, client), pod_named(pods, server), port)


@pytest.mark.parametrize(
    ("client", "server", "port"),
    [
        ("retrieval-0", "retrieval-1", 7001),
        ("retrieval-0", "orchestrator", 7700),
        ("ranking", "shortlist-ray", 8265),
        ("orchestrator", "shortlist-ray", 8265),
        ("orchestrator", "store", 22),
        ("store", "orchestrator", 7700),
    ],
)
def test_who_has_nothing_to_say_to_whom_may_not(
    client: str, server: str, port: int, base: list[Resource], pods: list[Pod]
) -> None:
    assert not may_talk(base, pod_named(pods, client), pod_named(pods, server), port)


# -- training -------------------------------------------------------------------------------------


def test_ray_is_the_version_that_was_tested_and_wants_a_token(
    everything: list[Resource], checkout: Path
) -> None:
    constraints = (checkout / "constraints.txt").read_text("utf-8")
    (version,) = re.findall(r"^ray==(.+)$", constraints, re.MULTILINE)
    clusters = [one["spec"] for one in kind_of(everything, "RayCluster")]
    clusters += [one["spec"]["rayClusterSpec"] for one in kind_of(everything, "RayJob")]
    assert len(clusters) == 3
    for cluster in clusters:
        assert cluster["rayVersion"] == version
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_nightly_job_knows_the_cluster_and_its_token(
    base: list[Resource], pods: list[Pod]
) -> None:
    (cluster,) = kind_of(base, "RayCluster")
    name = cluster["metadata"]["name"]
    (_, container) = pod_named(pods, "nightly").spec["initContainers"]
    assert f"--address=http://{name}-head-svc:8265" in container["args"]
    env = {variable["name"]: variable for variable in container["env"]}
    token = env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert token == {"name": name, "key": "auth_token"}
    assert env["RAY_AUTH_MODE"]["value"] == "token"


def test_one_retrain_at_a_time_and_tools_run_by_hand_only(base: list[Resource]) -> None:
    jobs = {one["metadata"]["name"]: one["spec"] for one in kind_of(base, "CronJob")}
    running = [name for name, spec in jobs.items() if not spec.get("suspend", False)]
    assert running == ["nightly"]
    assert set(jobs) == {"nightly", "import", "train", "redeploy", "rollback"}
    for spec in jobs.values():
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["jobTemplate"]["spec"]["backoffLimit"] == 0


# -- helpers --------------------------------------------------------------------------------------


def check(resource: Resource, version: str) -> Resource:
    if resource["kind"] in RAY:
        check_ray(resource)
        for pod in pods_of([resource]):
            metadata = {"name": pod.name, "labels": pod.labels}
            check(
                {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec}, version
            )
    else:
        kubernetes_validate.validate(resource, version, strict=True)
    return resource


def rendered(folder: Path) -> list[Resource]:
    """What `kubectl kustomize` makes of a folder; skips where neither program is there."""
    if program := shutil.which("kustomize"):
        command = [program, "build", str(folder)]
    elif program := shutil.which("kubectl"):
        command = [program, "kustomize", str(folder)]
    else:
        pytest.skip("neither kustomize nor kubectl is installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def kind_of(resources: list[Resource], kind: str) -> list[Resource]:
    return [one for one in resources if one["kind"] == kind]


def named(resources: list[Resource], kind: str, name: str) -> list[Resource]:
    return [one for one in kind_of(resources, kind) if one["metadata"]["name"] == name]


def services(pods: list[Pod]) -> Iterator[tuple[Pod, str, Resource]]:
    """Every pod of ours that serves, its tier and its container."""
    for pod in pods:
        (container, *_) = pod.containers
        tier = container["image"].removeprefix("shortlist/")
        if tier in SERVICES:
            yield pod, tier, container


def ports(container: Resource) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def service_ports(service: Resource) -> list[int]:
    return [port["port"] for port in service["spec"]["ports"]]


def seconds(probe: Resource) -> int:
    return probe["periodSeconds"] * probe["failureThreshold"]


def pod_named(pods: list[Pod], name: str) -> Pod:
    return next(pod for pod in pods if pod.name == name)


def selected(pods: list[Pod], labels: dict[str, str]) -> list[Pod]:
    return [pod for pod in pods if labels.items() <= pod.labels.items()]


def may_talk(base: list[Resource], client: Pod, server: Pod, port: int) -> bool:
    """What the policies say of a connection within the namespace."""
    return _allowed(base, client, "Egress", server, port) and _allowed(
        base, server, "Ingress", client, port
    )


def _allowed(base: list[Resource], pod: Pod, way: str, peer: Pod, port: int) -> bool:
    policies = [
        one["spec"]
        for one in kind_of(base, "NetworkPolicy")
        if way in one["spec"]["policyTypes"] and matches(one["spec"]["podSelector"], pod)
    ]
    assert policies, "the policy `nothing` selects every pod"
    rules = [rule for spec in policies for rule in spec.get(way.lower(), [])]
    side = "from" if way == "Ingress" else "to"
    return any(
        (side not in rule or any(is_peer(one, peer) for one in rule[side]))
        and ("ports" not in rule or port in {one["port"] for one in rule["ports"]})
        for rule in rules
    )


def is_peer(rule: Resource, pod: Pod) -> bool:
    """Namespaces of our own have no labels here but the one that every namespace has: its name."""
    if names := rule.get("namespaceSelector", {}).get("matchLabels"):
        return names == {"kubernetes.io/metadata.name": "shortlist"}
    return matches(rule["podSelector"], pod)


def matches(selector: Resource, pod: Pod) -> bool:
    labels = selector.get("matchLabels", {})
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if pod.labels.get(expression["key"]) not in expression["values"]:
            return False
    return labels.items() <= pod.labels.items()
