"""How a test and the plugin that holds rounds for it (held_mean.py) know of each other."""

from __future__ import annotations

from pathlib import Path

AGGREGATOR = "held_mean"
PLUGIN = "tests.chaos.held_mean"

# The environment variable that names a file: while it exists, rounds are held.
VARIABLE = "HELD_ROUNDS"


def holding(hold: Path, pid: int | str) -> Path:
    """What a process leaves beside the file to say that it is in the middle of a round."""
    return hold.with_name(f"{pid}.holding")
