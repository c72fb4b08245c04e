"""A hub's answers, as mirrors get them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from fedqueue.messages import ArtifactView, MetricsView, ModelView, PlotView, PointView, ProgressView, SeriesView

MODEL = UUID(int=1)
RUNS = UUID(int=11), UUID(int=12)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def model_view(**changes: Any) -> ModelView:
    """A model called digits."""
    fields: dict[str, Any] = {
        "model_id": MODEL,
        "name": "digits",
        "description": "",
        "aggregator": "fedavg",
        "aggregator_params": {},
        "requirement": None,
        "requirement_args": None,
        "furthest_base_agg": None,
        "allow_repeats": False,
        "max_rounds": None,
        "data_format": "safetensors",
        "status": "RUNNING",
        "allow_aggregation": True,
        "aggregates": 0,
        "clients": 0,
        "updates": {},
        "created_at": BEGAN,
    }
    return ModelView(**fields | changes)


def artifact_view(version: str = "1.0", digest: str = "0" * 64) -> ArtifactView:
    """A published version."""
    return ArtifactView(model_id=MODEL, version=version, aggregate_id=1, uri="file:///there", digest=digest)


def progress_view(status: str = "RUNNING", run_id: UUID | None = RUNS[0]) -> ProgressView:
    """Where a run stands."""
    return ProgressView(model_id=MODEL, status=status, run_id=run_id)


def metrics_view(
    values: Iterable[float], *, label: str = "loss", sender: str | None = None, run_id: UUID | None = RUNS[0]
) -> MetricsView:
    """One series: those values at 1, 2, 3, …, taken a second after each other."""
    points = [
        PointView(x_value=x, result=value, global_round=x, created_at=BEGAN + timedelta(seconds=x))
        for x, value in enumerate(values, 1)
    ]
    series = SeriesView(sender=sender, run_id=run_id, points=points)
    return MetricsView(model_id=MODEL, plots=[PlotView(label=label, x_label="Global Rounds", series=[series])])


def joined(*views: MetricsView) -> MetricsView:
    """The plots of all."""
    return MetricsView(model_id=MODEL, plots=[plot for view in views for plot in view.plots])
