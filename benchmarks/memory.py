"""How much memory a combination takes beside the files it reads: `python -m benchmarks.memory`.

Each case is a process of its own that combines real safetensors files from a store into a store, as a round does. What
is measured is its anonymous memory (`Anonymous` in /proc/PID/smaps_rollup: what only a swap device could take away;
mapped files are the page cache's), read from outside every few milliseconds. The baseline is the same process just
before, with everything imported and the compiled kernels loaded: what the interpreter takes whatever is combined.

Updates are hard links to a few files, so that the disk holds little; the engine reads every one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from connectors.records import BlobRef, DataFormat, TensorSpec
from connectors.storage import FileModelDataConnector
from connectors.storage.safetensors_layout import lay_out
from fedqueue.blobs import blob_path
from tasks.aggregation import Engine, UpdateArrays, UpdateStream, combine, combine_streams, state_tensors

ROOT: Final = Path(__file__).resolve().parent.parent
MIB: Final = 1 << 20

_DISTINCT: Final = 4  # files; the other updates are links to them
_EVERY_SECONDS: Final = 0.002
_SAMPLES: Final = 20  # at least: what takes less time is done again
_TENSORS: Final = 5  # of a model


@dataclass(frozen=True)
class Case:
    """One combination to measure."""

    aggregator: str
    updates: int
    parameters: int  # float32
    budget_mib: int = 256

    @property
    def params(self) -> dict[str, Any]:
        """A fifth of Krum's updates may be anything."""
        return {"num_byzantine": self.updates // 5} if self.aggregator == "krum" else {}

    @property
    def rounds(self) -> int:
        """Two where the second starts from what the first left."""
        return 2 if self.aggregator == "fedadam" else 1


@dataclass(frozen=True)
class Measured:
    """What it took."""

    case: Case
    baseline_mib: float
    peak_mib: float
    samples: int
    seconds: float
    bytes_read: int

    @property
    def engine_mib(self) -> float:
        """Beside the interpreter."""
        return self.peak_mib - self.baseline_mib

    @property
    def is_within_budget(self) -> bool:
        """Whether the engine kept to what it was given."""
        return self.engine_mib <= self.case.budget_mib


# The last four: a model of 336 MiB, more than ten times its budget.
FULL: Final = tuple(
    Case(aggregator, updates, parameters)
    for updates, parameters in ((20, 25_000_000), (200, 2_500_000), (1_000, 1_000_000))
    for aggregator in ("fedavg", "median", "krum", "fedadam")
) + tuple(Case(aggregator, 3, 84 * MIB, 32) for aggregator in ("fedavg", "median", "krum", "fedadam"))

QUICK: Final = (
    Case("fedavg", 3, 42 * MIB, 16),
    Case("median", 64, MIB, 16),
    Case("krum", 30, MIB, 16),
    Case("fedadam", 6, 4 * MIB, 16),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 if every case kept to its budget."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small cases, in seconds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--folder", type=Path, help="where files are written meanwhile (by default a temporary one)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.case:
        _combine_when_told(given.folder, Case(**json.loads(given.case)))
        return 0
    found = []
    console = Console(stderr=True)
    for case in QUICK if given.quick else FULL:
        console.print(f"{case.aggregator}: {case.updates} × {case.parameters / 1e6:g} M …")
        with tempfile.TemporaryDirectory(dir=given.folder, prefix="memory-") as folder:
            found.append(measure(Path(folder), case))
    if given.json:
        print(json.dumps([asdict(each) | {"within_budget": each.is_within_budget} for each in found], indent=2))
    else:
        Console().print(_table(found))
    return 0 if all(each.is_within_budget for each in found) else 1


def measure(folder: Path, case: Case) -> Measured:
    """Write the files, combine them in a process of its own, and watch it."""
    _write_updates(folder, case)
    command = [sys.executable, "-m", "benchmarks.memory", "--folder", str(folder), "--case", json.dumps(asdict(case))]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{case} could not begin")
        baseline = peak = _anonymous(process.pid)
        samples = 0
        outcome: list[bytes] = []
        # However long this process was held up meanwhile.
        while samples < _SAMPLES and b"" not in outcome:
            waiting = threading.Thread(target=lambda out: outcome.append(out.readline()), args=(process.stdout,))
            process.stdin.write(b"go\n")
            process.stdin.flush()
            waiting.start()
            while waiting.is_alive():
                peak = max(peak, _anonymous(process.pid))
                samples += 1
                waiting.join(_EVERY_SECONDS)
        process.stdin.close()
    if process.returncode or b"" in outcome:
        raise RuntimeError(f"{case} failed")
    return Measured(case, baseline / MIB, peak / MIB, samples, **json.loads(outcome[0]))


def _anonymous(pid: int) -> int:
    try:
        found = re.search(r"^Anonymous:\s*(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except ProcessLookupError:  # it has ended in this moment
        return 0
    return 1024 * int(found[1]) if found else 0


# --- files --------------------------------------------------------------------------------------------------------


def _shapes(parameters: int) -> Sequence[TensorSpec]:
    size = parameters // _TENSORS
    return [(f"layer.{number}", (size,), "F32") for number in range(_TENSORS - 1)] + [
        ("head", (parameters - size * (_TENSORS - 1),), "F32")
    ]


def _write_updates(folder: Path, case: Case) -> None:
    before_data, _placed, _length = lay_out(_shapes(case.parameters))
    for index in range(case.updates):
        blob = blob_path(folder, _name(index))
        blob.parent.mkdir(parents=True, exist_ok=True)
        if index >= _DISTINCT:
            blob.hardlink_to(blob_path(folder, _name(index % _DISTINCT)))
            continue
        draw = np.random.default_rng(index)
        with blob.open("wb") as file:
            file.write(before_data)
            for start in range(0, case.parameters, MIB):
                draw.standard_normal(min(MIB, case.parameters - start), np.float32).tofile(file)


def _name(index: int) -> str:
    """In place of a digest: nobody compares it here."""
    return f"{index:064x}"


# --- the process that is watched ----------------------------------------------------------------------------------


def _combine_when_told(folder: Path, case: Case) -> None:
    store = FileModelDataConnector(folder)
    tiny = {"w": np.ones(1, np.float32)}
    combine(case.aggregator, case.params, [UpdateArrays(tiny)] * case.updates, current=tiny, engine=Engine.NUMBA)
    print("ready", flush=True)
    while sys.stdin.readline():
        began = time.perf_counter()
        state: BlobRef | None = None
        bytes_read = 0
        for _round in range(case.rounds):
            state, more = _combine_round(store, case, state)
            bytes_read += more
        print(json.dumps({"seconds": time.perf_counter() - began, "bytes_read": bytes_read}), flush=True)


def _combine_round(store: FileModelDataConnector, case: Case, state: BlobRef | None) -> tuple[BlobRef | None, int]:
    with ExitStack() as stack:

        def read(ref: BlobRef) -> Any:
            return stack.enter_context(closing(store.open(ref, DataFormat.SAFETENSORS)))

        readers = [read(BlobRef("", _name(index), 0)) for index in range(case.updates)]
        tensors = readers[0].tensors
        kept = state_tensors(case.aggregator, case.params, tensors)
        writer = stack.enter_context(store.writer(tensors, DataFormat.SAFETENSORS))
        state_writer = stack.enter_context(store.writer(kept, DataFormat.SAFETENSORS)) if kept else None
        report = combine_streams(
            case.aggregator,
            case.params,
            [UpdateStream(reader, num_examples=index + 1.0) for index, reader in enumerate(readers)],
            writer,
            current=readers[0],
            state=None if state is None else read(state),
            state_sink=state_writer,
            budget_bytes=case.budget_mib * MIB,
        )
        writer.commit()
        return None if state_writer is None else state_writer.commit(), report.bytes_read


def _table(found: Sequence[Measured]) -> Table:
    table = Table(title="anonymous memory of one combination, MiB")
    for heading in ("aggregator", "updates", "model", "budget", "baseline", "peak", "engine", "of budget", "seconds"):
        table.add_column(heading, justify="left" if heading == "aggregator" else "right")
    for each in found:
        table.add_row(
            each.case.aggregator,
            f"{each.case.updates:,} × {each.case.parameters / 1e6:.3g} M",
            f"{4 * each.case.parameters / MIB:.0f}",
            str(each.case.budget_mib),
            f"{each.baseline_mib:.0f}",
            f"{each.peak_mib:.0f}",
            f"{each.engine_mib:.1f}",
            f"{each.engine_mib / each.case.budget_mib:.0%}",
            f"{each.seconds:.1f}",
            style=None if each.is_within_budget else "bold red",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
