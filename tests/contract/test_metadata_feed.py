"""What runs tell, on every connector: feed, metrics, progress, silence.

Its length is that of the many ways to tell it twice, late or out of order.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.metadata import BaseMetadataConnector
from connectors.records import (
    ALL,
    FederatedModel,
    Kept,
    LogEntry,
    ModelStatus,
    NewLog,
    NewMetric,
    ProgressFacts,
)
from connectors.run_states import Ignored
from tasks.domain.progress import progress_of
from tests.contract.entries import add, log, measure, point, status, text

S = ModelStatus
FIRST, SECOND = UUID(int=1), UUID(int=2)


# --- feed and metrics -----------------------------------------------------------------------------


def test_an_entry_comes_back_as_it_was_given(connector: BaseMetadataConnector, world: Any) -> None:
    model, trust = world.model(), world.trust("King's")
    typed = log(
        model,
        "CLIENT_RESULT_RECEIVED",
        run_id=FIRST,
        trust_id=trust.id,
        fl_client_name="site-1",
        global_round=3,
        details={"size_bytes": 2_400_000, "deep": [1, {"x": None}]},
    )
    said = text(model, "out of memory ✓\nat layer 3", success=False)
    assert add(connector, typed, said) == [Kept.NEW, Kept.NEW]
    one, two = connector.pull_logs(model)
    for sent, found in ((typed, one), (said, two)):
        for field in dataclasses.fields(NewLog):
            assert getattr(found, field.name) == getattr(sent, field.name), field.name
    assert one.created_at is not None
    assert abs((datetime.now(UTC) - one.created_at).total_seconds()) < 60


def test_a_point_comes_back_as_it_was_given(connector: BaseMetadataConnector, world: Any) -> None:
    model, trust = world.model(), world.trust("King's")
    given_point = point(
        model,
        run_id=FIRST,
        trust_id=trust.id,
        fl_client_name="site-1",
        label="loss",
        x_label="Epochs",
        x_value=0.1,
        result=1e-300,
        global_round=7,
    )
    assert measure(connector, given_point) == [Kept.NEW]
    (found,) = connector.pull_metrics(model)
    for field in dataclasses.fields(NewMetric):
        assert getattr(found, field.name) == getattr(given_point, field.name), field.name
    assert found.created_at is not None


def test_an_entry_that_names_no_run_is_of_the_one_that_the_model_is_in(
    connector: BaseMetadataConnector, world: Any
) -> None:
    model = world.model()
    add(connector, text(model, "before"))
    status(connector, model, S.INITIATED, run_id=FIRST)
    add(connector, text(model, "within"))
    measure(connector, point(model))
    assert [entry.run_id for entry in connector.pull_logs(model)] == [None, FIRST, FIRST]
    assert [metric.run_id for metric in connector.pull_metrics(model)] == [FIRST]


def test_runs_are_read_apart_or_together(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    add(connector, text(model, "none"), text(model, "one", run_id=FIRST), text(model, "two", run_id=SECOND))
    measure(connector, point(model, x_value=1.0), point(model, x_value=2.0, run_id=FIRST))
    for run_id, words, xs in (
        (ALL, ["none", "one", "two"], [1.0, 2.0]),
        (None, ["none"], [1.0]),
        (FIRST, ["one"], [2.0]),
        (uuid4(), [], []),
    ):
        assert [entry.log for entry in connector.pull_logs(model, run_id=run_id)] == words
        assert [metric.x_value for metric in connector.pull_metrics(model, run_id=run_id)] == xs


def test_a_feed_is_paged_by_id_or_begun_at_its_newest(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    add(connector, *(text(model, str(number)) for number in range(5)))
    first = connector.pull_logs(model, limit=2)
    then = connector.pull_logs(model, after_id=first[-1].id)
    assert [entry.log for entry in (*first, *then)] == ["0", "1", "2", "3", "4"]
    newest = connector.pull_logs(model, limit=2, newest_first=True)
    assert [entry.log for entry in newest] == ["4", "3"]
    assert connector.pull_logs(model, after_id=newest[0].id, newest_first=True) == []


def test_a_thousand_entries_of_several_models_keep_their_order(connector: BaseMetadataConnector, world: Any) -> None:
    models = [world.model(clients=0) for _ in range(3)]
    entries = [text(models[number % 3], f"{number} ✓") for number in range(1000)]
    assert add(connector, *entries) == [Kept.NEW] * 1000
    for offset, model in enumerate(models):
        found = connector.pull_logs(model, limit=1000)
        assert [entry.log for entry in found] == [f"{number} ✓" for number in range(offset, 1000, 3)]
    assert add(connector, *entries) == [Kept.REPEATED] * 1000
    assert sum(len(connector.pull_logs(model, limit=1000)) for model in models) == 1000


def test_an_empty_batch_is_nothing(connector: BaseMetadataConnector) -> None:
    assert add(connector) == []
    assert measure(connector) == []


@pytest.mark.parametrize("in_one_batch", [True, False])
@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, Kept.REPEATED),
        ({"success": False}, Kept.CONFLICT),
        ({"global_round": 4}, Kept.CONFLICT),
        ({"event_type": "ROUND_STARTED"}, Kept.CONFLICT),
        ({"details": {"size_bytes": 2}}, Kept.CONFLICT),
        ({"details": {"size_bytes": True}}, Kept.CONFLICT),
        ({"details": {}}, Kept.CONFLICT),
        ({"fl_client_name": "site-2"}, Kept.CONFLICT),
        ({"run_id": SECOND}, Kept.CONFLICT),
        # What the hub found out, and may find otherwise the second time.
        ({"run_id": None}, Kept.REPEATED),
        ({"trust_id": None}, Kept.REPEATED),
    ],
    ids=str,
)
def test_an_event_id_is_kept_once_and_another_payload_under_it_is_told_apart(
    connector: BaseMetadataConnector, world: Any, changes: dict[str, Any], kept: Kept, in_one_batch: bool
) -> None:
    model, trust = world.model(), world.trust("King's")
    first = log(
        model,
        "CLIENT_RESULT_RECEIVED",
        run_id=FIRST,
        trust_id=trust.id,
        fl_client_name="site-1",
        global_round=3,
        details={"size_bytes": 1},
    )
    second = dataclasses.replace(first, **changes)
    other = text(model, "goes on")
    if in_one_batch:
        assert add(connector, first, second, other) == [Kept.NEW, kept, Kept.NEW]
    else:
        assert add(connector, first) == [Kept.NEW]
        assert add(connector, second, other) == [kept, Kept.NEW]
    found, _ = connector.pull_logs(model)
    assert (found.event_id, found.global_round, found.details) == (first.event_id, 3, {"size_bytes": 1})


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, Kept.REPEATED),
        ({"result": 0.25}, Kept.CONFLICT),
        ({"x_value": 2.0}, Kept.CONFLICT),
        ({"label": "loss"}, Kept.CONFLICT),
        ({"x_label": "Epochs"}, Kept.CONFLICT),
        ({"global_round": 1}, Kept.CONFLICT),
    ],
    ids=str,
)
def test_a_points_event_id_is_kept_once_too(
    connector: BaseMetadataConnector, world: Any, changes: dict[str, Any], kept: Kept
) -> None:
    model = world.model()
    first = point(model, result=0.1 + 0.2)
    assert measure(connector, first, dataclasses.replace(first, **changes)) == [Kept.NEW, kept]
    assert measure(connector, dataclasses.replace(first, **changes), first) == [kept, Kept.REPEATED]
    assert [metric.result for metric in connector.pull_metrics(model)] == [0.1 + 0.2]


def test_an_event_id_belongs_to_one_model(connector: BaseMetadataConnector, world: Any) -> None:
    one, two = world.model(), world.model()
    first = text(one, "mine")
    assert add(connector, first, dataclasses.replace(first, model_id=two.id)) == [Kept.NEW, Kept.CONFLICT]
    assert connector.pull_logs(two) == []


@pytest.mark.parametrize("first", ["log", "metric"])
def test_an_event_id_belongs_to_the_feed_or_to_the_metrics(
    connector: BaseMetadataConnector, world: Any, first: str
) -> None:
    model = world.model()
    line, mark = text(model, "hello"), point(model)
    same, other = FIRST, SECOND
    line, more = dataclasses.replace(line, event_id=same), text(model, "goes on", event_id=other)
    mark, next_mark = dataclasses.replace(mark, event_id=same), point(model, event_id=UUID(int=3))
    if first == "log":
        assert add(connector, line) == [Kept.NEW]
        assert measure(connector, mark, next_mark, mark) == [Kept.CONFLICT, Kept.NEW, Kept.CONFLICT]
        assert add(connector, line, more) == [Kept.REPEATED, Kept.NEW]
    else:
        assert measure(connector, mark) == [Kept.NEW]
        assert add(connector, line, more, line) == [Kept.CONFLICT, Kept.NEW, Kept.CONFLICT]
        assert measure(connector, mark, next_mark) == [Kept.REPEATED, Kept.NEW]
    assert [entry.event_id for entry in connector.pull_logs(model)] == ([same, other] if first == "log" else [other])
    marks = [metric.event_id for metric in connector.pull_metrics(model)]
    assert marks == ([next_mark.event_id] if first == "log" else [same, next_mark.event_id])


def test_a_feed_and_metrics_of_one_transaction_know_each_others_event_ids(
    connector: BaseMetadataConnector, world: Any
) -> None:
    model = world.model()
    with connector.transaction():
        assert connector.add_metrics([point(model, event_id=FIRST)]) == [Kept.NEW]
        assert connector.add_logs([text(model, "hello", event_id=FIRST)]) == [Kept.CONFLICT]
    assert connector.pull_logs(model) == []


def test_entries_and_points_are_found_by_their_event_ids(connector: BaseMetadataConnector, world: Any) -> None:
    one, two = world.model(), world.model()
    add(connector, text(one, "a", event_id=FIRST), text(two, "b"))
    measure(connector, point(two, event_id=SECOND), point(one))
    found = connector.pull_entries([FIRST, SECOND, UUID(int=9)])
    assert found == {FIRST: connector.pull_logs(one)[0], SECOND: connector.pull_metrics(two)[0]}
    assert connector.pull_entries([]) == {}


def test_a_status_under_a_points_event_id_changes_nothing(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    assert measure(connector, point(model, event_id=FIRST)) == [Kept.NEW]
    change = status(connector, model, S.RUNNING, event_id=FIRST)
    assert (change.changed, change.reason) == (False, Ignored.REUSED)
    assert status(connector, model, S.RUNNING, event_id=SECOND).changed


def test_numbers_that_a_database_spells_otherwise_are_the_same(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    entry = log(model, details={"large": 1e300, "whole": 2.0, "small": 0.1, "minus": -0.0, "long": 2**70})
    assert add(connector, entry) == [Kept.NEW]
    assert add(connector, entry) == [Kept.REPEATED]


# --- progress and silence -------------------------------------------------------------------------


def _progress(model: FederatedModel, trust: int, run_id: UUID | None = None) -> list[NewLog]:
    """Three rounds, the third under way; one client falls out in the second and one says no round when it fails."""
    site = {"fl_client_name": "site-1", "trust_id": trust, "run_id": run_id}
    return [
        log(model, "ROUND_STARTED", global_round=1, details={"total_rounds": 5}, run_id=run_id),
        log(model, "CLIENT_RESULT_RECEIVED", global_round=1, **site),
        log(model, "ROUND_AGGREGATED", global_round=1, run_id=run_id),
        log(model, "ROUND_STARTED", global_round=2, details={"total_rounds": "many"}, run_id=run_id),
        log(model, "CLIENT_DROPPED", global_round=2, fl_client_name="ward 7", run_id=run_id),
        log(model, "CLIENT_RESULT_RECEIVED", global_round=2, **site),
        log(model, "ROUND_AGGREGATED", global_round=2, run_id=run_id),
        log(model, "ROUND_STARTED", global_round=3, run_id=run_id),
        text(model, "out of memory", success=False, fl_client_name="ward 8", run_id=run_id),
        # Neither says that anybody has left.
        log(model, "UPDATE_QUARANTINED", success=False, fl_client_name="ward 9", global_round=3, run_id=run_id),
        text(model, "the server is slow", success=False, run_id=run_id),
    ]


@pytest.mark.parametrize("run_id", [None, FIRST])
def test_progress_is_read_from_maxima_whatever_comes_twice_or_out_of_order(
    connector: BaseMetadataConnector, world: Any, run_id: UUID | None
) -> None:
    model, trust = world.model(), world.trust("King's")
    told = _progress(model, trust.id, run_id)
    late = log(model, "ROUND_STARTED", global_round=1, run_id=run_id)
    elsewhere = log(model, "ROUND_STARTED", global_round=9, run_id=SECOND)
    add(connector, *told, late, elsewhere)
    add(connector, *told)
    facts = connector.pull_progress_facts(model, run_id)
    assert (facts.total_rounds, facts.started_round, facts.aggregated_round) == (5, 3, 2)
    assert facts.returned == {trust.id: 2}
    assert facts.dropped == {"ward 7": 2, "ward 8": 3}
    assert [number for number, _, _ in facts.round_times] == [1, 2, 3]
    assert [ended is not None for _, _, ended in facts.round_times] == [True, True, False]
    assert all(begun is not None for _, begun, _ in facts.round_times)
    assert facts.last_event_at is not None


def test_a_run_that_has_told_nothing_has_no_progress(connector: BaseMetadataConnector, world: Any) -> None:
    facts = connector.pull_progress_facts(world.model(), None)
    assert (facts.total_rounds, facts.started_round, facts.aggregated_round, facts.round_times) == (None, 0, 0, ())
    assert (facts.returned, facts.dropped, facts.last_event_at) == ({}, {}, None)


def test_only_the_newest_rounds_are_timed(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    rounds = [
        log(model, kind, global_round=number)
        for number in range(1, 31)
        for kind in ("ROUND_STARTED", "ROUND_AGGREGATED")
    ]
    add(connector, *rounds)
    facts = connector.pull_progress_facts(model, None)
    assert [number for number, _, _ in facts.round_times] == list(range(11, 31))
    assert facts.started_round == 30


def test_a_total_that_the_first_round_alone_named_holds_for_the_whole_run(
    connector: BaseMetadataConnector, world: Any
) -> None:
    model = world.model()
    odd: list[Any] = [True, "40", 40.5, None, 0, -1, [40], {"total_rounds": 40}]
    rounds = [log(model, "ROUND_STARTED", global_round=n, details={"num_updates": n}) for n in range(2, 31)]
    nonsense = [log(model, "ROUND_STARTED", global_round=30, details={"total_rounds": total}) for total in odd]
    add(connector, *nonsense)
    assert connector.pull_progress_facts(model, None).total_rounds is None
    named = [log(model, "ROUND_STARTED", global_round=1, details={"total_rounds": total}) for total in (9, 30, 30)]
    ended = log(model, "ROUND_AGGREGATED", global_round=1, details={"total_rounds": 99})
    add(connector, *named, *rounds, ended)
    assert connector.pull_progress_facts(model, None).total_rounds == 30


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_failure_without_a_round_counts_for_the_newest_round_whichever_came_first(
    connector: BaseMetadataConnector, world: Any, is_reversed: bool
) -> None:
    model = world.model()
    told = [
        log(model, "ROUND_STARTED", global_round=1),
        text(model, "no GPU", success=False, fl_client_name="site-1"),
        log(model, "ROUND_STARTED", global_round=2),
        log(model, "CLIENT_RESULT_RECEIVED", global_round=2, fl_client_name="site-2"),
        log(model, "CLIENT_DROPPED", fl_client_name="site-2"),
        log(model, "CLIENT_DROPPED", global_round=1, fl_client_name="site-3"),
    ]
    for entry in told[::-1] if is_reversed else told:
        add(connector, entry)
    facts = connector.pull_progress_facts(model, None)
    assert facts.dropped == {"site-1": 2, "site-2": 2, "site-3": 1}
    progress = progress_of(facts, [], max_rounds=None, is_over=False, now=datetime.now(UTC))
    states = {each.member.name: str(each.state) for each in progress.participants}
    assert states == {"site-1": "dropped", "site-2": "returned", "site-3": "dropped"}


# (kind, round if it names one, sender); None: a failed report in free text.
_FACTS = st.lists(
    st.tuples(
        st.sampled_from(["ROUND_STARTED", "CLIENT_RESULT_RECEIVED", "ROUND_AGGREGATED"]),
        st.integers(1, 4),
        st.sampled_from(["a", "b"]),
    )
    | st.tuples(
        st.sampled_from(["CLIENT_DROPPED", None]), st.sampled_from([None, 1, 2, 3, 4]), st.sampled_from(["a", "b"])
    ),
    max_size=10,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_FACTS, st.data())
def test_progress_is_the_same_in_any_order_of_arrival(
    connector: BaseMetadataConnector, world: Any, facts: list[tuple[str | None, int | None, str]], data: st.DataObject
) -> None:
    def told(order: list[tuple[str | None, int | None, str]]) -> ProgressFacts:
        model = world.model()
        entries = [
            log(
                model,
                kind,
                log=None if kind else "no GPU",
                success=kind is not None,
                global_round=number,
                fl_client_name=None if (kind or "").startswith("ROUND") else sender,
                details={"total_rounds": 3 + number} if kind == "ROUND_STARTED" and number else {},
            )
            for kind, number, sender in order
        ]
        add(connector, *entries)
        return dataclasses.replace(connector.pull_progress_facts(model, None), round_times=(), last_event_at=None)

    assert told(data.draw(st.permutations(facts))) == told(facts)


def test_a_run_under_way_that_says_nothing_for_its_timeout_is_silent(
    connector: BaseMetadataConnector, world: Any
) -> None:
    quiet, patient, without, over, waiting, gone = (
        world.model(silence_timeout=timeout) for timeout in (60.0, 600.0, None, 60.0, 60.0, 60.0)
    )
    for model in (quiet, patient, without, over, gone):
        status(connector, model, S.RUNNING, run_id=uuid4())
    status(connector, over, S.STOPPED)
    world.delete(gone)
    now = datetime.now(UTC)
    assert connector.pull_silent_models(now + timedelta(seconds=30)) == []
    ((found, heard),) = connector.pull_silent_models(now + timedelta(seconds=120))
    assert found == world.now(quiet)
    assert abs((heard - now).total_seconds()) < 30
    assert [m.id for m, _ in connector.pull_silent_models(now + timedelta(seconds=900))] == [quiet.id, patient.id]
    assert waiting.id not in [m.id for m, _ in connector.pull_silent_models(now + timedelta(days=900))]


def test_any_entry_or_point_of_the_current_run_breaks_the_silence_and_an_old_runs_does_not(
    connector: BaseMetadataConnector, world: Any
) -> None:
    model = world.model(silence_timeout=0.05)
    status(connector, model, S.RUNNING, run_id=FIRST)
    status(connector, model, S.INITIATED, run_id=SECOND)

    def heard() -> datetime:
        ((_, at),) = connector.pull_silent_models(datetime.now(UTC) + timedelta(seconds=1))
        return at

    times = [heard()]
    add(connector, text(model, "still at it"))
    times.append(heard())
    measure(connector, point(model))
    times.append(heard())
    assert times == sorted(set(times)), "each was heard"
    add(connector, text(model, "late", run_id=FIRST))
    measure(connector, point(model, run_id=FIRST))
    assert heard() == times[-1]


def test_a_model_whose_round_a_worker_holds_is_not_silent(connector: BaseMetadataConnector, world: Any) -> None:
    """A long aggregation tells nothing until it is done; its lease says that somebody is at it."""
    model = world.model(silence_timeout=1.0)
    status(connector, model, S.RUNNING)
    later = datetime.now(UTC) + timedelta(seconds=60)
    assert len(connector.pull_silent_models(later)) == 1
    with connector.transaction():
        connector.claim_model(model, 60_000)
    assert connector.pull_silent_models(later) == []


def test_entries_written_before_runs_were_named_are_read_as_ever(connector: BaseMetadataConnector, world: Any) -> None:
    model = world.model()
    with connector.transaction():
        connector.add_log(model, "ROUND_AGGREGATED", event_id=uuid4(), global_round=1, details={"returned": 2})
    (entry,) = connector.pull_logs(model)
    assert isinstance(entry, LogEntry)
    assert (entry.run_id, entry.trust_id, entry.fl_client_name) == (None, None, None)
