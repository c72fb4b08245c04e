"""The points of a model's plots, as both mirrors name and count them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fedqueue.messages.feed import MetricsView

# What MLflow takes in a metric's name, and every file system in a folder's.
_OTHER = re.compile(r"[^\w./ -]", re.ASCII)


@dataclass(frozen=True)
class Point:
    """One: of which run and sender (empty: the model's own), under which name, and where on a whole-numbered axis."""

    run: str
    sender: str
    name: str
    step: int
    value: float


def points_of(metrics: MetricsView) -> Iterator[Point]:
    """All points, each once, in the order of their plots."""
    for plot in metrics.plots:
        for series in plot.series:
            run = "" if series.run_id is None else str(series.run_id)
            sender = plain(series.sender or "")
            for point in series.points:
                # Both count steps in whole numbers: where x is none, the round stands for it.
                step = int(point.x_value) if float(point.x_value).is_integer() else point.global_round
                yield Point(run, sender, plain(plot.label), step, point.result)


def plain(name: str) -> str:
    """The name in characters that everybody takes."""
    return _OTHER.sub("_", name).strip(" /.") or ("" if not name else "_")
