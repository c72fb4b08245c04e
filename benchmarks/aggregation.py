"""Combining updates, file to file, against other projects' aggregation: `python -m benchmarks.aggregation`.

Everyone reads the same safetensors files from the page cache and writes one: a process each, in an environment of its
own (`make peers`), asked in turn, medians of the repeats. A time runs from the first byte read to the last written.
Every result is compared with ours. Beside them: how fast this machine reads those mapped files and does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.aggregation_report import Entry, Figures, draw, show
from benchmarks.agreement import Agreement, agreement
from benchmarks.contestants import Answer, Contestant, PeerMissing, peak_anonymous_bytes
from benchmarks.figures import machine_facts
from benchmarks.peers.serving import Request
from benchmarks.update_files import tensor_bytes, write_json_updates, write_updates
from tasks.aggregation.threads import default_threads

# (aggregator, its parameters, who takes part); the first is ours, which the others are compared with.
Group = tuple[str, dict[str, Any], Sequence[tuple[str, str]]]
_SAFETENSORS: Final[Sequence[Group]] = (
    (
        "fedavg",
        {},
        (
            ("fedqueue", "fedavg"),
            ("nvflare", "WeightedAggregationHelper"),
            ("flower", "aggregate"),
            ("flower", "aggregate_inplace"),
            ("flower", "aggregate_arrayrecords"),
        ),
    ),
    ("median", {}, (("fedqueue", "median"), ("flower", "aggregate_median"), ("flower", "FedMedian"))),
    (
        "trimmed_mean",
        {"beta": 0.2},
        (("fedqueue", "trimmed_mean"), ("flower", "aggregate_trimmed_avg"), ("flower", "FedTrimmedAvg")),
    ),
    (
        "krum",
        {"num_byzantine": 4},
        (("fedqueue", "krum"), ("flower", "aggregate_krum"), ("flower", "select_multikrum")),
    ),
    # Against nobody: for its memory, and for what an optimizer costs on top of a mean.
    ("fedadam", {}, (("fedqueue", "fedadam"),)),
)
_JSON: Final[Group] = ("average_layers", {}, (("fedqueue", "average_layers"), ("fma", "average_layers")))


def measure(chosen: argparse.Namespace, folder: Path) -> Figures:
    """Every figure, with files under `folder`. Raises: PeerMissing, OSError (no room)."""
    groups = [group for group in _SAFETENSORS if group[0] in chosen.only]
    if chosen.alone:
        groups = [(aggregator, params, entrants[:1]) for aggregator, params, entrants in groups]
    machine = machine_facts(folder) | {"load_before": round(os.getloadavg()[0], 2)}
    figures = Figures(chosen.updates, chosen.parameters, chosen.threads, machine)
    if groups:
        _race_on_safetensors(chosen, folder, groups, figures)
    if "json" in chosen.only:
        figures.entries += _race_on_json(chosen, folder)
    return figures


def _race_on_safetensors(chosen: argparse.Namespace, folder: Path, groups: Sequence[Group], figures: Figures) -> None:
    _check_room(folder, chosen.updates * chosen.parameters * 4)
    files = write_updates(folder, chosen.updates, chosen.parameters, chosen.updates // 5, chosen.width)
    figures.num_bytes = sum(map(tensor_bytes, files))
    with ExitStack() as stack:
        names = {"limit", *(name for group in groups for name, _method in group[2])}
        running = {name: stack.enter_context(Contestant(name)) for name in sorted(names)}
        for aggregator, params, entrants in groups:
            repeats = chosen.repeats if aggregator == "fedavg" else max(1, chosen.repeats // 3)
            ours = folder / "ours.safetensors"
            figures.entries += _race(running, aggregator, params, entrants, files, repeats, chosen, ours, figures)


def _race(
    running: dict[str, Contestant],
    aggregator: str,
    params: dict[str, Any],
    entrants: Sequence[tuple[str, str]],
    files: Sequence[Path],
    repeats: int,
    chosen: argparse.Namespace,
    ours: Path,
    figures: Figures | None = None,
) -> list[Entry]:
    """One aggregator's entrants: each one's memory by itself, then all asked in turn, against the clock."""
    theirs = ours.with_name("theirs" + ours.suffix)

    def request(method: str, out: Path) -> Request:
        examples = [100 + 7 * index for index in range(len(files))]
        names = [str(file) for file in files]
        current = names[0] if aggregator == "fedadam" else ""
        return Request(method, names, examples, str(out), params, chosen.threads, chosen.engine, current)

    entries = [Entry(aggregator, name, method) for name, method in entrants]
    for entry in entries:
        out = ours if entry.is_ours else theirs
        entry.peak_bytes = peak_anonymous_bytes(entry.contestant, request(entry.method, out))
    for _ in range(repeats):
        if figures is not None:
            figures.add_limit(running["limit"].ask(request("read", theirs)))
        for entry in entries:
            out = ours if entry.is_ours else theirs
            answer = running[entry.contestant].ask(request(entry.method, out))
            entry.add(answer, _compared(entry, answer, files, ours, theirs))
            theirs.unlink(missing_ok=True)
    ours.unlink()
    return entries


def _compared(entry: Entry, answer: Answer, files: Sequence[Path], ours: Path, theirs: Path) -> Agreement | None:
    if entry.is_ours or answer.error:
        return None
    return agreement(entry.aggregator, ours, theirs, files)


def _race_on_json(chosen: argparse.Namespace, folder: Path) -> list[Entry]:
    """FMA's format, at a size that it can do in a while. Speeds are in bytes of float32, as for the others."""
    aggregator, params, entrants = _JSON
    files = write_json_updates(folder, chosen.updates, chosen.json_parameters)
    with Contestant("fedqueue") as ours, Contestant("fma") as fma:
        running = {"fedqueue": ours, "fma": fma}
        entries = _race(running, aggregator, params, entrants, files, 1, chosen, folder / "ours.json")
    for entry in entries:
        entry.num_bytes = chosen.updates * chosen.json_parameters * 4
    return entries


def _check_room(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    available = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    # Flower's median holds every update three times over; the files must stay in the page cache beside them.
    for what, has, needs in (("disk", free, 2 * num_bytes), ("memory", available, 5 * num_bytes)):
        if has < needs:
            raise OSError(f"{needs / 1e9:.1f} GB of {what} are needed, {has / 1e9:.1f} are free: give smaller sizes")


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.aggregation", description=__doc__)
    known = (*(group[0] for group in _SAFETENSORS), "json")
    parser.add_argument("--updates", type=int, default=20, help="how many (default 20)")
    parser.add_argument("--parameters", type=int, default=25_000_000, help="of the model (default 25 million)")
    parser.add_argument("--width", type=int, help="of its blocks: the less, the more and the smaller tensors")
    parser.add_argument("--json-parameters", type=int, default=250_000, help="of the model in JSON (default 250,000)")
    parser.add_argument("--repeats", type=int, default=9, help="of fedavg; a third of it of the others (default 9)")
    parser.add_argument("--threads", type=int, default=default_threads(), help="default: one for each processor")
    parser.add_argument("--engine", default="auto", help="ours: auto (default), numpy, numba")
    parser.add_argument("--only", nargs="+", choices=known, default=known, help="default: all")
    parser.add_argument("--alone", action="store_true", help="ours and the limit: needs no peers")
    parser.add_argument("--folder", type=Path, help="where the files lie meanwhile (default: a temporary folder)")
    parser.add_argument("--quick", action="store_true", help="small and once: whether it works, not how fast")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the speeds (needs matplotlib)")
    chosen = parser.parse_args(given)
    if chosen.quick:
        chosen.parameters, chosen.json_parameters, chosen.repeats = 300_000, 5_000, 1
        chosen.engine = "numba"  # which so little would not be worth loading for
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 if a result differs where it should not, or (full size) a goal is missed; 2 if it can't run."""
    chosen = _arguments(arguments)
    # Ended by a signal, it takes its gigabytes and its processes with it.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="fedqueue-aggregation-", dir=chosen.folder) as place:
        try:
            figures = measure(chosen, Path(place))
        except (PeerMissing, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    goals = [] if chosen.quick else figures.goals()
    if chosen.json:
        described = figures.as_json() | {"goals": [asdict(goal) | {"met": goal.met} for goal in goals]}
        print(json.dumps(described, indent=2))
    else:
        show(figures, goals)
    if chosen.plot:
        draw(chosen.plot, figures)
    agrees = all(entry.agrees for entry in figures.entries)
    return 0 if agrees and all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
