from __future__ import annotations

from typing import Any

import pytest
import yaml

from training.tuning.yaml_edit import set_value

COMMENTED = """\
# Ours.
retrieval:
  shards: 4   # one a machine
  mf:
    dim: 64  # small
    # as in the paper
    regularization: 5.0
ranking:
  dcn: {hidden: [64], cross_layers: 2}
  arms:
    a:
      ranker: gbdt

slate:
  page_size: 10
"""


def test_a_value_changes_and_every_other_character_stays() -> None:
    changed = set_value(COMMENTED, ("retrieval", "mf", "dim"), 128)
    assert changed == COMMENTED.replace("dim: 64 ", "dim: 128 ")


def test_a_missing_key_is_added_to_its_section() -> None:
    changed = set_value(COMMENTED, ("retrieval", "mf", "confidence"), 7.5)
    assert changed == COMMENTED.replace("    dim: 64", "    confidence: 7.5\n    dim: 64")


def test_a_key_is_added_to_a_section_in_braces() -> None:
    changed = set_value(COMMENTED, ("ranking", "dcn", "structure"), "stacked")
    assert "dcn: {structure: stacked, hidden: [64], cross_layers: 2}" in changed


def test_a_list_in_a_block_is_replaced_whole() -> None:
    text = "dcn:\n  hidden:\n  - 64\n  - 32\n\n  # next\n  epochs: 3\n"
    changed = set_value(text, ("dcn", "hidden"), [256, 128])
    assert yaml.safe_load(changed) == {"dcn": {"hidden": [256, 128], "epochs": 3}}
    assert "# next" in changed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing yet\n",
        "{}",
        "retrieval:\n",
        "retrieval: {}\n",
        "retrieval: null\nslate: {}\n",
        "retrieval:\n  mf:\n  shards: 3\n",
        COMMENTED,
        "# first\n\nslate:\n  page_size: 3",
    ],
)
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("retrieval", "mf", "dim"), 32),
        (("retrieval", "half_life_days"), 3.5),
        (("ranking", "dcn", "hidden"), [128, 64]),
        (("retrieval", "cooccurrence", "weighting"), "bm25"),
        (("retrieval", "half_life_days"), None),
    ],
)
def test_the_rest_of_the_document_means_the_same(
    text: str, path: tuple[str, ...], value: Any
) -> None:
    expected: Any = yaml.safe_load(text) or {}
    section = expected
    for name in path[:-1]:
        section[name] = section.get(name) or {}
        section = section[name]
    section[path[-1]] = value
    changed = set_value(text, path, value)
    assert yaml.safe_load(changed) == expected
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        line for line in changed.splitlines() if line.startswith("#")
    ]
