from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

import shortlist
from orchestrator.__main__ import main as orchestrator
from ranking_svc.__main__ import main as ranking
from retrieval_svc.__main__ import main as retrieval
from shortlist.cli import cli
from shortlist.config import Config
from tests.deploy.commands import accept
from tests.deploy.dockerfile import Dockerfile

SERVING = {"retrieval": retrieval, "ranking": ranking, "orchestrator": orchestrator}

Service = dict[str, Any]


@pytest.fixture(scope="module")
def text(checkout: Path) -> str:
    return (checkout / "deploy/compose.yaml").read_text("utf-8")


@pytest.fixture(scope="module")
def services(text: str) -> dict[str, Service]:
    return yaml.safe_load(text)["services"]


def parse(text: str) -> compose_spec.PyCompose:
    """Raises `ValueError` for what the Compose specification does not know."""
    filled_in = re.sub(r"\$\{[A-Z_]+:(?:-([^}]*)|\?[^}]*)\}", lambda m: m[1] or "/given", text)
    plain = yaml.safe_dump(yaml.safe_load(filled_in))  # with `<<` resolved
    parsed = compose_spec.PyCompose.from_yaml(plain)
    parsed.validate()
    return parsed


def test_it_is_what_the_compose_specification_says(text: str) -> None:
    assert parse(text).name == "shortlist"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("start_period", "start_perriod"), ("service_healthy", "service_helthy")],
)
def test_a_misspelt_key_or_condition_would_be_refused(text: str, right: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        parse(text.replace(right, wrong))


def test_every_image_has_a_pinned_version_that_a_variable_can_change(
    services: dict[str, Service], checkout: Path
) -> None:
    for name, service in services.items():
        image, variable, tag = re.fullmatch(
            r"([a-z/]+):\$\{([A-Z_]+):-([a-z0-9.-]+)\}", service["image"]
        ).groups()  # type: ignore[union-attr]
        assert tag != "latest"
        if image.startswith("shortlist/"):
            assert (variable, tag) == ("SHORTLIST_TAG", shortlist.__version__), name
            if "build" in service:
                path = checkout / "deploy" / service["build"]["context"]
                built = path / service["build"]["dockerfile"]
                assert built.resolve() == Dockerfile.of(tier_of(service), checkout).path
    built_images = {service["image"] for service in services.values() if "build" in service}
    ours = {service["image"] for name, service in services.items() if name != "store"}
    assert built_images == ours


def test_every_process_can_do_no_more_than_it_needs(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        if tier_of(service) in SERVING:
            assert all(volume.endswith(":/work:ro") for volume in service["volumes"]), name


def test_a_process_has_time_to_end_its_requests(services: dict[str, Service]) -> None:
    config = Config()
    needed = config.serving.drain_s + config.deployment.drain_s
    for service in services.values():
        assert int(service["stop_grace_period"].removesuffix("s")) > needed


def test_commands_are_accepted_by_the_commands(
    services: dict[str, Service], checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = []
    for service in services.values():
        tier = tier_of(service)
        if tier in SERVING:
            for variable, value in Dockerfile.of(tier, checkout).environment.items():
                monkeypatch.setenv(variable, value)
            taken = SERVING[tier].make_context(tier, list(service.get("command", []))).params
            assert (taken["host"], taken["workdir"]) == ("0.0.0.0", Path("/work"))
            shards += [taken["shard"]] if tier == "retrieval" else []
        elif tier == "training" and "entrypoint" not in service:
            command, *arguments = service["command"]
            if command != "--help":
                accept(cli.commands[command], arguments, given=("workdir",))
    assert shards == list(range(Config().retrieval.shards))


def test_addresses_are_those_of_the_services(services: dict[str, Service], checkout: Path) -> None:
    (redeploy,) = re.findall(r"--process=(\S+)", " ".join(services["redeploy"]["command"]))
    known = re.findall(r"=(\S+)", " ".join(services["orchestrator"]["command"]))
    targets = {
        f"{name}:{Dockerfile.of(tier, checkout).one('EXPOSE')}"
        for name, service in services.items()
        if (tier := tier_of(service)) in SERVING
    }
    assert set(redeploy.split(",")) == targets
    assert {*known, "orchestrator:7700"} == targets
    (published,) = services["orchestrator"]["ports"]
    assert published.startswith("127.0.0.1:")
    assert published.endswith(":7700")


def test_what_waits_for_health_waits_for_something_that_has_a_check(
    services: dict[str, Service], checkout: Path
) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            waited = services[other]
            if how["condition"] == "service_healthy":
                image_has_one = tier_of(waited) in SERVING
                assert "test" in waited.get("healthcheck", {}) or image_has_one, (name, other)
            else:
                assert how["condition"] == "service_completed_successfully"
                assert waited["restart"] == "no"  # else it never completes
            assert set(waited.get("profiles", [])) <= set(service.get("profiles", []))


def test_variables_are_explained_and_secrets_have_no_default(text: str, checkout: Path) -> None:
    example = (checkout / "deploy/example.env").read_text("utf-8")
    explained = dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.MULTILINE))
    used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text))
    assert used == set(explained)
    secrets = {name for name in used if re.search("PASSWORD|TOKEN$", name)} - {"VALKEY_TAG"}
    assert secrets == {"SHORTLIST_STORE_PASSWORD", "RAY_AUTH_TOKEN"}
    for name in secrets:
        assert explained[name] == ""
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text
    assert "/deploy/.env" in (checkout / ".gitignore").read_text("utf-8").splitlines()


def tier_of(service: Service) -> str:
    return service["image"].partition(":")[0].removeprefix("shortlist/")
