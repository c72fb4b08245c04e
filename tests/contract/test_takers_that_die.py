"""Whoever took waiting messages may die at any moment, and the broker too: nothing is lost.

RabbitMQ is part of the wider matrix.
"""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from uuid import uuid4

import pytest
from kombu.connection import Connection

import connectors.broker.redis
from tasks.draining import Drain
from tests.contract.waiting_bench import OTHERS, QUEUE, TASK, Bench, acknowledge, numbers_of, soon, taker
from tests.servers import valkey_server


def test_what_a_dead_taker_held_comes_back(bench: Bench) -> None:
    bench.send(*range(5))
    with taker(bench, "a") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == [0, 1, 2, 3, 4]
        process.kill()
        process.wait()
    bench.restore()
    soon(lambda: sorted(numbers_of(bench.drain.take([TASK], "b"))) == [0, 1, 2, 3, 4])


def test_a_dead_takers_task_that_comes_again_gets_them_at_once(bench: Bench) -> None:
    """A worker sees at once that its pool process died and runs the task again: nothing waits for a timeout."""
    bench.send(*range(5))
    with taker(bench, "a") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait()
    bench.send(5)
    again: list[int] = []

    def all_of_them() -> bool:
        again.extend(numbers_of(bench.drain.take([TASK], "a")))
        return sorted(again) == [0, 1, 2, 3, 4, 5]

    soon(all_of_them)


def test_a_dead_takers_message_brings_what_it_held_when_another_takes_it(bench: Bench) -> None:
    """The task that comes again may itself be taken by somebody else's task: what it held comes along."""
    if bench.is_rabbitmq:
        pytest.skip("RabbitMQ gives everything back itself")
    bench.send(*range(3))
    bench.drain.take([TASK], "died")
    bench.send(3, task_id="died", headers={"redelivered": True})
    taken = bench.drain.take([TASK], "b")
    assert sorted(numbers_of(taken)) == [0, 1, 2, 3]
    acknowledge(taken)
    bench.restore()
    assert bench.left() == []


def test_what_is_held_too_long_is_given_back_by_any_worker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own worker may be dead too: kombu's look-out finds it long before the visibility timeout of 20 minutes."""
    if bench.is_rabbitmq:
        pytest.skip("RabbitMQ gives back when the connection ends")
    bench.send(1, 2)
    bench.drain.take([TASK], "a")

    def look_out() -> list[int]:
        with bench.connect() as connection:
            connection.default_channel.qos.restore_visible(num=None, interval=1)
        return sorted(bench.numbers_left())

    assert look_out() == []
    # Of another taker, and only now: however slow this machine is, the first two are not held too long.
    monkeypatch.setattr(connectors.broker.redis, "HELD_SECONDS", 0.3)
    bench.send(3, 4)
    bench.drain.take([TASK], "b")
    soon(lambda: look_out() == [3, 4])


def test_two_who_hold_the_same_do_each_other_no_harm(bench: Bench) -> None:
    """A taker that was believed dead and is not: its messages are handled twice, and acknowledged twice."""
    if bench.is_rabbitmq:
        pytest.skip("RabbitMQ gives a message to one connection only")
    bench.send(1, 2)
    one = bench.drain.take([TASK], "a")
    other = bench.new_drain().take([TASK], "a")
    assert numbers_of(other) == [1, 2]
    bench.send(3)
    acknowledge(one)
    third = bench.drain.take([TASK], "a")
    acknowledge(other)
    assert numbers_of(third) == [3]
    bench.restore()
    assert bench.numbers_left() == [3], "the second acknowledgement was not of what was taken later"


@pytest.mark.timeout(900)
def test_takers_killed_at_any_moment_lose_nothing(bench: Bench, tmp_path: Path) -> None:
    """Each number is written down before it is acknowledged; forty kills at random moments, and all are there."""
    draw = random.Random(4)
    sent = list(range(1_500))  # more than forty can take, however late they are killed
    bench.send(*sent)
    journal = tmp_path / "journal"
    journal.touch()
    kills = 0
    deadline = time.monotonic() + 600  # forty starts of Python, on a machine that others use too
    while kills < 40:
        with taker(bench, str(uuid4()), journal, pause=0.002) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(draw.uniform(0, 0.015))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
        assert time.monotonic() < deadline
    written = {int(line) for line in journal.read_text().split()}
    bench.restore()
    left = bench.numbers_left()
    assert set(left) | written == set(sent)
    assert left, "all was done before the last kill: this has shown nothing"
    assert len(written) > 20, "the kills came before anything was done: this has shown nothing"


def test_a_broker_that_is_away_means_only_that_nothing_is_taken(tmp_path: Path) -> None:
    with valkey_server(tmp_path) as server:
        bench = Bench(server, tmp_path)
        bench.declare()
        bench.send(1)
        held = bench.drain.take([TASK], "a")
        server.kill()
        assert bench.drain.take([TASK], "b").tasks() == []
        acknowledge(held)
        held.settle()
        server.restart()
        bench.declare()
        bench.send(2)
        assert numbers_of(bench.drain.take([TASK], "c")) == [2]
        assert numbers_of(bench.drain.take([TASK], "a")) == [1], "the acknowledgement was not heard: it comes again"
        bench.drain.close()
        bench.app.close()


def test_a_broker_that_can_not_be_taken_from_safely_is_not_taken_from() -> None:
    drain = Drain(lambda: Connection("memory://"), QUEUE, OTHERS)  # type: ignore[no-untyped-call]
    assert drain.take([TASK], "a").tasks() == []
