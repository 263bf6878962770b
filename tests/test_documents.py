"""The documents tell the truth: links lead somewhere, schemas load, commands exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from pydantic import BaseModel

from benchmarks.published import main as published
from ranking_svc.models import TRAINABLE
from retrieval_svc.sources import SOURCES
from shortlist.cli import cli
from shortlist.config import (
    ArmConfig,
    CanaryConfig,
    Config,
    ContentConfig,
    CooccurrenceConfig,
    DcnConfig,
    DeploymentConfig,
    GateConfig,
    GbdtConfig,
    MfConfig,
    RankingConfig,
    RetrievalConfig,
    ServingConfig,
    ShadowConfig,
    SlateConfig,
    StoreConfig,
    TrainingConfig,
    TwoTowerConfig,
)
from shortlist.schema import Schema

DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/configuration.md",
    "docs/deploy.md",
    "docs/evaluation.md",
    "docs/experiments.md",
    "docs/filters.md",
    "docs/live.md",
    "docs/operations.md",
    "docs/performance.md",
    "docs/published.md",
    "docs/redeploy.md",
    "docs/schema.md",
    "docs/sizing.md",
    "docs/training.md",
    "docs/tuning.md",
)
SECTIONS: dict[str, type[BaseModel]] = {  # of docs/configuration.md
    "retrieval": RetrievalConfig,
    "retrieval.two_tower": TwoTowerConfig,
    "retrieval.mf": MfConfig,
    "retrieval.cooccurrence": CooccurrenceConfig,
    "retrieval.content": ContentConfig,
    "ranking": RankingConfig,
    "ranking.dcn": DcnConfig,
    "ranking.gbdt": GbdtConfig,
    "ranking.arms": ArmConfig,
    "training": TrainingConfig,
    "slate": SlateConfig,
    "serving": ServingConfig,
    "store": StoreConfig,
    "gate": GateConfig,
    "deployment": DeploymentConfig,
    "canary": CanaryConfig,
    "shadow": ShadowConfig,
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every row of every table, without the code marks of the first two."""
    for line in re.findall(r"^\|(.*)\|$", text, re.MULTILINE):
        cells = [cell.strip() for cell in line.split("|")]
        yield [cells[0].strip("`"), cells[1].strip("`"), *cells[2:]]


def section(text: str, title: str) -> str:
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.DOTALL)
    return str(found)


def commands(text: str) -> Iterator[list[str]]:
    for block in blocks(text, "sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["shortlist"]:
                yield words[1:]


def published_commands(text: str) -> Iterator[list[str]]:
    for block in blocks(text, "sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:3] == ["python", "-m", "benchmarks.published"]:
                yield words[3:]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_to_a_file_leads_somewhere(document: str, checkout: Path) -> None:
    page = checkout / document
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8"))
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_has_the_options_that_are_shown(document: str, checkout: Path) -> None:
    for words in commands((checkout / document).read_text("utf-8")):
        command: click.Command = cli
        rest = list(words)
        while isinstance(command, click.Group):
            command = command.commands[rest.pop(0)]
        known = {option for param in command.params for option in param.opts}
        assert {word for word in rest if word.startswith("--")} <= known, words


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_benchmark_has_the_protocol_and_options_that_are_shown(
    document: str, checkout: Path
) -> None:
    known = {option for param in published.params for option in param.opts}
    for protocol, *rest in published_commands((checkout / document).read_text("utf-8")):
        assert (checkout / f"benchmarks/protocols/{protocol}.yaml").exists()
        assert {word for word in rest if word.startswith("--")} <= known


def test_the_readme_lists_every_source_ranker_and_command(checkout: Path) -> None:
    named = [cells[0] for cells in rows((checkout / "README.md").read_text("utf-8"))]
    assert [name for name in named if name in SOURCES] == list(SOURCES)
    rankers = {*TRAINABLE, "ensemble", "none"}
    assert {name for name in named if name in rankers} == rankers
    shown = {name.split()[1] for name in named if name.startswith("shortlist ")}
    assert shown == set(cli.commands)


def test_the_schema_in_the_readme_is_the_one_of_the_example(checkout: Path) -> None:
    (shown,) = blocks((checkout / "README.md").read_text("utf-8"), "yaml")
    assert shown == (checkout / "examples/shop/shop.yaml").read_text("utf-8")


def test_the_schemas_of_the_reference_load(checkout: Path) -> None:
    first, *parts = blocks((checkout / "docs/schema.md").read_text("utf-8"), "yaml")
    Schema.parse(first)
    for part in parts:
        Schema.of({**yaml.safe_load(first), **yaml.safe_load(part)})


def test_the_reference_names_every_key_of_a_table_and_a_feature(checkout: Path) -> None:
    text = (checkout / "docs/schema.md").read_text("utf-8")
    definitions = Schema.model_json_schema()["$defs"]
    for part in ("InteractionTable", "EntityTable", "Feature", "EventType", "SplitPlan"):
        for key in definitions[part]["properties"]:
            assert key in text, f"{part}.{key}"


@pytest.mark.parametrize("title", SECTIONS)
def test_the_reference_of_the_configuration_has_every_field_and_its_default(
    title: str, checkout: Path
) -> None:
    text = section((checkout / "docs/configuration.md").read_text("utf-8"), title)
    shown = {cells[0]: cells[1] for cells in rows(text)}
    defaults = SECTIONS[title]().model_dump(mode="json")
    for name, default in defaults.items():
        if f"{title}.{name}" not in SECTIONS and shown[name] != "see below":
            assert yaml.safe_load(shown[name]) == default, name
    known = {"field", "---", "source", *defaults, *(SOURCES if title == "retrieval" else ())}
    assert shown.keys() <= known


def test_the_reference_of_the_configuration_has_the_default_of_every_source(
    checkout: Path,
) -> None:
    text = section((checkout / "docs/configuration.md").read_text("utf-8"), "retrieval")
    config = RetrievalConfig()
    shown = {cells[0]: cells[1:3] for cells in rows(text) if cells[0] in SOURCES}
    assert {name: int(quota) for name, (quota, _) in shown.items()} == config.quotas
    sure = {name: int(count) for name, (_, count) in shown.items() if count}
    assert sure == config.guaranteed


@pytest.mark.parametrize(
    "document", ["ARCHITECTURE.md", "docs/configuration.md", "docs/experiments.md"]
)
def test_every_configuration_that_is_shown_loads(document: str, checkout: Path) -> None:
    for block in blocks((checkout / document).read_text("utf-8"), "yaml"):
        Config.model_validate(yaml.safe_load(block))


def test_every_file_that_is_no_code_is_part_of_the_installed_package(checkout: Path) -> None:
    settings = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packed = settings["package-data"]
    for name in settings["packages"]["find"]["include"]:
        for path in (checkout / name.rstrip("*")).rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc"):
                continue
            home = next(one for one in path.parents if (one / "__init__.py").exists())
            package = ".".join(home.relative_to(checkout).parts)
            inside = path.relative_to(home)
            assert any(inside.match(p) for p in (*packed["*"], *packed.get(package, []))), path


def test_every_make_target_that_a_document_names_exists(checkout: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (checkout / "Makefile").read_text("utf-8"), re.M))
    for document in DOCUMENTS:
        text = (checkout / document).read_text("utf-8")
        named = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
        assert set(named) <= targets
