"""How a contestant is asked: one process each, a JSON line in, a JSON line out.

Imported by programs that run in other projects' environments: only the standard library here.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    """One combination to do, and what it took."""

    method: str
    files: list[str]
    num_examples: list[int]
    out: str
    params: dict[str, Any]
    threads: int
    engine: str = "auto"  # ours alone has a choice
    current: str = ""  # the file of the model that the updates build on, where it is needed
    losses: list[float] = field(default_factory=list)  # one an update, where they are needed
    num_steps: list[int] = field(default_factory=list)  # one an update, where they are needed
    staleness: list[int] = field(default_factory=list)  # one an update, where they are needed
    rounds: int = 1  # the files are of so many rounds, one after another, as many each
    seconds: float = 0.0  # from the first byte read to the last written
    phases: dict[str, float] = field(default_factory=dict)  # parts of it
    facts: dict[str, Any] = field(default_factory=dict)

    def by_round(self) -> list[range]:
        """Which files are of which round."""
        count = len(self.files) // self.rounds
        return [range(start, start + count) for start in range(0, len(self.files), count)]

    def name_of(self, tensor: str, round_number: int) -> str:
        """What a tensor of the model after that round (from 1) is called in `out`."""
        return tensor if self.rounds == 1 else f"{round_number}/{tensor}"

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens within towards `name`."""
        began = time.perf_counter()
        yield
        self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - began


Method = Callable[[Request], None]


def serve(methods: Mapping[str, Method]) -> None:
    """Do what is asked until nothing more is. An error is the answer, too."""
    # What a library prints must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    answers.write(json.dumps({"ready": sorted(methods)}) + "\n")
    for line in sys.stdin:
        request = Request(**json.loads(line))
        began = time.perf_counter()
        try:
            methods[request.method](request)
        except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"[:300]}) + "\n")
            continue
        answer = {
            "seconds": request.seconds or time.perf_counter() - began,
            "phases": request.phases,
            "facts": request.facts,
        }
        answers.write(json.dumps(answer) + "\n")
