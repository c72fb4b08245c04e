"""Compare fedavg, fedadam, fedyogi and fednova on FedProx's synthetic(1, 1): `python -m examples.heterogeneous`.

Thirty devices hold between 50 and 5,000 examples that disagree with each other, ten of them take part in a round, and
each makes between 1 and 20 passes over its data before it reports. fedavg then goes where those lead that take most
steps; fednova counts every step alike. Everything is computed by `tasks.aggregation.combine`, and the same seed gives
the same numbers. How the learning rates were picked stands beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from examples.heterogeneous.comparing import PER_ROUND, Contender, Course, run
from examples.heterogeneous.devices import Device, synthetic

# Picked on seeds 1 and 2, which are not the default: 60 rounds with each local rate of .001, .003, .01 and .03, and
# each eta of .01, .03, .1 and .3; kept was the least training loss, the mean over the last ten rounds and both seeds.
# Around it the loss is flat (local rates of .001 and .003 differ by 3 % at most); an eta of .1 oscillates.
_LOCAL_RATE: Final = 0.001
CONTENDERS: Final = (
    Contender("fedavg", _LOCAL_RATE),
    Contender("fedadam", _LOCAL_RATE, {"eta": 0.03}),
    Contender("fedyogi", _LOCAL_RATE, {"eta": 0.03}),
    Contender("fednova", _LOCAL_RATE),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all four, and show how they fared."""
    parser = argparse.ArgumentParser(prog="python -m examples.heterogeneous", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the courses as a plot: .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON instead of a table")
    given = parser.parse_args(arguments)
    if given.rounds < 1:
        parser.error("--rounds must be 1 or more")
    devices = synthetic(given.seed)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        courses = []
        for contender in CONTENDERS:
            bar = progress.add_task(contender.aggregator, total=given.rounds)
            courses.append(run(contender, devices, given.rounds, given.seed, partial(progress.advance, bar)))
    if given.plot is not None:
        from examples.heterogeneous.plot import draw_courses

        draw_courses(given.plot, courses, _describe(devices))
    if given.json:
        json.dump(_as_json(given.rounds, given.seed, devices, courses), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return 0
    Console().print(_table(courses, given.rounds, _describe(devices)))
    ends = ", ".join(f"{course.contender.aggregator} {course.losses[-1]:.4f}" for course in courses)
    sys.stdout.write(f"training loss after {given.rounds} rounds: {ends}\n")
    return 0


def _describe(devices: Sequence[Device]) -> str:
    sizes = [device.num_examples for device in devices]
    epochs = [device.epochs for device in devices]
    return (
        f"{len(devices)} devices of {min(sizes)} to {max(sizes):,} examples, {PER_ROUND} a round, "
        f"{min(epochs)} to {max(epochs)} local epochs"
    )


def _milestones(rounds: int) -> list[int]:
    return sorted({max(1, round(rounds * share)) for share in (0.05, 0.1, 0.25, 0.5, 1.0)})


def _table(courses: Sequence[Course], rounds: int, title: str) -> Table:
    table = Table(title=f"{title}\ntraining loss / test accuracy after so many rounds", title_justify="left")
    for heading in ("aggregator", "local rate", "eta"):
        table.add_column(heading)
    for milestone in _milestones(rounds):
        table.add_column(str(milestone), justify="right", no_wrap=True)
    for course in courses:
        contender = course.contender
        table.add_row(
            contender.aggregator,
            f"{contender.local_rate:g}",
            f"{contender.params['eta']:g}" if "eta" in contender.params else "–",
            *(f"{course.losses[at]:.3f} / {course.accuracies[at]:.1%}" for at in _milestones(rounds)),
        )
    return table


def _as_json(rounds: int, seed: int, devices: Sequence[Device], courses: Sequence[Course]) -> object:
    return {
        "rounds": rounds,
        "seed": seed,
        "devices": [{"num_examples": device.num_examples, "epochs": device.epochs} for device in devices],
        "courses": [
            {
                "aggregator": course.contender.aggregator,
                "local_rate": course.contender.local_rate,
                "params": dict(course.contender.params),
                "losses": course.losses,
                "accuracies": course.accuracies,
            }
            for course in courses
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
