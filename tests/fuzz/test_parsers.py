"""Every parser of outside bytes, fuzzed: what is refused is refused as promised, and nothing else happens.

FUZZ_SECONDS and FUZZ_EXECUTIONS ask for more (whichever is over first ends it); CHAOS_SEED repeats a run; FUZZ_FINDINGS
names a folder for inputs that broke something.
"""

from __future__ import annotations

import os
from math import inf

import pytest

from tests.chaos.evidence import SEED, Evidence
from tests.fuzz.parsers import PARSERS
from tests.fuzz.running import Findings, fuzz

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
EXECUTIONS = int(os.environ.get("FUZZ_EXECUTIONS", "0"))


@pytest.fixture
def evidence(record_property: object) -> Evidence:
    """As tests/chaos has it."""
    return Evidence(record_property)  # type: ignore[arg-type]


@pytest.mark.parametrize("parser", list(PARSERS))
def test_hostile_bytes_are_refused_as_promised(parser: str, evidence: Evidence) -> None:
    """A moment of it, in every run."""
    _hold(parser, evidence, fuzz(lambda: PARSERS[parser](SEED), seconds=0.6))


@pytest.mark.wide
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("parser", list(PARSERS))
def test_hostile_bytes_are_refused_as_promised_for_long(parser: str, evidence: Evidence) -> None:
    """Half a minute each, or as long as the environment says."""
    seconds = SECONDS or (inf if EXECUTIONS else 30.0)
    _hold(parser, evidence, fuzz(lambda: PARSERS[parser](SEED), seconds=seconds, most=EXECUTIONS or inf))


def _hold(parser: str, evidence: Evidence, found: Findings) -> None:
    evidence(
        "fuzz",
        parser,
        executions=found.executions,
        seconds=found.seconds,
        crashes=len(found.crashes),
        refused=found.refused,
        accepted=found.accepted,
        grown_mib=found.grown_mib,
    )
    assert not found.crashes, f"{parser}, CHAOS_SEED={SEED}:\n" + "\n\n".join(found.crashes[:5])
    assert found.accepted, "nothing was taken: what is fuzzed is no parser"
    assert found.refused, "nothing was refused: nothing hostile was drawn"
