"""The status of a run goes forward only, and an earlier run's callback touches no later one (DESIGN 4.2)."""

from __future__ import annotations

from itertools import product
from uuid import UUID

import pytest

from connectors.records import AuditAction, ModelStatus
from connectors.run_states import (
    FAILED_STATUSES,
    FINAL,
    Decision,
    Ignored,
    as_status,
    decide,
    event_id_of,
    may_become,
)

S = ModelStatus
_NOT_INITIATED = [status for status in S if status is not S.INITIATED]
_CHAIN = [S.PENDING, S.INITIATED, S.PREPARED, S.RUNNING]
_OVER = [S.RESULTS_UPLOADED, S.RESULTS_UPLOAD_FAILED, S.ERROR, S.STOPPED]
FIRST, SECOND, UNKNOWN = UUID(int=1), UUID(int=2), UUID(int=3)


@pytest.mark.parametrize(("status", "to"), list(product(S, S)))
def test_a_status_moves_forward_or_out_and_nowhere_else(status: ModelStatus, to: ModelStatus) -> None:
    """All 64 pairs: a late INITIATED once un-stopped a model (DESIGN 11)."""
    if status in _OVER:
        expected = False
    elif to in _OVER:
        expected = True
    else:
        expected = _CHAIN.index(to) > _CHAIN.index(status)
    assert may_become(status, to) is expected


def test_the_states_that_end_a_run_and_those_that_tell_of_failure() -> None:
    assert set(_OVER) == FINAL
    assert {S.ERROR, S.STOPPED, S.RESULTS_UPLOAD_FAILED} == FAILED_STATUSES


@pytest.mark.parametrize(("status", "to"), list(product(S, S)))
@pytest.mark.parametrize("run_id", [None, SECOND], ids=["of no run", "of the current run"])
def test_within_its_run_a_status_follows_the_table_and_never_begins_another(
    status: ModelStatus, to: ModelStatus, run_id: UUID | None
) -> None:
    decision = decide(status, SECOND, {FIRST, SECOND}, to, run_id)
    assert decision.change is may_become(status, to)
    assert decision.new_run is None
    assert bool(decision.reason) is not decision.change


@pytest.mark.parametrize(
    ("status", "to", "reason"),
    [
        (S.RUNNING, S.RUNNING, Ignored.REPEATED),
        (S.STOPPED, S.STOPPED, Ignored.REPEATED),
        (S.RUNNING, S.PREPARED, Ignored.BACKWARD),
        (S.RUNNING, S.PENDING, Ignored.BACKWARD),
        (S.STOPPED, S.INITIATED, Ignored.OVER),
        (S.STOPPED, S.RESULTS_UPLOADED, Ignored.OVER),
        (S.RESULTS_UPLOADED, S.ERROR, Ignored.OVER),
    ],
)
def test_what_changes_nothing_says_why(status: ModelStatus, to: ModelStatus, reason: str) -> None:
    assert decide(status, None, set(), to).reason == reason


@pytest.mark.parametrize(("status", "to"), list(product(S, S)))
def test_an_earlier_runs_callback_changes_nothing_whatever_it_says(status: ModelStatus, to: ModelStatus) -> None:
    """With no run id an old run's callback hit the retry (DESIGN 11)."""
    for by_user in (False, True):
        decision = decide(status, SECOND, {FIRST, SECOND}, to, FIRST, by_user)
        assert decision == Decision(False, reason=Ignored.STALE_RUN)


@pytest.mark.parametrize("status", list(S))
@pytest.mark.parametrize("current", [None, FIRST])
def test_an_unknown_runs_initiated_begins_it_whatever_stood_before(status: ModelStatus, current: UUID | None) -> None:
    """Amid a RUNNING one, too: the FL server has started anew."""
    assert decide(status, current, {FIRST}, S.INITIATED, UNKNOWN) == Decision(True, new_run=UNKNOWN)


@pytest.mark.parametrize(("status", "to"), list(product(S, _NOT_INITIATED)))
def test_an_unknown_runs_other_status_is_stale_once_a_run_has_a_name(status: ModelStatus, to: ModelStatus) -> None:
    assert decide(status, FIRST, {FIRST}, to, UNKNOWN) == Decision(False, reason=Ignored.STALE_RUN)


@pytest.mark.parametrize(("status", "to"), list(product(_CHAIN, _NOT_INITIATED)))
def test_a_first_run_without_a_name_takes_that_of_the_first_callback_that_moves_it(
    status: ModelStatus, to: ModelStatus
) -> None:
    """A user initiates, and the FL server begins to report under an id of its own: PREPARED must not be lost."""
    decision = decide(status, None, set(), to, UNKNOWN)
    assert decision.change is may_become(status, to)
    assert decision.new_run == (UNKNOWN if decision.change else None)


@pytest.mark.parametrize(("status", "to"), list(product(_OVER, _NOT_INITIATED)))
def test_a_run_that_is_over_takes_no_name_any_more(status: ModelStatus, to: ModelStatus) -> None:
    assert decide(status, None, set(), to, UNKNOWN) == Decision(False, reason=Ignored.STALE_RUN)


@pytest.mark.parametrize("status", _OVER)
def test_a_users_initiated_begins_a_run_of_a_new_name_where_the_last_is_over(status: ModelStatus) -> None:
    decision = decide(status, FIRST, {FIRST}, S.INITIATED, by_user=True)
    assert decision.change
    assert decision.new_run not in (None, FIRST)


@pytest.mark.parametrize("status", _OVER)
def test_nobody_elses_late_initiated_does_nor_a_users_that_names_the_run_that_is_over(status: ModelStatus) -> None:
    assert not decide(status, FIRST, {FIRST}, S.INITIATED).change
    assert not decide(status, FIRST, {FIRST}, S.INITIATED, FIRST, by_user=True).change
    assert not decide(status, FIRST, {FIRST}, S.RUNNING, by_user=True).change


def test_a_users_initiated_amid_a_run_changes_nothing() -> None:
    assert decide(S.RUNNING, FIRST, {FIRST}, S.INITIATED, by_user=True).reason == Ignored.BACKWARD


def test_what_fl_servers_call_a_status_is_understood() -> None:
    assert as_status("TRAINING_STARTED") is S.RUNNING
    assert as_status("STOPPED") is S.STOPPED
    with pytest.raises(ValueError, match="known are PENDING"):
        as_status("CANCELLED")


def test_an_entrys_id_follows_from_model_run_and_status_alone() -> None:
    model, ids = UUID(int=9), set()
    for run, status in product([None, FIRST, SECOND], S):
        assert event_id_of(model, run, status) == event_id_of(model, run, status)
        ids.add(event_id_of(model, run, status))
    assert len(ids) == 3 * len(S)


def test_every_status_but_the_first_is_audited() -> None:
    """PENDING is where a model begins."""
    assert {status for status in S if status in AuditAction.__members__} == set(S) - {S.PENDING}
