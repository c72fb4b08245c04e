"""How points of metrics make plots. One rule for every connector and every reader. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from connectors.records import Metric, Trust


@dataclass(frozen=True, slots=True)
class Series:
    """One sender's points in one run: a trust's, else those of a client without one, else the model's own."""

    trust: Trust | None
    fl_client_name: str | None  # None where a trust is named: it may send under several
    run_id: UUID | None
    points: tuple[Metric, ...]  # ascending by x, of equals in order of arrival

    @property
    def name(self) -> str | None:
        """The trust's label, else the client's name; None for the model's own."""
        return self.fl_client_name if self.trust is None else self.trust.label


@dataclass(frozen=True, slots=True)
class Plot:
    """All series of one label over one x."""

    label: str
    x_label: str
    series: tuple[Series, ...]


def plots_of(metrics: Iterable[Metric], trusts: Iterable[Trust]) -> list[Plot]:
    """One plot per (label, x_label), in it one series per sender and run; plots by label, series by name, then run.

    A trust is told by its id: two that are called alike never merge. Runs stand in the order of their first points.
    `trusts` are those whom the points name.
    """
    by_id = {trust.id: trust for trust in trusts}
    plots: dict[tuple[str, str], dict[tuple[UUID | None, int | None, str | None], list[Metric]]] = {}
    runs: dict[UUID | None, int] = {}
    for metric in sorted(metrics, key=lambda metric: metric.id):
        sender = None if metric.trust_id is not None else metric.fl_client_name
        runs.setdefault(metric.run_id, len(runs))
        series = plots.setdefault((metric.label, metric.x_label), {})
        series.setdefault((metric.run_id, metric.trust_id, sender), []).append(metric)
    return [Plot(label, x_label, _sorted(plots[label, x_label], by_id, runs)) for label, x_label in sorted(plots)]


def _sorted(
    series: Mapping[tuple[UUID | None, int | None, str | None], list[Metric]],
    trusts: Mapping[int, Trust],
    runs: Mapping[UUID | None, int],
) -> tuple[Series, ...]:
    made = [
        Series(
            None if trust_id is None else trusts.get(trust_id),
            sender,
            run_id,
            # By id before: sorting is stable, so of equal x the first to arrive comes first.
            tuple(sorted(points, key=lambda point: point.x_value)),
        )
        for (run_id, trust_id, sender), points in series.items()
    ]
    return tuple(sorted(made, key=lambda one: (one.name or "", one.trust.id if one.trust else 0, runs[one.run_id])))
