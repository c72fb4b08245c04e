"""Limits on submissions: who is refused, what they are told, and when the same message is accepted after all."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from connectors.records import FederatedModel, UpdateStatus
from fedqueue.messages import SubmitModelUpdate
from tasks.domain import submission
from tasks.domain.admission import check_room
from tasks.domain.errors import LimitExceeded
from tasks.domain.submission import submit_update
from tests.unit.domain.conftest import Bench


def message(model: FederatedModel, client: UUID, **fields: Any) -> SubmitModelUpdate:
    named = {"submission_id": uuid4(), "model_id": model.uuid, "client_id": client, "data": [1.0]}
    return SubmitModelUpdate(**(named | fields))


def refused(bench: Bench, sent: SubmitModelUpdate) -> LimitExceeded:
    before = bench.metadata.pull_model_updates()
    with pytest.raises(LimitExceeded) as refusal:
        submit_update(bench.hub, sent)
    assert bench.metadata.pull_model_updates() == before, "a refusal leaves no row"
    return refusal.value


def test_a_clients_rate_is_a_minutes_worth_at_once_and_then_as_it_fills_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path, client_submissions_per_minute=3)
    model, (one, two) = bench.model()
    for _ in range(3):
        submit_update(bench.hub, message(model, one))
    early = message(model, one)
    refusal = refused(bench, early)
    assert (refusal.rule, refusal.limit, refusal.found, refusal.field) == (
        "client_submissions_per_minute",
        3,
        4,
        "client_id",
    )
    assert refusal.retry_after == 20.0
    assert str(one) in refusal.reason
    assert "20 s" in refusal.reason
    submit_update(bench.hub, message(model, two))  # the rate is each client's own
    bench.milliseconds += 19_999
    assert refused(bench, early).retry_after == 0.001
    bench.milliseconds += 1
    assert submit_update(bench.hub, early).update.status is UpdateStatus.PENDING
    refused(bench, message(model, one))


def test_a_rate_that_was_not_used_does_not_add_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path, client_submissions_per_minute=3)
    model, (one, _) = bench.model()
    bench.milliseconds += 3_600_000
    for _ in range(3):
        submit_update(bench.hub, message(model, one))
    refused(bench, message(model, one))


def test_a_models_rate_is_that_of_all_its_clients_and_of_no_other_model(tmp_path: Path) -> None:
    bench = Bench(tmp_path, model_submissions_per_minute=2)
    model, (one, two) = bench.model()
    other, (third, _) = bench.model()
    submit_update(bench.hub, message(model, one))
    submit_update(bench.hub, message(model, two))
    refusal = refused(bench, message(model, one))
    assert (refusal.rule, refusal.found, refusal.field) == ("model_submissions_per_minute", 3, "model_id")
    submit_update(bench.hub, message(other, third))


@pytest.mark.parametrize(
    ("rule", "limit", "found", "field"),
    [
        ("client_open_updates", 2, 3, "client_id"),
        ("model_open_updates", 2, 3, "model_id"),
        ("client_open_bytes", 11, 15, "client_id"),
        ("model_open_bytes", 11, 15, "model_id"),
    ],
)
def test_what_waits_for_rounds_is_limited_until_a_round_has_taken_it(
    tmp_path: Path, rule: str, limit: int, found: int, field: str
) -> None:
    """[1.0] is five bytes."""
    bench = Bench(tmp_path, **{rule: limit})
    model, (one, _) = bench.model(allow_repeats=True)
    submit_update(bench.hub, message(model, one))
    submit_update(bench.hub, message(model, one))
    late = message(model, one)
    refusal = refused(bench, late)
    assert (refusal.rule, refusal.limit, refusal.found, refusal.field) == (rule, limit, found, field)
    assert refusal.retry_after == bench.hub.settings.sweep_seconds
    bench.post(model)
    assert submit_update(bench.hub, late).update.status is UpdateStatus.PENDING


def test_an_accepted_submission_is_answered_however_full_it_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path, client_open_updates=1, client_submissions_per_minute=1)
    model, (one, _) = bench.model()
    accepted = message(model, one)
    first = submit_update(bench.hub, accepted)
    refused(bench, message(model, one))
    again = submit_update(bench.hub, accepted)
    assert (again.update, again.repeated) == (first.update, True)


def test_a_repeat_that_overtakes_itself_is_answered_and_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both copies are looked up before either is written, and one of them takes the last place."""
    bench = Bench(tmp_path, client_open_updates=1)
    model, (one, _) = bench.model()
    sent = message(model, one)
    look_up = submission._answered_before

    def at_the_same_moment(*arguments: Any) -> Any:
        monkeypatch.setattr(submission, "_answered_before", look_up)
        answered_before = look_up(*arguments)
        submit_update(bench.hub, sent)
        return answered_before

    monkeypatch.setattr(submission, "_answered_before", at_the_same_moment)
    assert submit_update(bench.hub, sent).repeated


def test_the_last_place_is_given_once_though_two_found_it_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look, under the model's lock, is the one that counts."""
    bench = Bench(tmp_path, client_open_updates=1)
    model, (one, _) = bench.model()

    def both_find_it_free(*arguments: Any) -> None:
        monkeypatch.setattr("tasks.domain.submission.check_room", check_room)
        check_room(*arguments)
        submit_update(bench.hub, message(model, one))

    monkeypatch.setattr("tasks.domain.submission.check_room", both_find_it_free)
    with pytest.raises(LimitExceeded):
        submit_update(bench.hub, message(model, one))
    assert len(bench.metadata.pull_model_updates()) == 1


def test_a_refused_updates_data_is_not_read(tmp_path: Path) -> None:
    """A flood costs the hub a look at the counts, and no more."""
    bench = Bench(tmp_path, client_open_updates=1)
    model, (one, _) = bench.model()
    submit_update(bench.hub, message(model, one))
    stored = sorted((tmp_path / "store").rglob("*"))
    refused(bench, message(model, one, data=[2.0]))
    refused(bench, message(model, one, data=None, data_uri="file:///nowhere/at/all", digest="0" * 64))
    assert sorted((tmp_path / "store").rglob("*")) == stored


def test_those_who_are_not_registered_share_one_rate(tmp_path: Path) -> None:
    """Each of their updates leaves a row saying why it was set aside: as many as one client may send."""
    bench = Bench(tmp_path, client_submissions_per_minute=2)
    model, (one, _) = bench.model()
    for _ in range(2):
        assert submit_update(bench.hub, message(model, uuid4())).update.status is UpdateStatus.INVALID
    refusal = refused(bench, message(model, uuid4()))
    assert "not registered" in refusal.reason
    submit_update(bench.hub, message(model, one))


def test_without_limits_nothing_is_asked_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = dict.fromkeys(("client_submissions_per_minute", "client_open_updates", "model_open_updates"))
    bench = Bench(tmp_path, **nothing)
    model, (one, _) = bench.model()
    monkeypatch.delattr(type(bench.metadata), "pull_submission_load")
    monkeypatch.delattr(type(bench.metadata), "register_submission")
    assert submit_update(bench.hub, message(model, one)).update.status is UpdateStatus.PENDING


def test_by_default_no_limit_stands_that_a_large_deployment_may_meet(bench: Bench) -> None:
    settings = bench.hub.settings
    assert (settings.client_submissions_per_minute, settings.client_open_updates) == (6_000, 1_000)
    assert (settings.model_submissions_per_minute, settings.model_open_updates) == (None, 100_000)
    assert (settings.client_open_bytes, settings.model_open_bytes) == (None, None)
