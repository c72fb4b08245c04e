"""Which guards nobody misses."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.evidence import Evidence
from tests.chaos.switches.switch import Switch
from tests.chaos.switches.trial import Trials


def survivors(switches: Sequence[Switch], case: str, evidence: Evidence, seconds: float = 120.0) -> list[str]:
    """Each switch whose tests do not turn red as they should, and why; `seconds` are what one trial may take."""
    with Trials(seconds) as trials:
        complaints = [trials.of(switch).complaint(switch) for switch in switches]
    survived = [complaint for complaint in complaints if complaint]
    evidence(
        "mutations",
        case,
        switches=len(switches),
        red=len(switches) - len(survived),
        survived=len(survived),
    )
    return survived
