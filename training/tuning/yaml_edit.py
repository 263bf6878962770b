"""Change single values of a YAML file in place, so that its comments and its order stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

__all__ = ["set_value"]


def set_value(text: str, path: Sequence[str], value: Any) -> str:
    """The document with `value` at `path`; sections that are missing are added.

    A section's new key stands before its others. Everything else keeps every character.
    """
    root = yaml.compose(text, yaml.SafeLoader)
    if root is None:
        return f"{text.rstrip()}\n{_dump(_nested(path, value))}".lstrip("\n")
    node, rest = _deepest(root, path)
    if not rest or not isinstance(node, yaml.MappingNode) or not node.value:
        # The place exists, or is an empty section: what stands there gives way.
        return _replace(text, node, _flow(_nested(rest, value)))
    at = node.value[0][0].start_mark
    entry = f"{rest[0]}: {_flow(_nested(rest[1:], value))}"
    gap = ", " if node.flow_style else "\n" + " " * at.column
    return text[: at.index] + entry + gap + text[at.index :]


def _deepest(root: yaml.Node, path: Sequence[str]) -> tuple[yaml.Node, Sequence[str]]:
    """The node that is nearest to the path's end, and what of the path is left."""
    node = root
    for depth, name in enumerate(path):
        found = _child(node, name)
        if found is None:
            return node, path[depth:]
        node = found
    return node, ()


def _child(node: yaml.Node, name: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == name:
                return value
    return None


def _replace(text: str, node: yaml.Node, new: str) -> str:
    before, after = text[: node.start_mark.index], text[_end(node) :]
    # On a line of its own a list may stand right below its key; in brackets it may not.
    own_line = not before.rpartition("\n")[2].strip()
    gap = "  " if own_line else "" if before[-1].isspace() else " "
    return before + gap + new + after


def _end(node: yaml.Node) -> int:
    """Where the value ends: a block's own mark lies behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _nested(path: Sequence[str], value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


def _flow(value: Any) -> str:
    dumped = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return dumped.strip().removesuffix("...").strip()


def _dump(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=False, sort_keys=False)
