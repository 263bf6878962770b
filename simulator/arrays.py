"""The array types that the simulator passes around."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]  # one row an entity, one column a latent dimension
Mask = npt.NDArray[np.bool_]
