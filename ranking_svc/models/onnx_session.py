"""ONNX Runtime on one thread: scorings run side by side, not each on many threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.errors import ArtifactCorrupt, ShortlistError

__all__ = ["EngineUnavailable", "OnnxSession"]

Floats = npt.NDArray[np.float32]


class EngineUnavailable(ShortlistError):
    """The engine's library is not installed."""

    status_name = "FAILED_PRECONDITION"


class OnnxSession:
    """A graph of one input and one output. Any thread may run it."""

    def __init__(self, path: Path) -> None:
        """Raises `ArtifactCorrupt` or `EngineUnavailable`."""
        # Read at import. Without it ONNX Runtime keeps an id of the machine in the home folder and
        # reports to its maker.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineUnavailable(
                "the onnx engine needs onnxruntime: pip install 'shortlist[ranking]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        try:
            self._session: Any = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own errors have no other root
            raise ArtifactCorrupt(f"{path.name} is no network: {error}") from error
        self._input = self._session.get_inputs()[0].name

    @property
    def shapes(self) -> tuple[int, int]:
        """Widths of the input and of the output."""
        return self._session.get_inputs()[0].shape[1], self._session.get_outputs()[0].shape[1]

    def run(self, rows: Floats) -> Floats:
        """float32 [n, outputs] of float32 [n, inputs]."""
        (answer,) = self._session.run(None, {self._input: rows})
        return answer
