from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.__main__ import main as orchestrator
from ranking_svc.__main__ import main as ranking
from retrieval_svc.__main__ import main as retrieval
from shortlist.healthcheck import main as healthcheck
from tests.deploy.dockerfile import IMAGES, PACKAGES, Dockerfile
from tests.deploy.installed import distributions_of
from tests.test_layering import ARROWS

SERVICES = {"retrieval": retrieval, "ranking": ranking, "orchestrator": orchestrator}


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def dockerfile(image: str, checkout: Path) -> Dockerfile:
    return Dockerfile.of(image, checkout)


def test_hadolint_finds_nothing(dockerfile: Dockerfile) -> None:
    done = hadolint(dockerfile.path)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN pip install numpy\n")
    assert {"DL3007", "DL3013"} <= set(re.findall(r"DL\d+", hadolint(bad).stdout))


def test_the_base_image_is_named_by_an_argument_with_a_pinned_tag(dockerfile: Dockerfile) -> None:
    assert {one.split()[0] for one in dockerfile.all("FROM")} == {"${PYTHON_IMAGE}"}
    assert re.fullmatch(r"python:3\.11-[a-z-]+", dockerfile.arguments["PYTHON_IMAGE"])


def test_an_image_holds_the_packages_that_its_process_may_import_and_no_others(
    image: str, dockerfile: Dockerfile
) -> None:
    wanted = {
        "retrieval": {"retrieval_svc", *ARROWS["retrieval_svc"]},
        "ranking": {"ranking_svc", *ARROWS["ranking_svc"]},
        "orchestrator": {"orchestrator", *ARROWS["orchestrator"]},
        "training": {*PACKAGES},
    }
    assert set(dockerfile.packages) == wanted[image]
    rest = set(dockerfile.copied) - set(dockerfile.packages)
    assert rest == {"constraints.txt", "pyproject.toml", "README.md", "LICENSE"}


def test_the_build_sees_what_is_copied_and_nothing_else(
    dockerfile: Dockerfile, checkout: Path
) -> None:
    lines = (checkout / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule.strip("!/") for rule in rules if rule.startswith("!")}
    assert set(dockerfile.copied) <= let_in
    assert let_in == {name for one in IMAGES for name in Dockerfile.of(one, checkout).copied}
    assert all((checkout / name).exists() for name in let_in)


def test_versions_are_the_ones_that_were_tested(dockerfile: Dockerfile) -> None:
    (install,) = (run for run in dockerfile.all("RUN") if "pip install" in run)
    assert "--constraint constraints.txt" in install


def test_a_process_is_nobody_special_and_is_asked_to_stop(dockerfile: Dockerfile) -> None:
    uid, gid = map(int, dockerfile.one("USER").split(":"))
    assert uid >= 10_000
    assert gid >= 10_000
    assert f"--uid {uid}" in " ".join(dockerfile.all("RUN"))
    assert dockerfile.one("STOPSIGNAL") == "SIGTERM"


def test_no_secret_is_built_in(dockerfile: Dockerfile) -> None:
    names = [*dockerfile.arguments, *dockerfile.environment]
    assert [name for name in names if re.search("TOKEN|PASSWORD|SECRET|KEY|URL", name)] == []


@pytest.mark.parametrize("tier", SERVICES)
def test_one_port_is_listened_on_exposed_probed_and_documented(tier: str, checkout: Path) -> None:
    dockerfile = Dockerfile.of(tier, checkout)
    port = dockerfile.one("EXPOSE")
    assert dockerfile.environment["SHORTLIST_PORT"] == port
    assert dockerfile.environment["SHORTLIST_HOST"] == "0.0.0.0"
    assert f"--port {port}" in CliRunner().invoke(SERVICES[tier], ["--help"]).output
    python, option, module, *arguments = dockerfile.health_command
    assert (python, option, module) == ("python", "-m", "shortlist.healthcheck")
    assert healthcheck.make_context("healthcheck", arguments).params["address"].endswith(f":{port}")


@pytest.mark.parametrize("tier", SERVICES)
def test_the_command_takes_its_settings_from_the_image(
    tier: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dockerfile = Dockerfile.of(tier, checkout)
    for name, value in dockerfile.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SHORTLIST_SHARD", "0")
    taken = SERVICES[tier].make_context(tier, []).params
    assert (taken["host"], taken["port"]) == ("0.0.0.0", int(dockerfile.one("EXPOSE")))
    assert taken["workdir"] == Path("/work")
    assert dockerfile.entrypoint[:3] == ["python", "-P", "-m"]
    assert dockerfile.entrypoint[3] == SERVICES[tier].callback.__module__.partition(".")[0]


@pytest.mark.parametrize("tier", SERVICES)
def test_nothing_that_serves_needs_tensorflow_or_ray(tier: str, checkout: Path) -> None:
    needed = distributions_of(Dockerfile.of(tier, checkout).extras, checkout)
    assert {"grpcio", "redis"} <= needed
    assert needed & {"tensorflow", "tf-keras", "keras", "ray", "lightgbm", "onnx"} == set()


def test_training_needs_both(checkout: Path) -> None:
    needed = distributions_of(Dockerfile.of("training", checkout).extras, checkout)
    assert {"tensorflow", "tf-keras", "ray", "lightgbm", "fsspec", "redis"} <= needed


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program, "the development extra brings hadolint"
    return subprocess.run([program, path], capture_output=True, text=True, check=False)
