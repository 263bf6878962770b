"""The documents tell the truth: links lead somewhere, schemas load, commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from shortlist.cli import cli
from shortlist.schema import Schema

DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/schema.md")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    for block in blocks(text, "sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["shortlist"]:
                yield words[1:]


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


def test_every_make_target_that_a_document_names_exists(checkout: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (checkout / "Makefile").read_text("utf-8"), re.M))
    for document in DOCUMENTS:
        text = (checkout / document).read_text("utf-8")
        named = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
        assert set(named) <= targets
