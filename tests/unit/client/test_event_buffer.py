"""Events gathered and sent in batches: by number, by time, at the end; kept while the broker takes none."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import pytest

from fedqueue import EventBuffer, EventNotTaken, EventsNotSent, HubUnavailable, InvalidArgument
from fedqueue.event_buffer import batches
from fedqueue.messages.events import FLEvent

MODEL = UUID(int=1)
RUN = UUID(int=2)


class Broker:
    """Where the buffer sends to. While `is_away` it takes nothing."""

    def __init__(self) -> None:
        self.is_away = False
        self.taken: list[list[FLEvent]] = []
        self.tries = 0

    def send(self, events: Sequence[FLEvent], seconds: float) -> None:
        self.tries += 1
        if self.is_away:
            raise HubUnavailable("no broker", {})
        self.taken.append(list(events))

    @property
    def ids(self) -> list[UUID]:
        return [event.event_id for batch in self.taken for event in batch]


@pytest.fixture
def broker() -> Broker:
    return Broker()


def wait_for(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_full_batch_leaves_at_once_and_the_rest_at_the_end(broker: Broker) -> None:
    with EventBuffer(broker.send, MODEL, RUN, size=3, seconds=60) as events:
        ids = [events.event("ROUND_STARTED", global_round=number) for number in range(1, 5)]
        wait_for(lambda: broker.taken)
        assert [event.event_id for event in broker.taken[0]] == ids[:3]
        assert len(events) == 1
    assert broker.ids == ids
    assert {(event.model_id, event.run_id) for batch in broker.taken for event in batch} == {(MODEL, RUN)}


def test_a_lone_event_leaves_when_its_time_is_over(broker: Broker) -> None:
    with EventBuffer(broker.send, MODEL, size=100, seconds=0.05) as events:
        only = events.log("hello")
        wait_for(lambda: broker.ids == [only])


def test_flush_returns_once_the_broker_has_everything(broker: Broker) -> None:
    with EventBuffer(broker.send, MODEL, size=100, seconds=60) as events:
        ids = [events.metric("loss", 0.5, global_round=number, fl_client_name="site-1") for number in range(7)]
        events.flush()
        assert broker.ids == ids
        events.flush()
        # In a hurry for those that were there, not for ever after.
        events.log("later")
        time.sleep(0.05)
        assert len(events) == 1


def test_an_outage_loses_nothing_and_keeps_the_order(broker: Broker) -> None:
    broker.is_away = True
    with EventBuffer(broker.send, MODEL, size=2, seconds=0.01) as events:
        ids = [events.log(str(number)) for number in range(9)]
        wait_for(lambda: broker.tries >= 2)
        with pytest.raises(EventsNotSent, match="9 events were not sent"):
            events.flush(timeout=0.05)
        broker.is_away = False
    assert broker.ids == ids


def test_what_no_broker_took_is_raised_at_the_end_with_its_ids(broker: Broker) -> None:
    broker.is_away = True
    events = EventBuffer(broker.send, MODEL, size=2, seconds=0.01, timeout=0.2)
    ids = [events.log(str(number)) for number in range(5)]
    wait_for(lambda: broker.tries >= 2)  # what became of the first is known by then
    with pytest.raises(EventsNotSent, match="no broker") as raised:
        events.close()
    assert [event.event_id for event in raised.value.events] == ids
    # Given up: nothing is sent behind the caller's back once the broker is there again.
    broker.is_away = False
    time.sleep(0.2)
    assert broker.ids == []
    with pytest.raises(EventNotTaken, match="closed"):
        events.log("too late")


def test_a_full_buffer_takes_no_more_and_says_why(broker: Broker) -> None:
    """Memory is bounded, and so is the time that training stands still for it."""
    broker.is_away = True
    events = EventBuffer(broker.send, MODEL, size=2, seconds=0.01, most=3, timeout=0.1)
    for number in range(3):
        events.log(str(number))
    wait_for(lambda: broker.tries >= 2)  # what became of the first is known by then
    with pytest.raises(EventNotTaken, match=r"3 events wait .*no broker"):
        events.log("one more")
    assert len(events) == 3
    with pytest.raises(EventsNotSent):
        events.close()


def test_a_full_buffer_waits_for_room_while_the_broker_takes(broker: Broker) -> None:
    with EventBuffer(broker.send, MODEL, size=1, seconds=1, most=2) as events:
        ids = [events.log(str(number)) for number in range(50)]
    assert broker.ids == ids


def test_threads_share_a_buffer(broker: Broker) -> None:
    with EventBuffer(broker.send, MODEL, size=7, seconds=0.01) as events:
        threads = [threading.Thread(target=lambda: [events.log("x") for _ in range(100)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(broker.ids) == len(set(broker.ids)) == 800
    assert max(map(len, broker.taken)) <= 7


def test_a_wrong_event_is_refused_where_it_is_made(broker: Broker) -> None:
    with EventBuffer(broker.send, MODEL) as events:
        with pytest.raises(InvalidArgument, match="global_round"):
            events.event("ROUND_STARTED")
        with pytest.raises(InvalidArgument, match="result"):
            events.metric("loss", float("nan"), global_round=1)
    assert broker.taken == []


def test_a_forked_child_sends_its_own_events_and_not_its_parents(broker: Broker) -> None:
    """Both would send what waits at the fork, and the child has no thread to send anything."""
    events = EventBuffer(broker.send, MODEL, size=100, seconds=60)
    mine = events.log("the parent's")
    child = os.fork()
    if child == 0:
        own = events.log("the child's")
        events.close()
        os._exit(0 if broker.ids == [own] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    events.close()
    assert broker.ids == [mine]


def test_one_message_carries_a_bounded_number_and_size() -> None:
    def lines(number: int, text: str) -> list[FLEvent]:
        return [FLEvent(event_id=UUID(int=i), model_id=MODEL, log=text) for i in range(number)]

    assert [len(batch) for batch in batches(lines(2_001, "x"))] == [1_000, 1_000, 1]
    assert [len(batch) for batch in batches(lines(40, "x" * 65_536))] == [16, 16, 8]  # 16 × 64 KiB = 1 MiB
    assert list(batches([])) == []
