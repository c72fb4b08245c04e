"""Points of metrics become plots by one rule, whatever order they were written in."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from connectors.plots import Plot, plots_of
from connectors.records import Metric, Trust

KCH = Trust(1, UUID(int=1), "King's College Hospital", "KCH")
ALIKE = Trust(2, UUID(int=2), "KCH")  # another trust, called as the first one's code
PLAIN = Trust(3, UUID(int=3), "A Hospital")


def metric(id_: int, x_value: float, result: float, **fields: Any) -> Metric:
    values = {
        "event_id": None,
        "run_id": None,
        "trust_id": None,
        "fl_client_name": None,
        "label": "accuracy",
        "x_label": "Global Rounds",
        "global_round": int(x_value),
    } | fields
    return Metric(id=id_, model_id=1, x_value=x_value, result=result, **values)


def values(plot: Plot) -> list[tuple[str | None, list[tuple[float, float]]]]:
    return [(series.name, [(point.x_value, point.result) for point in series.points]) for series in plot.series]


def test_points_ascend_by_x_and_of_equals_stand_as_they_came() -> None:
    points = [metric(3, 1, 0.3), metric(1, 2, 0.1), metric(4, 1, 0.2), metric(2, 1, 0.4)]
    (plot,) = plots_of(points, [])
    assert values(plot) == [(None, [(1, 0.4), (1, 0.3), (1, 0.2), (2, 0.1)])]


def test_a_label_over_another_x_is_another_plot() -> None:
    points = [metric(1, 1, 0.5), metric(2, 50, 0.5, x_label="Steps"), metric(3, 1, 2.0, label="Loss")]
    assert [(plot.label, plot.x_label) for plot in plots_of(points, [])] == [
        ("Loss", "Global Rounds"),
        ("accuracy", "Global Rounds"),
        ("accuracy", "Steps"),
    ]


def test_two_trusts_of_one_label_never_merge() -> None:
    points = [metric(1, 1, 0.1, trust_id=2), metric(2, 1, 0.2, trust_id=1), metric(3, 2, 0.3, trust_id=2)]
    (plot,) = plots_of(points, [KCH, ALIKE])
    assert values(plot) == [("KCH", [(1, 0.2)]), ("KCH", [(1, 0.1), (2, 0.3)])]
    assert [series.trust for series in plot.series] == [KCH, ALIKE]


def test_a_trust_is_one_series_under_whatever_slot_it_sends() -> None:
    points = [metric(n, n, 0.1, trust_id=3, fl_client_name=f"site-{n}") for n in (1, 2)]
    (plot,) = plots_of(points, [PLAIN])
    assert values(plot) == [("A Hospital", [(1, 0.1), (2, 0.1)])]


def test_clients_without_a_trust_are_a_series_each_after_the_model_s_own() -> None:
    points = [metric(1, 1, 0.1, fl_client_name="b"), metric(2, 1, 0.2, fl_client_name="a"), metric(3, 1, 0.3)]
    (plot,) = plots_of(points, [])
    assert [series.name for series in plot.series] == [None, "a", "b"]


def test_runs_are_series_of_their_own_in_the_order_they_began() -> None:
    second, first = UUID(int=1), UUID(int=2)
    points = [metric(1, 1, 0.1, run_id=first), metric(2, 1, 0.2, run_id=second), metric(3, 2, 0.3, run_id=first)]
    (plot,) = plots_of(points, [])
    assert [(series.run_id, len(series.points)) for series in plot.series] == [(first, 2), (second, 1)]
