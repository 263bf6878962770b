"""The images as far as they can be tried without Docker: what each installs is enough to serve."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist.client import Client
from shortlist.page import PageRequest
from tests.deploy.dockerfile import IMAGES, Dockerfile
from tests.deploy.installed import Installed
from tests.trained import Trained

pytestmark = pytest.mark.slow

NOT_THERE = ("tensorflow", "ray", "lightgbm", "pytest")
ENTRY_POINTS = {
    "retrieval": ["retrieval_svc"],
    "ranking": ["ranking_svc"],
    "orchestrator": ["orchestrator"],
    "training": ["shortlist", "training.retrieval", "training.ranking"],
}


@pytest.fixture(scope="module")
def installed(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Dockerfile, Installed]]:
    made = {}
    for image in IMAGES:
        dockerfile = Dockerfile.of(image, checkout)
        folder = tmp_path_factory.mktemp(image)
        made[image] = dockerfile, Installed(dockerfile, checkout, folder)
    return made


@pytest.mark.parametrize("image", [image for image in IMAGES if image != "training"])
def test_a_serving_image_can_import_neither_tensorflow_nor_ray(
    image: str, installed: dict[str, tuple[Dockerfile, Installed]]
) -> None:
    _, python = installed[image]
    code = f"import importlib.util as u; print([n for n in {NOT_THERE} if u.find_spec(n)])"
    assert run(python, "python", "-c", code).stdout == "[]\n"


@pytest.mark.parametrize("image", IMAGES)
def test_every_entry_point_of_an_image_starts(
    image: str, installed: dict[str, tuple[Dockerfile, Installed]]
) -> None:
    _, python = installed[image]
    for module in ENTRY_POINTS[image]:
        done = run(python, "python", "-P", "-m", module, "--help")
        assert done.returncode == 0, done.stderr
        assert "Usage:" in done.stdout


def test_a_page_is_served_by_the_three_images(
    trained: Trained,
    tmp_path: Path,
    installed: dict[str, tuple[Dockerfile, Installed]],
) -> None:
    """As in deploy/kubernetes: configuration in one folder, artifacts in another, read only."""
    for name in ("shortlist.yaml", "schema.yaml"):
        (tmp_path / name).write_bytes((trained.workdir / name).read_bytes())
    places = ("--workdir", str(tmp_path))
    stored = (*places, "--artifacts", str(trained.artifacts))
    with contextlib.ExitStack() as stack:

        def serve(image: str, *arguments: str) -> str:
            return stack.enter_context(serving(*installed[image], *arguments))

        shards = [serve("retrieval", *stored, "--shard", shard) for shard in "01"]
        ranker = serve("ranking", *stored)
        targets = [word for shard in shards for word in ("--shard", shard)]
        address = serve("orchestrator", *places, *targets, "--ranker", ranker)
        with Client(address) as client:
            page = client.recommend(PageRequest(user_id="", page_size=10))
        assert (len(page.items), page.degradations) == (10, ())
        assert page.coverage.shards_answered == 2


@contextlib.contextmanager
def serving(dockerfile: Dockerfile, python: Installed, *arguments: str) -> Iterator[str]:
    """The image's command on a free port; healthy by the image's own check, and gone in the end."""
    process = subprocess.Popen(
        python.command(*dockerfile.entrypoint, *arguments),
        env=python.environment(SHORTLIST_HOST="127.0.0.1", SHORTLIST_PORT="0"),
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        address = f"127.0.0.1:{json.loads(line)['port']}"
        *check, _ = dockerfile.health_command
        assert run(python, *check, address).returncode == 0
        yield address
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert run(python, *check, address).returncode == 1
    finally:
        process.kill()
        process.communicate()


def run(python: Installed, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        python.command(*words),
        env=python.environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
