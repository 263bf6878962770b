"""The one place that imports ScaNN."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from shortlist.errors import ShortlistError

__all__ = ["ScannUnavailable", "import_scann"]

_MODULE = "scann.scann_ops.py.scann_ops_pybind"


class ScannUnavailable(ShortlistError):
    """The index needs ScaNN and it is not installed: `pip install shortlist[retrieval]`."""

    status_name = "FAILED_PRECONDITION"


def import_scann() -> ModuleType:
    """ScaNN's numpy interface, without TensorFlow. Raises `ScannUnavailable`.

    `import scann` also imports TensorFlow where that is installed, for operators that we do not
    use: 6 s and 0.5 GB instead of 0.2 s. A None in `sys.modules` makes that import fail, which
    ScaNN takes for "not installed". A TensorFlow that is loaded already is left alone.
    """
    if _MODULE in sys.modules or "tensorflow" in sys.modules:
        return _import()
    sys.modules["tensorflow"] = None  # type: ignore[assignment]
    try:
        return _import()
    finally:
        del sys.modules["tensorflow"]


def _import() -> ModuleType:
    try:
        return importlib.import_module(_MODULE)
    except ImportError as error:
        raise ScannUnavailable(
            f"this index needs ScaNN: pip install shortlist[retrieval] ({error})"
        ) from None
