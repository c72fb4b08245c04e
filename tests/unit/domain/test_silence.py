"""A run that falls silent ends in ERROR, once, and says since when; nothing that comes later brings it back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from connectors.records import FederatedModel, LogEntry, ModelStatus, NewLog, NewMetric
from fedqueue.messages import UpdateStatus
from tasks.domain.lifecycle import change_status
from tasks.domain.rendering import render
from tasks.domain.runs import update_status
from tasks.domain.silence import end_silent_runs
from tests.unit.domain.conftest import Bench


def told(bench: Bench, model: FederatedModel, event_type: str) -> list[LogEntry]:
    return [entry for entry in bench.metadata.pull_logs(model) if entry.event_type == event_type]


def after(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def tell(bench: Bench, model: FederatedModel, **fields: Any) -> None:
    with bench.metadata.transaction():
        bench.metadata.add_logs([NewLog(model_id=model.id, event_id=uuid4(), **fields)])


def test_a_silent_run_ends_in_error_and_says_since_when(bench: Bench) -> None:
    model, _ = bench.model(silence_timeout=60)
    heard = bench.metadata.pull_logs(model)[-1].created_at
    assert heard is not None
    assert end_silent_runs(bench.hub, after(61)) == 1
    assert bench.now(model).status is ModelStatus.ERROR
    (entry,) = told(bench, model, "RUN_SILENT")
    assert not entry.success
    since = f"{heard:%Y-%m-%d %H:%M:%S} UTC"
    assert render(entry) == f"Given up: nothing was heard of the run since {since} (it may be silent for 60 s)"


def test_it_ends_once_however_often_it_is_looked_for(bench: Bench) -> None:
    model, _ = bench.model(silence_timeout=60)
    assert [end_silent_runs(bench.hub, after(61 + sweep)) for sweep in range(3)] == [1, 0, 0]
    assert len(told(bench, model, "RUN_SILENT")) == len(told(bench, model, "ERROR")) == 1


def test_a_late_word_changes_nothing(bench: Bench) -> None:
    model, _ = bench.model(silence_timeout=60)
    end_silent_runs(bench.hub, after(61))
    tell(bench, model, event_type="ROUND_STARTED", global_round=4)
    with bench.metadata.transaction():
        change = change_status(bench.hub, bench.metadata.lock_model(model), ModelStatus.RUNNING)
    assert (change.changed, bench.now(model).status) == (False, ModelStatus.ERROR)
    assert end_silent_runs(bench.hub, after(200)) == 0


@pytest.mark.parametrize("seconds", [1, 59])
def test_a_run_that_was_heard_of_in_time_goes_on(bench: Bench, seconds: float) -> None:
    model, _ = bench.model(silence_timeout=60)
    heard = bench.metadata.pull_logs(model)[-1].created_at
    assert heard is not None
    assert end_silent_runs(bench.hub, heard + timedelta(seconds=seconds)) == 0
    assert bench.now(model).status is ModelStatus.INITIATED


def test_a_metric_is_a_word_too(bench: Bench) -> None:
    model, _ = bench.model(silence_timeout=0.2)
    heard = bench.metadata.pull_logs(model)[-1].created_at
    assert heard is not None
    point = NewMetric(model_id=model.id, event_id=uuid4(), label="loss", x_label="x", x_value=1.0, result=0.5)
    with bench.metadata.transaction():
        bench.metadata.add_metrics([point])
    written = bench.metadata.pull_metrics(model)[0].created_at
    assert written is not None
    assert end_silent_runs(bench.hub, written + timedelta(seconds=0.1)) == 0
    assert end_silent_runs(bench.hub, written + timedelta(seconds=0.3)) == 1


def test_a_status_that_changes_nothing_is_a_word_too(bench: Bench) -> None:
    """An FL server whose only sign of life is to say again that it is running."""
    model, _ = bench.model(silence_timeout=60)
    fed = len(bench.metadata.pull_logs(model))
    for _ in range(3):
        update_status(bench.hub, UpdateStatus(model_id=model.uuid, status="INITIATED", event_id=uuid4()))
    spoken = datetime.now(UTC)
    assert len(bench.metadata.pull_logs(model)) == fed
    ((_, heard),) = bench.metadata.pull_silent_models(spoken + timedelta(seconds=61))
    written = bench.metadata.pull_logs(model)[-1].created_at
    assert written is not None
    assert heard > written
    assert end_silent_runs(bench.hub, written + timedelta(seconds=60)) == 0


def test_a_run_that_speaks_up_between_the_look_and_the_end_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the sweep found is looked at again under the model's lock."""
    model, _ = bench.model(silence_timeout=60)
    now = after(61)
    found = bench.metadata.pull_silent_models(now)
    looks = iter([found, []])
    monkeypatch.setattr(bench.metadata, "pull_silent_models", lambda _now: next(looks))
    assert end_silent_runs(bench.hub, now) == 0
    assert bench.now(model).status is ModelStatus.INITIATED


@pytest.mark.parametrize("policy", [{}, {"clients": 0, "silence_timeout": 60}])
def test_who_has_no_timeout_or_has_not_begun_may_be_silent(bench: Bench, policy: dict[str, Any]) -> None:
    """Off by default."""
    model, _ = bench.model(**policy)
    assert end_silent_runs(bench.hub, after(1e6)) == 0
    assert told(bench, model, "RUN_SILENT") == []
