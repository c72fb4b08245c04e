"""Flower on a hub: its own strategies, messages and simulation, in an environment of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import Settings
from tests.bridges.other_side import run_tests_there
from tests.hubs import ROOT
from worker.supervisor import Supervisor

PROGRAMS = ROOT / ".peers/flower/bin"

pytestmark = [
    pytest.mark.wide,
    pytest.mark.slow,
    pytest.mark.skipif(not (PROGRAMS / "flwr").exists(), reason=".peers/flower is not there: run `make peers`"),
]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with Supervisor(Settings(home=tmp_path / "hub")) as running:
        yield running.settings.home


def test_a_strategy_does_in_flowers_environment_what_it_promises(home: Path, tmp_path: Path) -> None:
    run_tests_there(PROGRAMS / "python", "flower_side.py", home, tmp_path, FLWR_TELEMETRY_ENABLED="0")
