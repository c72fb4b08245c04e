"""NVIDIA FLARE on a hub: its own models, contexts and simulator, in an environment of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import Settings
from tests.bridges.other_side import run_tests_there
from tests.hubs import ROOT
from worker.supervisor import Supervisor

PYTHON = ROOT / ".peers/nvflare/bin/python"

pytestmark = [
    pytest.mark.wide,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason=".peers/nvflare is not there: run `make peers`"),
]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with Supervisor(Settings(home=tmp_path / "hub")) as running:
        yield running.settings.home


def test_the_parts_do_in_flares_environment_what_they_promise(home: Path, tmp_path: Path) -> None:
    run_tests_there(PYTHON, "nvflare_side.py", home, tmp_path)


def test_the_example_runs_to_its_end_with_differences() -> None:
    """`make example-nvflare` shows whole models, and kills."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.nvflare", "--rounds", "4", "--params-type", "DIFF"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    found = re.fullmatch(r"nvflare: 4 rounds, 12 updates counted once each, RESULTS_UPLOADED, accuracy (\S+)", last)
    assert found, last
    assert float(found[1]) > 0.85
