"""`record_fault(p99_ms=12.0)`: figures that `make faults` shows beside the test's result."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def record_fault(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Attach figures to the running test's row of the fault table, by keyword."""

    def record(**figures: object) -> None:
        for name, value in figures.items():
            record_property(name, value)

    return record
