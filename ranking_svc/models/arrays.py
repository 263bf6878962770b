"""Reading a model's arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import ArtifactCorrupt

__all__ = ["load_array", "load_json"]


def load_array(path: Path) -> npt.NDArray[Any]:
    """Raises `ArtifactCorrupt`."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"{_place(path)} is unreadable: {error}") from error


def load_json(path: Path) -> dict[str, Any]:
    """Raises `ArtifactCorrupt`."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"{_place(path)} is unreadable: {error}") from error
    if not isinstance(content, dict):
        raise ArtifactCorrupt(f"{_place(path)} holds no JSON object")
    return content


def _place(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
