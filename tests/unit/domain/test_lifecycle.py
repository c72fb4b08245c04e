"""The status of a run goes forward only (DESIGN 4.2)."""

from __future__ import annotations

from itertools import product

import pytest

from connectors.records import ModelStatus
from tasks.domain.lifecycle import may_become

S = ModelStatus
_CHAIN = [S.PENDING, S.INITIATED, S.PREPARED, S.RUNNING]
_OVER = [S.RESULTS_UPLOADED, S.RESULTS_UPLOAD_FAILED, S.ERROR, S.STOPPED]


@pytest.mark.parametrize(("status", "to"), list(product(S, S)))
def test_a_status_moves_forward_or_out_and_nowhere_else(status: ModelStatus, to: ModelStatus) -> None:
    """All 64 pairs: a late INITIATED once un-stopped a model (DESIGN 11)."""
    if status in _OVER:
        expected = False
    elif to in _OVER:
        expected = True
    else:
        expected = _CHAIN.index(to) > _CHAIN.index(status)
    assert may_become(status, to) is expected
