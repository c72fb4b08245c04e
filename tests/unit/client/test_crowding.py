"""When a sender looks how long a queue is, and when it holds its message back."""

from __future__ import annotations

from fedqueue.crowding import Crowding
from fedqueue.messages.names import CONTROL_QUEUE, EVENTS_QUEUE, UPDATES_QUEUE


class Broker:
    """A queue of a length that a test sets, and how often that was asked for."""

    def __init__(self, waiting: int = 0) -> None:
        self.waiting = waiting
        self.looks = 0
        self.now = 0.0

    def look(self) -> int:
        self.looks += 1
        return self.waiting


def test_a_full_queue_takes_nothing_until_there_is_room() -> None:
    broker = Broker(10)
    crowding = Crowding(10, lambda: broker.now)
    assert crowding.find_excess(UPDATES_QUEUE, broker.look, is_awaited=False) == 10
    broker.waiting = 9
    assert crowding.find_excess(UPDATES_QUEUE, broker.look, is_awaited=False) is None
    broker.waiting = 12
    assert crowding.find_excess(UPDATES_QUEUE, broker.look, is_awaited=False) == 12


def test_while_there_is_room_aplenty_it_is_looked_at_now_and_then_alone() -> None:
    broker = Broker()
    crowding = Crowding(1_000, lambda: broker.now)
    for _ in range(100):
        assert crowding.find_excess(UPDATES_QUEUE, broker.look, is_awaited=False) is None
    assert broker.looks == 1
    broker.now = 0.25
    crowding.find_excess(UPDATES_QUEUE, broker.look, is_awaited=False)
    assert broker.looks == 2


def test_what_was_sent_since_the_last_look_is_counted() -> None:
    """A loop that sends as fast as it can does not run past the limit between two looks."""
    broker = Broker()
    crowding = Crowding(20, lambda: broker.now)
    sent = 0
    while crowding.find_excess(UPDATES_QUEUE, broker.look, is_awaited=False) is None:
        sent += 1
        broker.waiting = sent
    assert sent == 20


def test_each_queue_has_its_own_length_and_a_question_is_never_held_back() -> None:
    broker = Broker(10)
    crowding = Crowding(10, lambda: broker.now)
    assert crowding.find_excess(UPDATES_QUEUE, broker.look, is_awaited=False) == 10
    assert crowding.find_excess(EVENTS_QUEUE, lambda: 0, is_awaited=False) is None
    assert crowding.find_excess(CONTROL_QUEUE, broker.look, is_awaited=False) is None


def test_who_waits_for_an_answer_is_let_in_where_who_does_not_is_kept_out() -> None:
    """Otherwise a loop that never waits would fill every place the moment it becomes free."""
    broker = Broker(10)
    crowding = Crowding(10, lambda: broker.now)
    assert crowding.find_excess(UPDATES_QUEUE, broker.look, is_awaited=False) == 10
    assert crowding.find_excess(UPDATES_QUEUE, broker.look, is_awaited=True) is None
    broker.waiting = 20
    assert crowding.find_excess(UPDATES_QUEUE, broker.look, is_awaited=True) == 20
