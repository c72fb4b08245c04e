"""When a message is sent again, and when the client gives up. The transport is scripted; time is counted, not spent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import pytest

from fedqueue.answers import Reply
from fedqueue.asking import Asking, Rests
from fedqueue.errors import HubBusy, HubFailed, HubUnavailable, NoAnswer
from fedqueue.transport import BrokerAway, BrokerFull

SUBMISSION = {"submission_id": UUID(int=7)}
SILENCE = None
AWAY = BrokerAway("connection refused")
FULL = BrokerFull("1000 messages wait in fedqueue.updates already")


class Script:
    """A transport that does what it is told, in order, and goes on with the last; silence takes all the time given."""

    def __init__(self, receives: Iterable[Reply | BrokerAway | None], sends: Iterable[BrokerAway | None] = ()) -> None:
        self.now = 0.0
        self.sent: list[tuple[str, Any, bool]] = []  # (task id, message, answered)
        self._receives = list(receives)
        self._sends = list(sends)

    def send(self, task: str, message: Mapping[str, Any], *, task_id: str, answered: bool) -> None:
        if self._sends and (away := self._sends.pop(0)) is not None:
            raise away
        self.sent.append((task_id, message, answered))

    def receive(self, task_id: str, seconds: float) -> Reply | None:
        told = self._receives.pop(0) if len(self._receives) > 1 else self._receives[0]
        if isinstance(told, BrokerAway):
            raise told
        if told is SILENCE:
            self.now += seconds
        return told

    def close(self) -> None: ...

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def asking(self) -> Asking:
        return Asking(self, resend_after=5.0, now=lambda: self.now, sleep=self.sleep, draw=lambda: 1.0)

    def ask(self, seconds: float = 30.0) -> Any:
        return self.asking().ask("fedqueue.updates.submit", {"v": 1}, seconds, SUBMISSION)


def test_an_answer_is_handed_on_and_nothing_sent_twice() -> None:
    script = Script([Reply(value={"value": 1})])
    assert script.ask() == {"value": 1}
    assert len(script.sent) == 1


def test_silence_is_met_with_the_same_message_in_the_same_place() -> None:
    """Whichever of the copies is answered, the answer is found: a restarted broker may have forgotten the first."""
    script = Script([SILENCE, SILENCE, Reply(value=1)])
    assert script.ask() == 1
    assert script.now == 5 + 10  # each silence is borne twice as long as the last: a busy hub is not buried
    assert len(script.sent) == 3
    assert len({task_id for task_id, _, _ in script.sent}) == 1
    assert all(message == {"v": 1} for _, message, _ in script.sent)


def test_a_broker_that_is_away_for_a_while_costs_only_time() -> None:
    script = Script([Reply(value=1)], sends=[AWAY, AWAY, AWAY])
    assert script.ask() == 1
    assert script.now == pytest.approx(0.05 + 0.1 + 0.2)


def test_a_broker_that_goes_away_before_the_answer_is_sent_the_message_again() -> None:
    script = Script([AWAY, Reply(value=1)])
    assert script.ask() == 1
    assert len(script.sent) == 2


def test_a_broker_that_stays_away_is_named_with_how_to_repeat() -> None:
    script = Script([Reply(value=1)], sends=[AWAY] * 1000)
    with pytest.raises(HubUnavailable, match=r"connection refused.*submission_id=00000000-.*-000000000007.*harmless"):
        script.ask(seconds=8)
    assert script.now == 8
    assert script.sent == []


def test_a_hub_that_never_answers_is_told_from_a_broker_that_is_away() -> None:
    script = Script([SILENCE])
    with pytest.raises(NoAnswer, match="is a worker running") as error:
        script.ask(seconds=30)
    assert error.value.submission_id == UUID(int=7)
    assert script.now == 30
    assert isinstance(error.value, TimeoutError)


@pytest.mark.parametrize("failure", ["WorkerLostError", "TaskRevokedError", "ConnectionError", "TimeoutError"])
def test_a_killed_worker_costs_another_try_and_its_stale_result_is_not_read_again(failure: str) -> None:
    """Or one that lost its broker, and revoked what it was at; or could not write the answer down."""
    script = Script([Reply(failure=failure, failure_text="signal 9"), Reply(value=1)])
    assert script.ask() == 1
    first, second = script.sent
    assert first[0] != second[0]
    assert first[1] == second[1]


def test_a_hub_whose_database_stays_away_says_so_at_the_end() -> None:
    script = Script([Reply(failure="DatabaseUnavailable", failure_text="no route")])
    with pytest.raises(NoAnswer, match="DatabaseUnavailable: no route"):
        script.ask(seconds=5)


def test_a_fault_of_the_hub_is_not_tried_again() -> None:
    script = Script([Reply(failure="KeyError", failure_text="'x'")])
    with pytest.raises(HubFailed, match="KeyError: 'x'"):
        script.ask()
    assert len(script.sent) == 1


def test_a_post_waits_for_the_broker_alone() -> None:
    script = Script([SILENCE], sends=[AWAY, None])
    script.asking().post("fedqueue.updates.submit", {"v": 1}, 30, SUBMISSION)
    assert [(message, answered) for _, message, answered in script.sent] == [({"v": 1}, False)]


def test_a_post_that_finds_no_broker_says_how_to_repeat() -> None:
    script = Script([SILENCE], sends=[AWAY] * 1000)
    with pytest.raises(HubUnavailable, match="submission_id="):
        script.asking().post("fedqueue.updates.submit", {"v": 1}, 3, SUBMISSION)


def test_rests_double_up_to_the_longest_and_are_jittered_by_half() -> None:
    """Clients that one outage stopped must not all come back at once."""
    late = Rests(shortest=0.5, longest=2.0, draw=lambda: 1.0)
    early = Rests(shortest=0.5, longest=2.0, draw=lambda: 0.0)
    assert [late.next() for _ in range(4)] == [0.5, 1.0, 2.0, 2.0]
    assert [early.next() for _ in range(4)] == [0.25, 0.5, 1.0, 1.0]


def test_a_full_queue_is_waited_for() -> None:
    script = Script([Reply(value=1)], [FULL, FULL, None])
    assert script.ask() == 1
    assert len(script.sent) == 1


@pytest.mark.parametrize("how", ["ask", "post"])
def test_a_queue_that_stays_full_is_told_as_such_and_nothing_was_sent(how: str) -> None:
    script = Script([SILENCE], [FULL] * 100)
    with pytest.raises(HubBusy, match=r"1000 messages wait in fedqueue\.updates already") as busy:
        if how == "ask":
            script.ask(seconds=3)
        else:
            script.asking().post("fedqueue.updates.submit", {"v": 1}, 3, SUBMISSION)
    assert busy.value.submission_id == SUBMISSION["submission_id"]
    assert script.sent == []


def test_what_waits_in_a_full_queue_already_is_not_sent_again() -> None:
    script = Script([SILENCE, SILENCE, Reply(value=1)], [None, FULL, FULL])
    assert script.ask() == 1
    assert len(script.sent) == 1
