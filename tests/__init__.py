"""Tests mirror the source tree; `tests/contracts` holds suites that several classes pass."""
