"""Taking many waiting messages at once, on every broker that can: nothing lost, nothing taken that is somebody else's.

RabbitMQ is part of the wider matrix.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from kombu.connection import Connection

import connectors.broker.redis
from config.celery import celery_settings
from config.settings import Settings
from tasks.draining import Drain
from tests.debian_servers import rabbitmq_server
from tests.hubs import ROOT
from tests.servers import Server, valkey_server
from worker.children import die_with_parent

TASK = "fedqueue.events.ingest"
QUEUE = "fedqueue.events"
OTHERS = "fedqueue.control"


class Bench:
    """One broker, an application that sends to it as any service would, and a drain."""

    def __init__(self, broker: Server, home: Path) -> None:
        self.broker = broker
        settings = Settings(home=home, broker_url=broker.url, result_url="redis://localhost:1/0")
        self.app = Celery("test", set_as_current=False, fixups=[])
        self.app.conf.update(celery_settings(settings) | {"result_backend": "disabled"})
        self.drain = self.new_drain()

    def new_drain(self, **limits: int) -> Drain:
        return Drain(self.connect, QUEUE, OTHERS, **limits)

    def connect(self) -> Connection:
        connection: Connection = self.app.connection_for_write()
        return connection

    def send(self, *numbers: int, task: str = TASK, **options: Any) -> None:
        with self.app.producer_pool.acquire() as producer:
            for number in numbers:
                plain = {"args": [{"number": number}], "queue": QUEUE, "ignore_result": True}
                self.app.send_task(task, producer=producer, **(plain | options))

    def declare(self) -> None:
        with self.connect() as connection:
            for queue in self.app.amqp.queues.values():
                if queue.name in (QUEUE, OTHERS):
                    queue(connection.default_channel).declare()

    def left(self, queue: str = QUEUE) -> list[Any]:
        """What a worker would get from the queue, taken out of it for good; a body that is no call as it is."""
        found = []
        with self.connect() as connection:
            deadline = time.monotonic() + (0.5 if self.is_rabbitmq else 0)
            while True:
                message = self.app.amqp.queues[queue](connection.default_channel).get()
                if message is not None:
                    found.append(message)
                    message.ack()
                elif time.monotonic() >= deadline:
                    return found
                else:
                    time.sleep(0.05)

    def numbers_left(self, queue: str = QUEUE) -> list[int]:
        return [json.loads(message.body)[0][0]["number"] for message in self.left(queue)]

    def restore(self) -> None:
        """What the supervisor does about a dead worker's messages; RabbitMQ does it itself."""
        if not self.is_rabbitmq:
            options = self.app.conf.broker_transport_options | {"visibility_timeout": 0}
            with self.app.connection_for_write(transport_options=options) as connection:
                connection.default_channel.qos.restore_visible(num=None, interval=1)

    @property
    def is_rabbitmq(self) -> bool:
        return self.broker.url.startswith("amqp")


@pytest.fixture(scope="module", params=["valkey", pytest.param("rabbitmq", marks=pytest.mark.wide)])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A broker of this module's own."""
    with ExitStack() as running:
        if request.param == "rabbitmq":
            yield running.enter_context(rabbitmq_server())
        else:
            yield running.enter_context(valkey_server(tmp_path_factory.mktemp("valkey")))


@pytest.fixture
def bench(broker: Server, tmp_path: Path) -> Iterator[Bench]:
    """The broker with both queues declared and empty."""
    made = Bench(broker, tmp_path)
    made.declare()
    made.restore()
    made.left(), made.left(OTHERS)
    yield made
    made.drain.close()
    made.app.close()


def _numbers(payloads: Sequence[dict[str, int]]) -> list[int]:
    return [payload["number"] for payload in payloads]


def test_waiting_messages_are_taken_oldest_first_and_gone_once_acknowledged(bench: Bench) -> None:
    bench.send(*range(7))
    taken = bench.new_drain(count=5).take(TASK, "a")
    assert _numbers(taken.payloads) == [0, 1, 2, 3, 4]
    taken.acknowledge()
    bench.restore()
    assert bench.numbers_left() == [5, 6]


def test_an_empty_queue_gives_nothing(bench: Bench) -> None:
    assert bench.drain.take(TASK, "a").payloads == []


def test_no_more_bytes_are_taken_than_allowed(bench: Bench) -> None:
    """Memory is bounded whatever waits: a pool process never holds more than that."""
    for number in range(20):
        bench.send(number, args=[{"number": number, "text": "x" * 1_000}])
    small = bench.new_drain(size=10_000).take(TASK, "a")
    assert 2 <= len(small.messages) <= 10
    small.acknowledge()
    assert bench.numbers_left() == list(range(len(small.messages), 20))


def test_what_is_given_back_is_there_at_once(bench: Bench) -> None:
    """In its old place on Redis; a quorum queue of RabbitMQ's may put it at the end."""
    bench.send(*range(6))
    taken = bench.new_drain(count=3).take(TASK, "a")
    taken.give_back()
    numbers: list[int] = []

    def all_of_them() -> bool:
        numbers.extend(_numbers(bench.drain.take(TASK, "b").payloads))
        return sorted(numbers) == [0, 1, 2, 3, 4, 5]

    _soon(all_of_them)
    assert bench.is_rabbitmq or numbers == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "unwanted",
    [
        {"task": "fedqueue.logs.add"},
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
    taken = bench.drain.take(TASK, "a")
    assert _numbers(taken.payloads) == [0, 1]
    taken.acknowledge()
    left = bench.left()
    expected = [unwanted.get("task", TASK), TASK]
    assert sorted(message.headers["task"] for message in left) == sorted(expected)
    assert bench.is_rabbitmq or [message.headers["task"] for message in left] == expected, "in its place"


def test_a_message_that_was_passed_over_twice_is_handed_on(bench: Bench) -> None:
    """A quorum queue puts what it is given back at its end: it must not wait there for as long as a burst lasts."""
    if not bench.is_rabbitmq:
        pytest.skip("on Redis it is not taken in the first place")
    bench.send(1, ignore_result=False)
    bench.drain.take(TASK, "a")

    def handed_on() -> bool:
        bench.drain.take(TASK, "b")
        return bench.numbers_left(OTHERS) == [1]

    _soon(handed_on)


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
    taken = bench.drain.take(TASK, "a")
    assert _numbers(taken.payloads) == [1, 3]
    taken.acknowledge()
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
    assert _numbers(bench.drain.take(TASK, "a").payloads) == [1]
    (handed,) = bench.left(OTHERS)
    assert handed.body in (b"not json", "not json")


def test_what_can_not_be_handled_together_becomes_a_task_each(bench: Bench) -> None:
    bench.send(1, 2, 3)
    bench.drain.take(TASK, "a").hand_on()
    bench.restore()
    assert (bench.numbers_left(), bench.numbers_left(OTHERS)) == ([], [1, 2, 3])


def test_what_is_no_message_at_all_stays_and_ends_the_taking(bench: Bench) -> None:
    if bench.is_rabbitmq:
        pytest.skip("RabbitMQ takes nothing that is no message")
    bench.send(1)
    with bench.connect() as connection:
        connection.default_channel.client.lpush(QUEUE, "{no json")
    bench.send(2)
    assert _numbers(bench.drain.take(TASK, "a").payloads) == [1]
    with bench.connect() as connection:
        client = connection.default_channel.client
        assert client.lindex(QUEUE, -1) == b"{no json"
        client.delete(QUEUE)


# --- deaths ---------------------------------------------------------------------------------------


def test_what_a_dead_taker_held_comes_back(bench: Bench) -> None:
    bench.send(*range(5))
    with _taker(bench, "a") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == [0, 1, 2, 3, 4]
        process.kill()
        process.wait()
    bench.restore()
    _soon(lambda: sorted(_numbers(bench.drain.take(TASK, "b").payloads)) == [0, 1, 2, 3, 4])


def test_a_dead_takers_task_that_comes_again_gets_them_at_once(bench: Bench) -> None:
    """A worker sees at once that its pool process died and runs the task again: nothing waits for a timeout."""
    bench.send(*range(5))
    with _taker(bench, "a") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait()
    bench.send(5)
    again: list[int] = []

    def all_of_them() -> bool:
        again.extend(_numbers(bench.drain.take(TASK, "a").payloads))
        return sorted(again) == [0, 1, 2, 3, 4, 5]

    _soon(all_of_them)


def test_a_dead_takers_message_brings_what_it_held_when_another_takes_it(bench: Bench) -> None:
    """The task that comes again may itself be taken by somebody else's task: what it held comes along."""
    if bench.is_rabbitmq:
        pytest.skip("RabbitMQ gives everything back itself")
    bench.send(*range(3))
    bench.drain.take(TASK, "died")
    bench.send(3, task_id="died", headers={"redelivered": True})
    taken = bench.drain.take(TASK, "b")
    assert sorted(_numbers(taken.payloads)) == [0, 1, 2, 3]
    taken.acknowledge()
    bench.restore()
    assert bench.left() == []


def test_what_is_held_too_long_is_given_back_by_any_worker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own worker may be dead too: kombu's look-out finds it long before the visibility timeout of 20 minutes."""
    if bench.is_rabbitmq:
        pytest.skip("RabbitMQ gives back when the connection ends")
    monkeypatch.setattr(connectors.broker.redis, "HELD_SECONDS", 0.3)
    bench.send(1, 2)
    bench.drain.take(TASK, "a")

    def look_out() -> list[int]:
        with bench.connect() as connection:
            connection.default_channel.qos.restore_visible(num=None, interval=1)
        return sorted(bench.numbers_left())

    assert look_out() == []
    _soon(lambda: look_out() == [1, 2], 3)


def test_two_who_hold_the_same_do_each_other_no_harm(bench: Bench) -> None:
    """A taker that was believed dead and is not: its messages are handled twice, and acknowledged twice."""
    if bench.is_rabbitmq:
        pytest.skip("RabbitMQ gives a message to one connection only")
    bench.send(1, 2)
    one = bench.drain.take(TASK, "a")
    other = bench.new_drain().take(TASK, "a")
    assert _numbers(other.payloads) == [1, 2]
    bench.send(3)
    one.acknowledge()
    third = bench.drain.take(TASK, "a")
    other.acknowledge()
    assert _numbers(third.payloads) == [3]
    bench.restore()
    assert bench.numbers_left() == [3], "the second acknowledgement was not of what was taken later"


def test_takers_killed_at_any_moment_lose_nothing(bench: Bench, tmp_path: Path) -> None:
    """Each number is written down before it is acknowledged; forty kills at random moments, and all are there."""
    draw = random.Random(4)
    sent = list(range(1_500))
    bench.send(*sent)
    journal = tmp_path / "journal"
    journal.touch()
    kills = 0
    deadline = time.monotonic() + 60
    while kills < 40:
        with _taker(bench, str(uuid4()), journal, pause=0.002) as process:
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
        held = bench.drain.take(TASK, "a")
        server.kill()
        assert bench.drain.take(TASK, "b").payloads == []
        held.acknowledge()
        held.give_back()
        server.restart()
        bench.declare()
        bench.send(2)
        assert _numbers(bench.drain.take(TASK, "c").payloads) == [2]
        assert _numbers(bench.drain.take(TASK, "a").payloads) == [1], (
            "the acknowledgement was not heard: it comes again"
        )
        bench.drain.close()
        bench.app.close()


def test_a_broker_that_can_not_be_taken_from_safely_is_not_taken_from() -> None:
    drain = Drain(lambda: Connection("memory://"), QUEUE, OTHERS)  # type: ignore[no-untyped-call]
    assert drain.take(TASK, "a").payloads == []


class _taker:  # reads as the block it is
    """Another process that takes, says what, writes it down and acknowledges it, again and again."""

    def __init__(self, bench: Bench, taker: str, journal: Path | None = None, pause: float = 60) -> None:
        self._arguments = [bench.broker.url, taker, str(journal or ""), str(pause)]

    def __enter__(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TAKER, *self._arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent(),
        )
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


_TAKER = f"""
import json, sys, time
from kombu.connection import Connection
from tasks.draining import Drain
url, taker, journal, pause = sys.argv[1:]
options = {{}} if url.startswith("amqp") else {{"visibility_timeout": 1200}}
drain = Drain(lambda: Connection(url, transport_options=options), {QUEUE!r}, {OTHERS!r}, count=5)
while True:
    taken = drain.take({TASK!r}, taker)
    numbers = [payload["number"] for payload in taken.payloads]
    print(json.dumps(numbers), flush=True)
    if journal:
        with open(journal, "a") as file:
            file.write("".join(f"{{number}}\\n" for number in numbers))
    time.sleep(float(pause))
    taken.acknowledge()
"""


def _soon(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
