"""What every chaos test may ask for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.evidence import Evidence


@pytest.fixture
def evidence(record_property: Callable[[str, object], None]) -> Evidence:
    """Called with a row, a case and figures: they stand in the summary, and in docs/reliability.md's raw material."""
    return Evidence(record_property)
