"""Node.js, and the programs of this folder run by it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
_WHEELS_NODE: Final = FOLDER.parent.parent / ".peers/node/bin/node"
_LONGEST_SECONDS: Final = 300.0


def find_node() -> str | None:
    """The Node.js that `make peers` installs, else the one of this machine."""
    return str(_WHEELS_NODE) if _WHEELS_NODE.exists() else shutil.which("node")


def words_of(given: Mapping[str, object]) -> list[str]:
    """The options as a command line has them."""
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def run_program(node: str, program: str, arguments: Sequence[str], variables: Mapping[str, str]) -> str:
    """What the program says; it knows of the hub what `variables` say. Raises: CalledProcessError, TimeoutExpired."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("FEDQUEUE_")}
    command = [node, str(FOLDER / program), *arguments]
    done = subprocess.run(
        command,
        env=outside | dict(variables),
        stdout=subprocess.PIPE,
        text=True,
        timeout=_LONGEST_SECONDS,
        check=True,
    )
    return done.stdout
