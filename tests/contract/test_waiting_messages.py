"""Taking many waiting messages at once, on every broker that can: nothing is taken that is somebody else's.

RabbitMQ is part of the wider matrix.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.waiting_bench import OTHER, OTHERS, QUEUE, TASK, Bench, acknowledge, numbers_of, soon


def test_waiting_messages_are_taken_oldest_first_and_gone_once_acknowledged(bench: Bench) -> None:
    bench.send(*range(7))
    taken = bench.new_drain(count=5).take([TASK], "a")
    assert numbers_of(taken) == [0, 1, 2, 3, 4]
    acknowledge(taken)
    bench.restore()
    assert bench.numbers_left() == [5, 6]


def test_an_empty_queue_gives_nothing(bench: Bench) -> None:
    assert bench.drain.take([TASK], "a").tasks() == []


def test_messages_of_several_tasks_are_taken_together_and_told_apart(bench: Bench) -> None:
    """They come in turns in one queue: taken of one kind only, a batch would end at the first of another."""
    for number in range(4):
        bench.send(number, task=TASK if number % 2 else OTHER)
    taken = bench.drain.take([TASK, OTHER], "a")
    assert {task: [each["number"] for each in taken.payloads(task)] for task in taken.tasks()} == {
        OTHER: [0, 2],
        TASK: [1, 3],
    }
    taken.done(OTHER)
    taken.settle()
    bench.restore()
    assert bench.numbers_left() == [1, 3], "of one of them nothing was said to be done"


def test_no_more_bytes_are_taken_than_allowed(bench: Bench) -> None:
    """Memory is bounded whatever waits: a pool process never holds more than that."""
    for number in range(20):
        bench.send(number, args=[{"number": number, "text": "x" * 1_000}])
    small = bench.new_drain(size=10_000).take([TASK], "a")
    assert 2 <= len(small) <= 10
    number = len(small)
    acknowledge(small)
    assert bench.numbers_left() == list(range(number, 20))


def test_what_is_given_back_is_there_at_once(bench: Bench) -> None:
    """In its old place on Redis; a quorum queue of RabbitMQ's may put it at the end."""
    bench.send(*range(6))
    taken = bench.new_drain(count=3).take([TASK], "a")
    taken.settle()
    numbers: list[int] = []

    def all_of_them() -> bool:
        numbers.extend(numbers_of(bench.drain.take([TASK], "b")))
        return sorted(numbers) == [0, 1, 2, 3, 4, 5]

    soon(all_of_them)
    assert bench.is_rabbitmq or numbers == [0, 1, 2, 3, 4, 5]


def test_what_is_given_back_over_and_over_is_kept(bench: Bench) -> None:
    """An outage of the database gives all that wait back, again and again; RabbitMQ 4 by itself drops them then."""
    bench.send(*range(3))
    given_back = 0
    while given_back < 200:
        taken = bench.drain.take([TASK], "a")
        given_back += len(taken)
        taken.settle()
    bench.drain.close()
    left: list[int] = []

    def all_of_them() -> bool:
        left.extend(bench.numbers_left())
        return sorted(left) == [0, 1, 2]

    soon(all_of_them)


@pytest.mark.parametrize(
    "unwanted",
    [
        {"task": OTHER},
        {"ignore_result": False},
        {"countdown": 30},
        {"expires": 30},
        {"compression": "gzip"},
        {"serializer": "yaml"},
    ],
    ids=lambda unwanted: next(iter(unwanted)),
)
def test_a_message_that_is_not_wanted_stays_and_ends_the_taking(bench: Bench, unwanted: dict[str, Any]) -> None:
    """One of another task, or whose sender waits for the answer, is its worker's."""
    bench.send(0, 1)
    bench.send(2, **unwanted)
    bench.send(3)
    taken = bench.drain.take([TASK], "a")
    assert numbers_of(taken) == [0, 1]
    acknowledge(taken)
    left = bench.left()
    expected = [unwanted.get("task", TASK), TASK]
    assert sorted(message.headers["task"] for message in left) == sorted(expected)
    assert bench.is_rabbitmq or [message.headers["task"] for message in left] == expected, "in its place"


def test_a_message_that_was_passed_over_twice_is_handed_on(bench: Bench) -> None:
    """A quorum queue puts what it is given back at its end: it must not wait there for as long as a burst lasts."""
    if not bench.is_rabbitmq:
        pytest.skip("only RabbitMQ passes messages over: on Redis such a one is not taken in the first place")
    bench.send(1, ignore_result=False)
    bench.drain.take([TASK], "a")

    def handed_on() -> bool:
        bench.drain.take([TASK], "b")
        return bench.numbers_left(OTHERS) == [1]

    soon(handed_on)


@pytest.mark.parametrize(
    "call",
    [
        {"args": []},
        {"args": [{"number": 2}, "and another"]},
        {"kwargs": {"payload": 2}},
        {"link": "fedqueue.logs.add"},
    ],
    ids=lambda call: f"{next(iter(call))}{len(next(iter(call.values())))}",
)
def test_a_call_of_another_form_is_handed_on_as_it_is(bench: Bench, call: dict[str, Any]) -> None:
    """What its task makes of it is not for a drain to say: a worker runs it, from the other queue."""
    if "link" in call:
        call = {"link": bench.app.signature(call["link"])}
    bench.send(1)
    bench.send(2, **call)
    bench.send(3)
    taken = bench.drain.take([TASK], "a")
    assert numbers_of(taken) == [1, 3]
    acknowledge(taken)
    (handed,) = bench.left(OTHERS)
    arguments, named, embedded = json.loads(handed.body)
    assert arguments == call.get("args", [{"number": 2}])
    assert named == call.get("kwargs", {})
    assert bool(embedded["callbacks"]) == ("link" in call)
    assert (handed.content_type, handed.headers["task"]) == ("application/json", TASK)
    bench.restore()
    assert bench.left() == []


def test_a_body_that_is_no_json_is_handed_on(bench: Bench) -> None:
    with bench.app.producer_pool.acquire() as producer:
        producer.publish(
            b"not json",
            routing_key=QUEUE,
            exchange=QUEUE,
            content_type="application/json",
            content_encoding="utf-8",
            headers={"task": TASK, "id": "x", "ignore_result": True},
        )
    bench.send(1)
    assert numbers_of(bench.drain.take([TASK], "a")) == [1]
    (handed,) = bench.left(OTHERS)
    assert handed.body in (b"not json", "not json")


def test_what_can_not_be_handled_together_becomes_a_task_each(bench: Bench) -> None:
    bench.send(1, 2, 3)
    taken = bench.drain.take([TASK], "a")
    taken.failed(TASK)
    taken.settle()
    bench.restore()
    assert (bench.numbers_left(), bench.numbers_left(OTHERS)) == ([], [1, 2, 3])


def test_what_is_no_message_at_all_stays_and_ends_the_taking(bench: Bench) -> None:
    if bench.is_rabbitmq:
        pytest.skip("RabbitMQ takes nothing that is no message")
    bench.send(1)
    with bench.connect() as connection:
        connection.default_channel.client.lpush(QUEUE, "{no json")
    bench.send(2)
    assert numbers_of(bench.drain.take([TASK], "a")) == [1]
    with bench.connect() as connection:
        client = connection.default_channel.client
        assert client.lindex(QUEUE, -1) == b"{no json"
        client.delete(QUEUE)
