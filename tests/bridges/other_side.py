"""Tests that run in another project's environment, against a hub that runs in ours."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.hubs import ROOT, environment


def run_tests_there(python: Path, file: str, home: Path, folder: Path, **variables: str) -> None:
    """`pytest FILE` with that interpreter: of this repository it sees what others install, and nothing else."""
    packages = folder / "packages"
    packages.mkdir()
    (packages / "fedqueue").symlink_to(ROOT / "fedqueue")
    pytest = ["-m", "pytest", "--noconftest", "-c", "/dev/null", "-p", "no:cacheprovider"]
    shown = ["--tb=short", "--show-capture=no", "--rootdir", str(folder)]
    done = subprocess.run(
        [str(python), *pytest, *shown, str(ROOT / "tests/bridges" / file)],
        cwd=folder,
        env=environment(home, PYTHONPATH=str(packages), **variables),
        capture_output=True,
        text=True,
        timeout=220,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert re.search(r"\b\d+ passed", done.stdout), done.stdout
