"""What a run has shown, in figures: in pytest's summary, and kept where CHAOS_EVIDENCE names a file.

How long a run is comes from CHAOS_SECONDS (12), its draws from CHAOS_SEED: printed, and kept as well.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

SECONDS: Final = float(os.environ.get("CHAOS_SECONDS", "12"))
SEED: Final = int(os.environ.get("CHAOS_SEED", str(time.time_ns() % 1_000_000)))

# The property of a test's report that carries a line to the summary, from whichever process ran the test.
PROPERTY: Final = "evidence"

Figure = int | float | str


class Evidence:
    """Where a test puts down what it has come to, before its assertions: a red run is told of as well."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record

    def __call__(self, row: str, case: str, /, **figures: Figure) -> None:
        """Say what `case` of `row` has come to. `row` is a key of ROWS in tests/chaos/report.py."""
        said = ", ".join(f"{name.replace('_', ' ')} {_plain(figure)}" for name, figure in figures.items())
        self._record(PROPERTY, f"{row} on {case}, seed {SEED}: {said}")
        kept = os.environ.get("CHAOS_EVIDENCE")
        if kept:
            line = {"row": row, "case": case, "seed": SEED, "seconds": SECONDS, "figures": figures}
            with Path(kept).open("a") as file:
                file.write(json.dumps(line) + "\n")


def _plain(figure: Figure) -> str:
    return f"{figure:.2f}".rstrip("0").rstrip(".") if isinstance(figure, float) else str(figure)
