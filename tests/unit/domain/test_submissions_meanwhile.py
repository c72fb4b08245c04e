"""Submissions, and what happens while one is being read: the same one again, another first one, the end of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from connectors.records import ModelStatus, ReasonCode, UpdateStatus
from fedqueue.messages import SubmitModelUpdate
from tasks.domain.errors import ModelIsOver
from tasks.domain.submission import submit_update


def _meanwhile(bench: Any, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have that happen once, while the data of the next submission are read."""
    open_blob = bench.store.open

    def act_then_open(*arguments: Any) -> Any:
        monkeypatch.setattr(bench.store, "open", open_blob)
        act()
        return open_blob(*arguments)

    monkeypatch.setattr(bench.store, "open", act_then_open)


def test_a_repeat_is_answered_as_the_first_time_though_the_run_is_over_by_now(bench: Any) -> None:
    """Its sender never had the answer, and must not be told that what was counted was refused."""
    model, (one, _) = bench.model(max_rounds=1)
    message = SubmitModelUpdate(submission_id=uuid4(), model_id=model.uuid, client_id=one, data=[2.0], num_examples=3)
    first = submit_update(bench.hub, message)
    bench.post(model)
    assert bench.now(model).status is ModelStatus.RESULTS_UPLOADED
    again = submit_update(bench.hub, message)
    assert (again.update.id, again.update.status, again.repeated) == (first.update.id, UpdateStatus.COMPLETE, True)


def test_two_workers_that_have_the_same_submission_answer_alike(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither found it when it looked; the constraint lets one in, and the other answers with that one."""
    model, (one, _) = bench.model()
    message = SubmitModelUpdate(submission_id=uuid4(), model_id=model.uuid, client_id=one, data=[2.0], num_examples=3)
    answers = []
    _meanwhile(bench, monkeypatch, lambda: answers.append(submit_update(bench.hub, message)))
    answers.append(submit_update(bench.hub, message))
    assert [answer.repeated for answer in answers] == [False, True]
    assert answers[0].update.id == answers[1].update.id
    assert len(bench.metadata.pull_model_updates(model)) == 1


def test_a_run_that_ends_while_the_data_are_read_takes_no_update(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was open when the submission came, and is asked again under its lock."""
    model, (one, _) = bench.model()

    def stop() -> None:
        with bench.metadata.transaction():
            bench.metadata.update_model_status(model, ModelStatus.STOPPED)

    _meanwhile(bench, monkeypatch, stop)
    with pytest.raises(ModelIsOver, match="STOPPED"):
        bench.submit(model, one, [1.0])
    assert bench.metadata.pull_model_updates(model) == []


def test_of_two_first_updates_at_once_the_earlier_settles_the_shape(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody had said what the model looks like when the second was read: it is asked again under the lock."""
    model, (one, two) = bench.model(data_format="safetensors")
    _meanwhile(bench, monkeypatch, lambda: bench.submit_arrays(model, one, {"w": np.ones(3, "f4")}))
    late = bench.submit_arrays(model, two, {"w": np.ones((3, 3), "f4")})
    assert (late.status, late.reason_code) == (UpdateStatus.INVALID, ReasonCode.SHAPE)
    assert bench.post(model).num_updates == 1
