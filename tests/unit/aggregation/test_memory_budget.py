"""The budget is what a process really takes: measured from outside, as benchmarks/memory.py does it in full."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.memory import MIB, QUICK, Case, measure


@pytest.fixture(autouse=True)
def _nothing_large_is_kept(tmp_path: Path) -> Iterator[None]:
    """pytest keeps the folders of three runs, and these are hundreds of megabytes each."""
    yield
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.aggregator)
def test_a_combination_keeps_to_its_budget(tmp_path: Path, case: Case) -> None:
    """The updates together are many times larger; so is, of fedavg's, a single one of them."""
    model = 4 * case.parameters
    assert case.updates * model > 2 * case.budget_mib * MIB
    found = measure(tmp_path, case)
    assert found.bytes_read >= case.updates * model
    assert found.samples > 5
    assert found.is_within_budget, found


def test_a_model_of_more_than_ten_budgets_is_among_them() -> None:
    assert any(4 * case.parameters > 10 * case.budget_mib * MIB for case in QUICK)


def test_memory_that_is_taken_is_seen(tmp_path: Path) -> None:
    """A larger budget is used, for larger chunks: if this were not seen, nothing above would mean anything."""
    small, large = (measure(tmp_path / str(budget), Case("fedadam", 5, 4 * MIB, budget)) for budget in (2, 256))
    assert large.engine_mib > 16
    assert small.engine_mib < large.engine_mib / 2
