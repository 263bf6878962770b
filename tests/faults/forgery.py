"""Artifacts as an attacker would make them: every digest right, the content wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shortlist.artifacts import Artifact, ArtifactStore

Document = dict[str, Any]


def an_artifact(store: ArtifactStore, tier: str = "ranking", version: str = "v1") -> Artifact:
    with store.stage(tier) as staged:
        (staged.path / "engine").mkdir()
        (staged.path / "engine" / "weights.bin").write_bytes(b"weights")
        (staged.path / "names.txt").write_text("names")
        return staged.publish(version=version, meta={})


def forge(folder: Path, change: Callable[[Document], None]) -> None:
    """Change the manifest and make its digest right again."""
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    del document["digest"]
    change(document)
    document["digest"] = hashlib.sha256(_render(document)).hexdigest()
    path.write_bytes(_render(document))


def list_file(folder: Path, name: str, content: bytes) -> None:
    """Put a file into a published artifact, and into its manifest."""
    (folder / name).write_bytes(content)
    forge(folder, lambda document: document["files"].update({name: entry_of(content)}))


def entry_of(content: bytes) -> Document:
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def _render(document: Document) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"
