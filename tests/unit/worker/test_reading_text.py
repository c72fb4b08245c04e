"""Feed, metrics and progress as text: readable in 80 columns, whatever comes from outside."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedqueue.messages import LogView, ParticipantView, PlotView, PointView, ProgressView, SeriesView
from worker.cli.reading_text import feed_lines, plot_lines, progress_lines, readable_duration

NOON = datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)


def entry(text: str, *, success: bool = True, sender: str | None = "KCH") -> LogView:
    return LogView(id=1, created_at=NOON, text=text, success=success, sender=sender)


def test_an_entry_is_its_time_its_sender_and_its_words() -> None:
    assert feed_lines(entry("Round 3 weights uploaded · 2.3 MB"), 80) == [
        "01-31 12:00:05    KCH           Round 3 weights uploaded · 2.3 MB"
    ]


def test_a_failure_is_marked() -> None:
    assert feed_lines(entry("out of memory", success=False), 80)[0].startswith("01-31 12:00:05  ! KCH")


def test_a_long_entry_goes_on_under_its_own_words() -> None:
    lines = feed_lines(entry("word " * 20), 80)
    assert len(lines) == 3
    assert all(len(line) <= 80 for line in lines)
    assert all(line.startswith(" " * 32 + "word") for line in lines[1:])


def test_lines_of_free_text_stay_lines() -> None:
    assert [line[32:] for line in feed_lines(entry("first\n\nthird"), 80)] == ["first", "", "third"]


@settings(deadline=None)
@given(st.text(), st.text())
def test_nothing_from_outside_steers_the_terminal(text: str, sender: str) -> None:
    for line in feed_lines(entry(text, sender=sender), 80):
        assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs") for letter in line)


def series(*results: float, sender: str | None = None, run_id: UUID | None = None) -> SeriesView:
    points = [PointView(x_value=float(x), result=result) for x, result in enumerate(results, 1)]
    return SeriesView(sender=sender, run_id=run_id, points=points)


def test_a_plot_shows_where_each_series_began_ended_and_went() -> None:
    plot = PlotView(
        label="accuracy", x_label="Global Rounds", series=[series(0.5, 0.7, 0.6, sender="KCH"), series(1 / 3)]
    )
    assert plot_lines(plot, 80) == [
        "accuracy over Global Rounds",
        "         points   first    last  lowest  highest",
        "KCH           3     0.5     0.6     0.5      0.7  ▁█▅",
        "(model)       1  0.3333  0.3333  0.3333   0.3333",
    ]


def test_runs_are_told_apart_where_there_are_several() -> None:
    runs = [uuid4(), uuid4()]
    plot = PlotView(label="loss", x_label="Steps", series=[series(1.0, sender="KCH", run_id=run) for run in runs])
    assert [line.split("  ")[0] for line in plot_lines(plot, 80)[2:]] == ["KCH · run 1", "KCH · run 2"]


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=0, max_size=60), st.text(), st.text())
def test_a_plot_fits_80_columns(results: list[float], label: str, sender: str) -> None:
    plot = PlotView(label=label, x_label="x", series=[series(*results, sender=sender)])
    for line in plot_lines(plot, 80)[1:]:
        assert len(line) <= 80
        assert line.isprintable()


def test_progress_says_where_the_run_is_and_who_takes_part() -> None:
    run_id = UUID(int=7)
    view = ProgressView(
        model_id=UUID(int=1),
        status="RUNNING",
        run_id=run_id,
        current_round=3,
        completed_rounds=2,
        total_rounds=20,
        participants=[
            ParticipantView(name="KCH", state="returned", last_round=3),
            ParticipantView(name="UCLH", state="dropped"),
        ],
        last_event_at=NOON,
        eta_seconds=3725.0,
        next_aggregate="waiting",
        waits_for="krum: 3 of 5 updates, the fewest it takes with its parameters",
    )
    assert progress_lines(view, "digits") == [
        "digits · RUNNING",
        f"round 3 of 20, 2 completed · run {run_id}",
        "about 1 h 2 min left",
        "last heard of 2026-01-31 12:00:05 UTC",
        "next aggregate waiting: krum: 3 of 5 updates, the fewest it takes with its",
        "  parameters",
        "  KCH   returned  last result in round 3",
        "  UCLH  dropped   no result yet",
    ]
    assert max(map(len, progress_lines(view, "digits"))) <= 80


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (40.4, "40 s"), (60, "1 min"), (200, "3 min 20 s"), (7_500, "2 h 5 min"), (273_600, "3 d 4 h")],
)
def test_a_duration_is_told_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert readable_duration(seconds) == text
