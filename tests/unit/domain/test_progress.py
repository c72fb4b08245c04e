"""How far a run is: from maxima, so that what comes twice, late or out of order changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.memory import InMemoryMetadataConnector
from connectors.records import FederatedModel, NewLog, ProgressFacts
from tasks.domain.progress import Member, ParticipantState, Progress, progress_of

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
A, B = Member(1, "A"), Member(2, "B")

NOTHING = ProgressFacts(
    total_rounds=None,
    started_round=0,
    aggregated_round=0,
    round_times=(),
    returned={},
    dropped={},
    last_event_at=None,
)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def progress(
    facts: ProgressFacts,
    members: Sequence[Member] = (A, B),
    *,
    max_rounds: int | None = None,
    is_over: bool = False,
    now: datetime = START,
) -> Progress:
    return progress_of(facts, members, max_rounds=max_rounds, is_over=is_over, now=now)


def states(found: Progress) -> dict[str, str]:
    return {each.member.name: str(each.state) for each in found.participants}


def test_a_run_that_has_told_nothing_is_at_round_0_and_waits() -> None:
    found = progress(NOTHING)
    assert (found.current_round, found.completed_rounds, found.total_rounds, found.eta_seconds) == (0, 0, None, None)
    assert states(found) == {"A": "waiting", "B": "waiting"}


def test_in_a_round_one_has_returned_and_the_other_trains() -> None:
    facts = replace(NOTHING, started_round=2, aggregated_round=1, total_rounds=3, returned={1: 2, 2: 1})
    found = progress(facts)
    assert (found.current_round, found.completed_rounds, found.total_rounds) == (2, 1, 3)
    assert states(found) == {"A": "returned", "B": "training"}
    assert [each.last_round for each in found.participants] == [2, 1]


def test_a_result_tells_of_a_round_whose_start_was_not_told_yet() -> None:
    assert progress(replace(NOTHING, started_round=1, returned={1: 2})).current_round == 2


@pytest.mark.parametrize(
    ("returned", "dropped", "state"),
    [
        ({}, {1: 3}, "dropped"),
        ({1: 2}, {1: 3}, "dropped"),
        ({1: 3}, {1: 3}, "returned"),  # it came back in the round it had failed in
        ({1: 3}, {1: 2}, "returned"),
        ({}, {1: 0}, "dropped"),  # before any round was started
        ({1: 2}, {1: 1}, "training"),
    ],
)
def test_who_failed_is_dropped_until_it_returns_a_result(
    returned: dict[int | str, int], dropped: dict[int | str, int], state: str
) -> None:
    facts = replace(NOTHING, started_round=3, aggregated_round=2, returned=returned, dropped=dropped)
    assert states(progress(facts, [A])) == {"A": state}


def test_between_two_rounds_who_was_left_out_waits() -> None:
    facts = replace(NOTHING, started_round=2, aggregated_round=2, returned={1: 2, 2: 1})
    assert states(progress(facts)) == {"A": "returned", "B": "waiting"}


def test_nobody_trains_when_the_run_is_over() -> None:
    facts = replace(NOTHING, started_round=3, aggregated_round=2, returned={1: 2}, dropped={})
    assert states(progress(facts, is_over=True)) == {"A": "returned", "B": "waiting"}


def test_who_was_heard_of_without_being_expected_is_shown_after_the_others() -> None:
    found = progress(replace(NOTHING, started_round=1, returned={"site-9": 1}), [A])
    assert states(found) == {"A": "training", "site-9": "returned"}


# --- how long it will take ------------------------------------------------------------------------


# Rounds of 10, 30 and 20 s, one after another; 20 is the median.
TIMED = replace(
    NOTHING,
    total_rounds=7,
    started_round=4,
    aggregated_round=3,
    round_times=((1, at(0), at(10)), (2, at(12), at(40)), (3, at(41), at(60)), (4, at(61), None)),
)


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        (60, 80.0),  # 4 rounds of 20 s
        (65, 75.0),  # 5 s of the fourth are over
        (90, 60.0),  # it takes longer than the others did: still 3 to come
        (50, 80.0),  # a clock that is behind takes nothing off
    ],
)
def test_the_rounds_that_are_left_take_as_long_as_the_last_ones_did(now: float, seconds: float) -> None:
    """Each is counted from the end of the one before: pauses between rounds will come again."""
    assert progress(TIMED, now=at(now)).eta_seconds == seconds


@pytest.mark.parametrize(
    "facts",
    [
        replace(TIMED, total_rounds=None),
        replace(TIMED, round_times=()),
        replace(TIMED, round_times=((3, None, at(60)),)),
        replace(TIMED, round_times=((3, at(70), at(60)),)),  # told in disorder: no duration
    ],
)
def test_without_a_total_or_a_duration_nothing_is_promised(facts: ProgressFacts) -> None:
    assert progress(facts).eta_seconds is None


def test_a_run_that_is_over_takes_no_longer() -> None:
    assert progress(TIMED, is_over=True).eta_seconds is None


def test_a_run_whose_rounds_are_all_done_takes_no_longer() -> None:
    assert progress(replace(TIMED, aggregated_round=7)).eta_seconds == 0


def test_the_model_s_own_total_stands_in_for_one_that_was_not_told() -> None:
    found = progress(replace(TIMED, total_rounds=None), max_rounds=4, now=at(60))
    assert (found.total_rounds, found.eta_seconds) == (4, 20.0)


# --- the same facts, in any order and any number of times -----------------------------------------

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ROUND_STARTED", "CLIENT_RESULT_RECEIVED", "CLIENT_DROPPED", "ROUND_AGGREGATED"]),
        st.integers(1, 5),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([None, 4, 5]),
    ),
    max_size=12,
)


def entry(model: FederatedModel, event_id: UUID, fact: tuple[str, int, str, int | None]) -> NewLog:
    event_type, number, sender, total = fact
    return NewLog(
        model_id=model.id,
        event_id=event_id,
        event_type=event_type,
        fl_client_name=sender if event_type.startswith("CLIENT") else None,
        global_round=number,
        details={} if total is None else {"total_rounds": total},
    )


def told(entries: Sequence[tuple[UUID, tuple[str, int, str, int | None]]]) -> ProgressFacts:
    metadata = InMemoryMetadataConnector()
    with metadata.transaction():
        model = metadata.add_federated_model(FederatedModel(id=0, uuid=uuid4()))
        metadata.add_logs([entry(model, *each) for each in entries])
    return metadata.pull_progress_facts(model, None)


@settings(deadline=None)
@given(EVENTS, st.data())
def test_repeats_and_disorder_change_nothing(
    facts: list[tuple[str, int, str, int | None]], data: st.DataObject
) -> None:
    in_order = [(uuid4(), fact) for fact in facts]
    again = data.draw(st.permutations(in_order * 2)) if in_order else []
    first, second = (replace(told(entries), round_times=(), last_event_at=None) for entries in (in_order, again))
    assert progress(first, []) == progress(second, [])
    for each in progress(first, []).participants:
        assert each.state in ParticipantState


@settings(deadline=None)
@given(EVENTS)
def test_a_server_that_tells_it_all_again_under_new_ids_changes_nothing(
    facts: list[tuple[str, int, str, int | None]],
) -> None:
    """Also not how long it will take: a round's first start and first end count."""
    metadata = InMemoryMetadataConnector()
    with metadata.transaction():
        model = metadata.add_federated_model(FederatedModel(id=0, uuid=uuid4()))
        metadata.add_logs([entry(model, uuid4(), fact) for fact in facts])
    once = metadata.pull_progress_facts(model, None)
    with metadata.transaction():
        metadata.add_logs([entry(model, uuid4(), fact) for fact in facts])
    twice = metadata.pull_progress_facts(model, None)
    assert progress(replace(once, last_event_at=None), []) == progress(replace(twice, last_event_at=None), [])
