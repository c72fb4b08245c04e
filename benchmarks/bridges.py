"""How much longer a round of Flower takes with the hub as its aggregator: `python -m benchmarks.bridges`.

The app of examples/flower in Flower's own simulation: ten participants, a network of a million parameters. Trainings
with Flower's FedAvg alone and with the same FedAvg in a HubStrategy take turns, so that what changes on the machine
meets both. A round lasts from one central evaluation to the next: sampling, training, aggregation, federated and
central evaluation. The first round of a training starts the simulation's processes and does not count.

Ratios are of the mean round of a training, medians over the trainings. Flower looks for replies every tenth of a
second, twice a round, so its single rounds last 0.42, 0.52 or 0.62 s, and their median jumps between these by chance.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Final

from benchmarks.figures import Distribution, distribution, machine_facts
from config.loading import load_settings
from examples.flower.runtime import ROOT, Flower, flower_running
from worker.supervisor import Supervisor

CLIENTS: Final = 10
HIDDEN_UNITS: Final = 13_333
PARAMETERS: Final = 75 * HIDDEN_UNITS + 10
GOAL: Final = 1.25

_NAMES: Final[Mapping[str, str]] = {
    "none": "Flower's FedAvg alone",
    "observe": "the same, the hub is told",
    "hub": "the hub aggregates",
}
_SECONDS: Final = 1200.0


@dataclass(frozen=True)
class Report:
    """Milliseconds of single rounds, of a training's mean round (the median training), and the ratios of the latter."""

    rounds: Mapping[str, Distribution]
    means: Mapping[str, float]

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as long as Flower's alone."""
        return {kind: mean / self.means["none"] for kind, mean in self.means.items()}

    @property
    def goal_met(self) -> bool:
        """Whether a round takes hardly longer on the hub."""
        return self.ratios["hub"] <= GOAL


def measure(programs: Path, folder: Path, trainings: int, rounds: int) -> Report:
    """So many trainings of each kind, of so many rounds that count."""
    took: dict[str, list[list[float]]] = {kind: [] for kind in _NAMES}
    with (
        Supervisor(load_settings(None, home=folder / "hub")),
        flower_running(programs, folder / "flower", folder / "hub", CLIENTS) as flower,
    ):
        for _ in range(trainings):
            for kind, of_trainings in took.items():
                of_trainings.append(round_seconds(flower, kind, rounds))
    return Report(
        {kind: distribution([*chain(*of_trainings)]) for kind, of_trainings in took.items()},
        {kind: median(map(fmean, of_trainings)) * 1000 for kind, of_trainings in took.items()},
    )


def round_seconds(flower: Flower, kind: str, rounds: int) -> list[float]:
    """Of each round of one training, without the first."""
    out = flower.folder / f"{uuid.uuid4()}.json"
    training = flower.start(
        model_id=str(uuid.uuid4()),
        num_server_rounds=rounds + 1,
        hidden_units=HIDDEN_UNITS,
        bridge=kind,
        out=str(out),
    )
    training.wait(_SECONDS)
    judged = json.loads(out.read_text(encoding="utf-8"))
    times = [judged[number]["at"] for number in sorted(judged, key=int)]
    return [after - before for before, after in pairwise(times[1:])]


def shown(report: Report) -> str:
    """The report for people."""
    lines = [
        f"a round of {CLIENTS} participants, {PARAMETERS:,} parameters, milliseconds",
        f"{'':30}{'rounds':>8}{'p50':>9}{'p90':>9}{'max':>9}{'mean':>9}{'ratio':>8}",
    ]
    for kind, name in _NAMES.items():
        d = report.rounds[kind]
        spread = f"{d.count:8}{d.p50:9.0f}{d.p90:9.0f}{d.max:9.0f}"
        lines.append(f"{name:30}{spread}{report.means[kind]:9.0f}{report.ratios[kind]:8.2f}")
    lines.append(f"goal (the hub aggregates: ratio <= {GOAL}): {'met' if report.goal_met else 'MISSED'}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 if the goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bridges", description=__doc__)
    parser.add_argument("--trainings", type=int, default=5, help="of each kind (default 5)")
    parser.add_argument("--rounds", type=int, default=12, help="of each training, that count (default 12)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="one short training of each kind")
    parser.add_argument("--any-speed", action="store_true", help="exit 0 whatever the figures: for a smoke test")
    parser.add_argument("--programs", type=Path, default=ROOT / ".peers/flower/bin", help="where `flwr` is installed")
    chosen = parser.parse_args(arguments)
    trainings, rounds = (1, 2) if chosen.quick else (chosen.trainings, chosen.rounds)
    with tempfile.TemporaryDirectory(prefix="fedqueue-bridges-") as place:
        facts = machine_facts(Path(place))
        report = measure(chosen.programs, Path(place), trainings, rounds)
    if chosen.json:
        figures = {
            "milliseconds": {kind: asdict(d) for kind, d in report.rounds.items()},
            "mean_milliseconds": dict(report.means),
            "ratios": report.ratios,
        }
        print(json.dumps({"machine": facts, **figures, "goal_met": report.goal_met}, indent=2))
    else:
        facts.pop("packages")
        print("; ".join(f"{name} {value}" for name, value in facts.items()) + "\n")
        print(shown(report))
    return 0 if chosen.any_speed or report.goal_met else 1


if __name__ == "__main__":
    sys.exit(main())
