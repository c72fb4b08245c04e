"""What MLflow and TensorBoard show, held against what the hub has."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from examples.mirrors.peers import PROGRAMS
from examples.mirrors.tracking import Tracking
from fedqueue.messages import ModelView
from fedqueue.messages.feed import MetricsView

# (metric, sender or empty, step, value in the precision that the place has)
Key = tuple[str, str, int, float]

# TensorBoard's own reader, with no limit on how many points it keeps: [folder, tag, step, value] of each.
_READER: Final = """
import json, os, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = []
for folder, _, files in os.walk(sys.argv[1]):
    if any("tfevents" in file for file in files):
        events = EventAccumulator(folder, size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found += [[os.path.basename(folder), tag, event.step, event.value] for event in events.Scalars(tag)]
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Comparison:
    """Counts; `missing` and `twice` of both places together. A point that the hub does not have counts as twice."""

    on_hub: int
    in_mlflow: int
    in_tensorboard: int
    missing: int
    twice: int
    published: int
    artifacts: int  # of those, in MLflow with the hub's digest
    problems: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether both show what there is to show, once."""
        return not self.problems


def compare(model: ModelView, metrics: MetricsView, tracking: Tracking, events: Path) -> Comparison:
    """Count and hold together. Raises: OSError where the tracking server does not answer."""
    expected = Counter(_points_of(metrics))
    runs = tracking.runs_of(model.model_id)
    in_mlflow = Counter(_points_in(tracking, runs))
    in_tensorboard = Counter(read_events(events))
    single = Counter({(name, sender, step, _single(value)): n for (name, sender, step, value), n in expected.items()})
    missing = (expected - in_mlflow).total() + (single - in_tensorboard).total()
    twice = (in_mlflow - expected).total() + (in_tensorboard - single).total()
    good = [artifact for artifact in model.published if _has(tracking, runs, artifact.version, artifact.digest)]
    problems = [f"{missing} points are missing"] if missing else []
    problems += [f"{twice} points are there twice, or are none of the hub's"] if twice else []
    if len(good) != len(model.published):
        problems.append(f"{len(good)} of {len(model.published)} published versions are in MLflow as they are")
    if len(runs) != 1:
        problems.append(f"MLflow has {len(runs)} runs for one")
    return Comparison(
        expected.total(),
        in_mlflow.total(),
        in_tensorboard.total(),
        missing,
        twice,
        len(model.published),
        len(good),
        problems,
    )


def read_events(folder: Path) -> list[Key]:
    """Every point of the event files under the folder, as TensorBoard reads them."""
    command = [str(PROGRAMS / "python"), "-c", _READER, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    rows: list[tuple[str, str, int, float]] = json.loads(done.stdout)
    return [(tag, "" if sender == "model" else sender, step, _single(value)) for sender, tag, step, value in rows]


def _points_of(metrics: MetricsView) -> Iterable[Key]:
    for plot in metrics.plots:
        for series in plot.series:
            for point in series.points:
                yield plot.label, series.sender or "", int(point.x_value), point.result


def _points_in(tracking: Tracking, runs: Iterable[dict[str, Any]]) -> Iterable[Key]:
    for run in runs:
        for key in tracking.keys(run):
            name, _, sender = key.partition("/")
            for step, value in tracking.history(run, key):
                yield name, sender, step, value


def _has(tracking: Tracking, runs: Iterable[dict[str, Any]], version: str, digest: str) -> bool:
    for run in runs:
        files = tracking.files(run, f"published/{version}")
        if files and tracking.tags(run).get(f"fedqueue.versions.{version}") == digest:
            return [tracking.digest(run, file) for file in files] == [digest]
    return False


def _single(value: float) -> float:
    return float(np.float32(value))
