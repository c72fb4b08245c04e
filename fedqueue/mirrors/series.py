"""The points of a model's plots, as both mirrors name and count them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from fedqueue.messages import ModelView
from fedqueue.messages.events import DEFAULT_X_LABEL
from fedqueue.messages.feed import MetricsView, PointView

# What MLflow takes in a metric's name, and every file system in a folder's.
_OTHER = re.compile(r"[^\w./ -]", re.ASCII)
_LARGEST_STEP: Final = 1 << 63
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Point:
    """One: of which run and sender (empty: the model's own), its name, where it is on a whole-numbered axis, and when.

    The time is the hub's own, so that a point is the same to whoever reads it, however often.
    """

    run: str
    sender: str
    name: str
    step: int
    value: float
    taken_at: datetime


def points_of(model: ModelView, metrics: MetricsView) -> Iterator[Point]:
    """All points, each once, in the order of their plots."""
    # A hub of an older version does not say when it took a point.
    otherwise = model.created_at or _BEGINNING
    for plot in metrics.plots:
        # Over another x it is another plot: steps of both on one axis would mean nothing.
        name = plain(plot.label if plot.x_label == DEFAULT_X_LABEL else f"{plot.label} by {plot.x_label}")
        for series in plot.series:
            run = "" if series.run_id is None else str(series.run_id)
            sender = plain(series.sender or "").replace("/", "_")
            for point in series.points:
                yield Point(run, sender, name, _step(point), point.result, point.created_at or otherwise)


def _step(point: PointView) -> int:
    # Both count steps in whole numbers of 64 bits: where x is none, the round stands for it.
    is_one = point.x_value.is_integer() and abs(point.x_value) < _LARGEST_STEP
    return int(point.x_value) if is_one else point.global_round


def plain(name: str) -> str:
    """The name in characters that everybody takes, and as a path that is none of `..`, `/…` or `…//…`."""
    if not name:
        return ""
    return "/".join(part.strip(" .") or "_" for part in _OTHER.sub("_", name).split("/"))


def shortened(name: str, most: int) -> str:
    """The name, at most so long; one that is cut stays another than all others."""
    return name if len(name) <= most else f"{name[: most - 9]}-{_hash(name)}"


def distinct(name: str) -> str:
    """The name as `plain` has it and without a slash; one that had to be changed stays another than all others."""
    kept = plain(name).replace("/", "_")
    return kept if kept == name else f"{kept}-{_hash(name)}"


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]
