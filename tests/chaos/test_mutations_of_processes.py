"""The mutation check (test_mutations.py) of guards whose tests need servers and processes: as long as the others."""

from __future__ import annotations

from typing import Final

import pytest

from tests.chaos.evidence import Evidence
from tests.chaos.switches.inventory import WIDE
from tests.chaos.switches.survivors import survivors

# Such a test turns red when it has waited in vain: a minute, beside the starts and ends of what it runs.
_SECONDS: Final = 400.0


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_without_any_one_guard_of_servers_and_processes_its_test_is_red(evidence: Evidence) -> None:
    assert len(WIDE) > 20
    assert survivors(WIDE, "locks, servers and processes", evidence, _SECONDS) == []
