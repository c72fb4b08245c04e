"""Points as mirrors name and place them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fedqueue.messages import MetricsView, PlotView, PointView, SeriesView
from fedqueue.mirrors.series import distinct, plain, points_of, shortened
from tests.bridges.mirrored import BEGAN, MODEL, RUNS, metrics_view, model_view


def one(x_label: str = "Global Rounds", sender: str | None = None, **point: Any) -> MetricsView:
    series = SeriesView(sender=sender, points=[PointView(**{"x_value": 1, "result": 0.5, **point})])
    return MetricsView(model_id=MODEL, plots=[PlotView(label="loss", x_label=x_label, series=[series])])


@pytest.mark.parametrize(("x", "step"), [(3.0, 3), (-2.0, -2), (0.5, 7), (1e300, 7), (float(1 << 62), 1 << 62)])
def test_where_x_is_no_whole_number_of_64_bits_the_round_stands_for_it(x: float, step: int) -> None:
    (point,) = points_of(model_view(), one(x_value=x, global_round=7))
    assert point.step == step


def test_the_same_label_over_another_x_is_another_metric() -> None:
    assert [point.name for x in ("Global Rounds", "Epochs") for point in points_of(model_view(), one(x))] == [
        "loss",
        "loss by Epochs",
    ]


def test_a_point_s_time_is_the_hub_s() -> None:
    """So it is the same whoever reads it, and whenever; of a hub that does not say it, it is the model's."""
    view = metrics_view([0.5, 0.25], run_id=RUNS[1])
    assert list(points_of(model_view(), view)) == list(points_of(model_view(), view))
    assert [point.taken_at.second for point in points_of(model_view(), view)] == [1, 2]
    assert [point.taken_at for point in points_of(model_view(), one())] == [BEGAN]
    (point,) = points_of(model_view(created_at=None), one())
    assert point.taken_at == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_sender_is_one_folder() -> None:
    (point,) = points_of(model_view(), one(sender="north/east"))
    assert point.sender == "north_east"


@pytest.mark.parametrize(
    ("name", "taken"),
    [("", ""), ("loss", "loss"), ("../x", "_/x"), ("/a//b/", "_/a/_/b/_"), (" . ", "_"), ("f1@5", "f1_5"), ("é", "_")],
)
def test_a_name_is_made_one_that_everybody_takes(name: str, taken: str) -> None:
    assert plain(name) == taken


def test_names_that_were_changed_stay_apart() -> None:
    assert distinct("1.0") == "1.0"
    assert len({distinct(name) for name in ("1.0_a", "1.0+a", "1.0/a", "1.0@a")}) == 4
    assert shortened("x" * 250, 250) == "x" * 250
    cut = {shortened("x" * 250 + end, 250) for end in "ab"}
    assert (len(cut), {len(name) for name in cut}) == (2, {250})
