"""Memory: the budget holds for any number and size of updates, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Anonymous memory alone (RssAnon): the mapped files are the page cache's, and go when somebody needs the room.
PROGRAM = """
import json, mmap, os, sys, threading, time
import numpy as np
from tasks.aggregation import UpdateStream, combine_streams
from tasks.aggregation.kernels.compiled import load

aggregator, params, path, count, size, budget = json.loads(sys.argv[1])

class Mapped:
    tensors = (("w", (size,), "F32"),)
    def __init__(self):
        with open(path, "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    def read(self, name, start, stop):
        return np.frombuffer(self.map, np.float32, stop - start, 4 * start)

class State:
    tensors = (("m/w", (size,), "F64"), ("v/w", (size,), "F64"), ("t", (), "F64"))
    def read(self, name, start, stop):
        return np.ones(stop - start)

class Nowhere:
    def write(self, name, start, values):
        pass

def anonymous():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon"))

sources = [UpdateStream(Mapped(), num_examples=1.0 + i) for i in range(count)]
given = dict(current=sources[0].source, engine="numba", threads=2, state_sink=Nowhere())
# Once over a few elements: the compiler's own memory is not the engine's.
Mapped.tensors = (("w", (2048,), "F32"),)
combine_streams(aggregator, params, sources[:5], Nowhere(), **given)
Mapped.tensors = (("w", (size,), "F32"),)
before, peak, done = anonymous(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
report = combine_streams(
    aggregator, params, sources, Nowhere(), budget_bytes=budget,
    state=State() if aggregator == "fedadam" else None, **given,
)
done.set()
watcher.join()
print(json.dumps({"grew": max(peak, anonymous()) - before, "read": report.bytes_read}))
"""

MIB = 1 << 20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    ("aggregator", "params"),
    [
        ("fedavg", {}),
        ("median", {}),
        ("krum", {"num_byzantine": 1}),
        ("fedadam", {}),
        ("geometric_median", {"max_iter": 2}),
    ],
)
@pytest.mark.parametrize(("count", "size"), [(10, 4_000_000), (200, 200_000)], ids=["few large", "many small"])
def test_anonymous_memory_stays_within_the_budget(
    tmp_path: Path, aggregator: str, params: dict[str, Any], count: int, size: int
) -> None:
    """A model of 16 MB and ten times its size in updates go through 16 MiB; in float64 the sum alone is 32 MB."""
    budget = 16 * MIB
    path = tmp_path / "update"
    path.write_bytes(bytes(4 * size))
    given = json.dumps([aggregator, params, str(path), count, size, budget])
    ran = subprocess.run([sys.executable, "-c", PROGRAM, given], capture_output=True, text=True, check=True)
    measured = json.loads(ran.stdout)
    assert measured["read"] >= 4 * size * count * (1 if aggregator != "krum" else 1.005)
    # Two threads' stacks and the allocator's slack come on top.
    assert measured["grew"] < budget + 4 * MIB
