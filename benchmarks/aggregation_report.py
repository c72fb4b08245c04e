"""What the aggregation benchmark found: entries, goals, a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.agreement import Agreement
from benchmarks.contestants import Answer

OURS: Final = "fedqueue"

# Squares of norms less twice the product, in float32: what is left of the distances is noise. Known of Flower's
# message API, and no fault of ours.
_KNOWN_TO_DIFFER: Final = {("flower", "select_multikrum")}


@dataclass
class Entry:
    """One contestant's function on one aggregator."""

    aggregator: str
    contestant: str
    method: str
    seconds: list[float] = field(default_factory=list)
    phases: list[Mapping[str, float]] = field(default_factory=list)
    peak_bytes: int = 0  # anonymous memory, beyond the idle process's
    num_bytes: int | None = None  # where it is not the safetensors files' sum
    worst: Agreement | None = None
    error: str | None = None
    seconds_to_disk: list[float] = field(default_factory=list)

    @property
    def is_ours(self) -> bool:
        """Whether it is this project's."""
        return self.contestant == OURS

    @property
    def median_seconds(self) -> float:
        """The median of the repeats; infinite if it could not do it."""
        return median(self.seconds) if self.seconds else float("inf")

    @property
    def combining_seconds(self) -> float | None:
        """The median of what its own function took, without reading, converting and writing; None for ours."""
        took = [phases["combine"] for phases in self.phases if "combine" in phases]
        return median(took) if took else None

    @property
    def agrees(self) -> bool:
        """Whether every result was ours, or differs as is known of it."""
        if self.error:
            return False
        known = (self.contestant, self.method) in _KNOWN_TO_DIFFER
        return self.worst is None or self.worst.agrees or known

    def add(self, answer: Answer, compared: Agreement | None) -> None:
        """Take one answer in."""
        if answer.error:
            self.error = answer.error
            return
        self.seconds.append(answer.seconds)
        self.phases.append(answer.phases)
        if "seconds_to_disk" in answer.facts:
            self.seconds_to_disk.append(answer.facts["seconds_to_disk"])
        if compared and (self.worst is None or compared.max_difference > self.worst.max_difference):
            self.worst = compared

    def as_json(self) -> dict[str, Any]:
        """The same as values that JSON knows."""
        return asdict(self) | {
            "median_seconds": self.median_seconds if self.seconds else None,
            "combining_seconds": self.combining_seconds,
            "agrees": self.agrees,
        }


@dataclass(frozen=True)
class Goal:
    """What was wanted, and what came of it."""

    what: str
    wanted: float
    found: float

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.found >= self.wanted


@dataclass
class Figures:
    """All of it."""

    updates: int
    parameters: int
    threads: int
    machine: dict[str, Any]
    num_bytes: int = 0  # of all safetensors updates
    entries: list[Entry] = field(default_factory=list)
    limit_seconds: list[float] = field(default_factory=list)  # the files mapped anew, as everyone must map them
    limit_mapped_seconds: list[float] = field(default_factory=list)  # read once more while they are mapped

    def add_limit(self, answer: Answer) -> None:
        """Take one reading of the machine's limit in."""
        self.limit_seconds.append(answer.seconds)
        self.limit_mapped_seconds.append(answer.facts["seconds_mapped"])

    def speed(self, entry: Entry) -> float:
        """Bytes of updates a second."""
        return (entry.num_bytes or self.num_bytes) / entry.median_seconds

    @property
    def limit(self) -> float:
        """The machine's own speed on the same files."""
        return self.num_bytes / median(self.limit_seconds)

    def goals(self) -> list[Goal]:
        """Those whose entries were measured."""
        found = []
        ours = {entry.aggregator: entry for entry in self.entries if entry.is_ours}
        if "fedavg" in ours:
            found.append(Goal("fedavg / read limit", 0.5, self.speed(ours["fedavg"]) / self.limit))
        wanted = (("fedavg", "nvflare", 5), ("fedavg", "flower", 15))
        robust = (("median", "flower", 10), ("trimmed_mean", "flower", 10), ("krum", "flower", 3))
        for aggregator, peer, times in (*wanted, *robust):
            speeds = [self.speed(e) for e in self.entries if (e.aggregator, e.contestant) == (aggregator, peer)]
            if aggregator in ours and speeds:
                found.append(Goal(f"{aggregator} / {peer}'s best", times, self.speed(ours[aggregator]) / max(speeds)))
        return found

    def as_json(self) -> dict[str, Any]:
        """The same as values that JSON knows."""
        return asdict(self) | {"entries": [entry.as_json() for entry in self.entries]}


def show(figures: Figures, goals: list[Goal]) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 150)
    title = f"{figures.updates} updates of {figures.parameters:,} float32, {figures.num_bytes / 1e9:.2f} GB in files"
    table = Table(title=f"{title}, {figures.threads} threads", title_justify="left")
    for name in ("", "contestant", "function"):
        table.add_column(name, overflow="fold")
    for name in ("seconds", "of it combining", "GB/s", "ours is", "peak MiB", "difference"):
        table.add_column(name, justify="right")
    if figures.limit_seconds:
        mapped = figures.num_bytes / median(figures.limit_mapped_seconds) / 1e9
        table.add_row(
            "read limit",
            "",
            f"({mapped:.1f} GB/s once mapped)",
            f"{median(figures.limit_seconds):.3f}",
            "",
            f"{figures.limit / 1e9:.2f}",
            "",
            "",
            "",
        )
    ours: dict[str, Entry] = {}
    for entry in figures.entries:
        ours.setdefault(entry.aggregator, entry)
        if entry.is_ours:
            table.add_section()
        combining = entry.combining_seconds
        ratio = entry.median_seconds / ours[entry.aggregator].median_seconds
        table.add_row(
            entry.aggregator if entry.is_ours else "",
            entry.contestant,
            entry.method,
            f"{entry.median_seconds:.3f}",
            "" if combining is None else f"{combining:.3f}",
            f"{figures.speed(entry) / 1e9:.3g}",
            "" if entry.is_ours else f"{ratio:.1f}x",
            f"{entry.peak_bytes / 2**20:.0f}",
            _difference(entry),
        )
    console.print(table)
    for goal in goals:
        verdict = "met" if goal.met else "MISSED"
        console.print(f"{goal.what}: {goal.found:.2f} (wanted: {goal.wanted:g}) {verdict}", highlight=False)
    packages = ", ".join(f"{name} {number}" for name, number in figures.machine["packages"].items())
    facts = "; ".join(f"{name} {value}" for name, value in figures.machine.items() if name != "packages")
    console.print(f"{facts}; {packages}", highlight=False)


def _difference(entry: Entry) -> str:
    if entry.error:
        return entry.error
    if entry.is_ours or entry.worst is None:
        return ""
    worst = entry.worst
    if worst.remark:
        return worst.remark
    return "equal" if worst.max_difference == 0 else f"{worst.max_difference:.1e}{'' if worst.agrees else ' TOO FAR'}"


def draw(path: Path, figures: Figures) -> None:
    """Write the plot: everyone's speed on a logarithmic scale, the read limit as a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = [entry for entry in figures.entries if entry.seconds]
    figure = Figure(figsize=(9, 0.6 + 0.34 * len(entries)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = [f"{entry.aggregator}: {entry.contestant} {entry.method}" for entry in entries]
    speeds = [figures.speed(entry) / 1e9 for entry in entries]
    bars = axes.barh(names, speeds, color=["tab:blue" if entry.is_ours else "0.7" for entry in entries])
    axes.bar_label(bars, [f"{speed:.3g}" for speed in speeds], padding=3, fontsize=8)
    if figures.limit_seconds:
        axes.axvline(figures.limit / 1e9, color="tab:red", lw=1, label="read limit")
        axes.legend(loc="lower right", fontsize=8)
    axes.set(xscale="log", xlabel="GB of updates a second, file to file")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    figure.savefig(path)
