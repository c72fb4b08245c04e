"""Tasks that handle what else waits together with what they were called with, on a real Redis-protocol server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from celery.exceptions import Retry

from connectors.errors import DatabaseUnavailable
from fedqueue.messages import Message, View
from fedqueue.messages.names import CONTROL_QUEUE, EVENTS_QUEUE
from tasks.batching import SMALL, batch_task
from tasks.hub import Hub
from tests.contract.waiting_bench import Bench as Broker
from tests.servers import Server
from tests.unit.domain.conftest import Bench


class Numbers(Message):
    """Some numbers."""

    numbers: list[int]


class Added(View):
    """How many."""

    count: int


class Adder:
    """Work that remembers each batch, and fails as it is told."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.is_away = False
        self.poison: int | None = None
        self.meanwhile: list[Callable[[], None]] = []

    def __call__(self, hub: Hub, messages: Sequence[Numbers]) -> list[Added]:
        """Add the numbers."""
        batch = [number for message in messages for number in message.numbers]
        if self.is_away:
            raise DatabaseUnavailable("no route")
        if self.poison in batch:
            raise ZeroDivisionError
        self.batches.append(batch)
        if self.meanwhile:
            self.meanwhile.pop(0)()
        return [Added(count=len(message.numbers)) for message in messages]


class Desk:
    """A task of that work in a worker's process, and a queue with messages for it."""

    def __init__(self, broker: Broker, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broker = broker
        self.bench = bench
        self.adder = Adder()
        self.name = f"test.{uuid4()}"
        self.sent_again: list[float] = []
        broker.app.set_current()
        broker.app.hub = replace(bench.hub, events=broker.drain)
        self.task = batch_task(self.name, Numbers)(self.adder)
        broker.app.finalize()

        def retry(exc: BaseException, countdown: float, throw: bool) -> Retry:
            self.sent_again.append(countdown)
            return Retry(exc=exc)

        monkeypatch.setattr(self.task, "retry", retry)
        monkeypatch.setattr("tasks.batching.time.sleep", lambda _: None)

    def wait_in_queue(self, *numbers: int, **options: Any) -> None:
        for number in numbers:
            self.broker.send(number, task=self.name, **({"args": [{"numbers": [number]}]} | options))

    def call(self, payload: Any, *, ignore_result: bool = True) -> dict[str, Any]:
        self.task.push_request(id="called", ignore_result=ignore_result, retries=0, called_directly=False)
        try:
            answer: dict[str, Any] = self.task.run(payload)
            return answer
        finally:
            self.task.pop_request()

    def left(self, queue: str = EVENTS_QUEUE) -> list[int]:
        """The numbers that still wait, given back ones too."""
        self.broker.restore()
        return [json.loads(message.body)[0][0]["numbers"][0] for message in self.broker.left(queue)]


@pytest.fixture
def desk(valkey: Server, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A queue that is empty."""
    broker = Broker(valkey, tmp_path)
    broker.declare()
    yield Desk(broker, Bench(tmp_path), monkeypatch)
    broker.drain.close()
    broker.app.close()


def test_what_waits_is_handled_with_what_came(desk: Desk) -> None:
    desk.wait_in_queue(2, 3, 4)
    assert desk.call({"numbers": [1]})["value"] == {"count": 1}
    assert (desk.adder.batches, desk.left()) == ([[1, 2, 3, 4]], [])


def test_a_message_that_somebody_waits_for_is_handled_alone(desk: Desk) -> None:
    desk.wait_in_queue(2)
    desk.call({"numbers": [1]}, ignore_result=False)
    assert (desk.adder.batches, desk.left()) == ([[1]], [2])


def test_a_message_that_is_a_batch_already_is_handled_alone(desk: Desk) -> None:
    desk.wait_in_queue(2)
    desk.call({"numbers": [1] * (SMALL + 1)})
    assert (len(desk.adder.batches[0]), desk.left()) == (SMALL + 1, [2])


def test_each_message_is_judged_by_itself(desk: Desk) -> None:
    """What is wrong with one is kept as a dead letter, whichever of them it is, and the others go on."""
    desk.wait_in_queue(2)
    desk.wait_in_queue(3, args=[{"numbers": "three"}])
    desk.wait_in_queue(4)
    assert desk.call({"numbers": [1], "more": 0})["rejection"]["field"] == "more"
    assert (desk.adder.batches, desk.left()) == ([[2, 4]], [])
    letters = [(letter.task, letter.field, letter.payload) for letter in desk.bench.metadata.pull_dead_letters()]
    assert sorted(letters, key=str) == [
        (desk.name, "more", {"numbers": [1], "more": 0}),
        (desk.name, "numbers", {"numbers": "three"}),
    ]


def test_while_the_database_is_away_all_go_back_and_none_waits_in_memory(desk: Desk) -> None:
    """The called one is sent again without an ETA: those that have one are all held by workers until it comes."""
    desk.wait_in_queue(2, 3)
    desk.adder.is_away = True
    with pytest.raises(Retry):
        desk.call({"numbers": [1]})
    assert desk.sent_again == [0.0]
    assert [json.loads(message.body)[0][0]["numbers"] for message in desk.broker.left()] == [[2], [3]]
    assert not desk.bench.metadata.pull_dead_letters()


def test_what_one_message_breaks_is_not_done_to_the_others(desk: Desk) -> None:
    """A fault of ours that only one of them meets: the others become tasks of their own, the called one goes on."""
    desk.wait_in_queue(2, 3)
    desk.adder.poison = 3
    assert desk.call({"numbers": [1]})["value"] == {"count": 1}
    assert (desk.adder.batches, desk.left(), desk.left(CONTROL_QUEUE)) == ([[1]], [], [2, 3])


def test_the_poisonous_message_fails_alone(desk: Desk) -> None:
    desk.wait_in_queue(2)
    desk.adder.poison = 1
    with pytest.raises(ZeroDivisionError):
        desk.call({"numbers": [1]})
    assert (desk.adder.batches, desk.left(CONTROL_QUEUE)) == ([], [2])


def test_what_waits_for_another_task_of_the_kind_is_handled_too(desk: Desk) -> None:
    """Each under its own name: a dead letter says which."""
    other = Adder()
    batch_task(f"{desk.name}.other", Numbers)(other)
    desk.wait_in_queue(2)
    desk.broker.send(3, task=f"{desk.name}.other", args=[{"numbers": [3]}])
    desk.broker.send(4, task=f"{desk.name}.other", args=[{"numbers": "four"}])
    desk.wait_in_queue(5)
    desk.call({"numbers": [1]})
    assert (desk.adder.batches, other.batches, desk.left()) == ([[1, 2, 5]], [[3]], [])
    assert [letter.task for letter in desk.bench.metadata.pull_dead_letters()] == [f"{desk.name}.other"]


def test_a_task_goes_on_with_what_comes_meanwhile(desk: Desk) -> None:
    """A burst's tail need not become a task each."""
    desk.wait_in_queue(2)
    desk.adder.meanwhile = [lambda: desk.wait_in_queue(3), lambda: desk.wait_in_queue(4)]
    desk.call({"numbers": [1]})
    assert (desk.adder.batches, desk.left()) == ([[1, 2], [3], [4]], [])


def test_going_on_ends_in_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is told to stop, or a time limit, must not wait for the end of a burst."""
    now = [0.0]

    def a_batch_takes_a_while() -> None:
        now[0] += 0.0625
        desk.wait_in_queue(2)

    monkeypatch.setattr("tasks.batching._GO_ON_SECONDS", 0.25)
    monkeypatch.setattr("tasks.batching.time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: None))
    desk.adder.meanwhile = [a_batch_takes_a_while] * 100
    desk.call({"numbers": [1]})
    assert (desk.adder.batches, desk.left()) == ([[1], [2], [2], [2], [2]], [2])


def test_what_comes_while_the_database_goes_away_goes_back(desk: Desk) -> None:
    def go_away() -> None:
        desk.wait_in_queue(2)
        desk.adder.is_away = True

    desk.adder.meanwhile = [go_away]
    assert desk.call({"numbers": [1]})["value"] == {"count": 1}
    assert (desk.adder.batches, desk.left()) == ([[1]], [2])


def test_nothing_is_acknowledged_before_it_is_done(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed while it works leaves all to be done again."""
    desk.wait_in_queue(2, 3)

    class Killed(BaseException):
        """As sudden as a kill."""

    def die(*_: Any) -> Any:
        raise Killed

    monkeypatch.setattr(Adder, "__call__", die)
    with pytest.raises(Killed):
        desk.call({"numbers": [1]})
    assert sorted(desk.left()) == [2, 3]
