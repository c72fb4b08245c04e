"""How workers take from a Redis-protocol server: nothing is lost with a worker, and nothing is asked for nothing.

Each of these runs a real worker of Celery's, its messages' numbers written into a set on the server itself.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from celery import Celery
from kombu.entity import Queue
from kombu.messaging import Consumer, Producer
from kombu.simple import SimpleQueue

from connectors.broker.redis_transport import take_safely_from_redis
from tests.contract.waiting_bench import soon
from tests.hubs import ROOT
from tests.servers import Server, valkey_server
from worker.children import die_with_parent

_APPLICATION = """
import os, time
import redis
from celery import Celery
from connectors.broker.redis_transport import take_safely_from_redis

if os.environ["SAFELY"]:
    take_safely_from_redis()
app = Celery("numbers", broker=os.environ["BROKER"], set_as_current=True)
app.conf.update(
    task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=1, worker_concurrency=1,
    task_default_queue="numbers", broker_connection_retry_on_startup=True,
    broker_transport_options={
        "visibility_timeout": 60, "health_check_interval": 1, "socket_timeout": 2, "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1, "unacked_mutex_expire": 2, "held_seconds": float(os.environ["HELD"]) or None,
        "polling_interval": float(os.environ["LOOKS"]) or None,
    },
)
app.conf.task_queues = None
done = []

@app.task(name="numbers.add")
def add(number, seconds=0):
    if not done:
        done.append(redis.Redis.from_url(os.environ["BROKER"]))
    done[0].hincrby("begun", number)
    time.sleep(seconds)
    done[0].sadd("done", number)
"""


class Numbers:
    """A broker, a worker that adds the numbers it is sent to a set, and what is known of both."""

    def __init__(
        self, server: Server, folder: Path, *, safely: bool = True, held_seconds: float = 0, looks_seconds: float = 0
    ) -> None:
        self.server = server
        self.redis = redis.Redis.from_url(server.url)
        self.app = Celery("numbers", broker=server.url, set_as_current=False)
        self.app.conf.task_default_queue = "numbers"
        self._folder = folder
        (folder / "numbers_app.py").write_text(_APPLICATION)
        self._variables = {"BROKER": server.url, "SAFELY": "yes" if safely else "", "HELD": str(held_seconds)}
        self._variables["LOOKS"] = str(looks_seconds)
        self.worker: subprocess.Popen[bytes] | None = None

    def start(self, *queues: str) -> None:
        command = [sys.executable, "-m", "celery", "-q", "-A", "numbers_app", "worker", "--without-mingle"]
        command += ["--without-gossip", "--queues", ",".join(queues or ("numbers",))]
        with (self._folder / "worker.log").open("ab") as log:
            self.worker = subprocess.Popen(
                command,
                cwd=self._folder,
                env=os.environ | self._variables | {"PYTHONPATH": f"{self._folder}:{ROOT}"},
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    def kill(self) -> None:
        worker, self.worker = self.worker, None
        if worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()

    def send(self, *numbers: int, seconds: float = 0, **options: Any) -> None:
        for number in numbers:
            self.app.send_task("numbers.add", args=[number, seconds], ignore_result=True, **options)

    def done(self) -> set[int]:
        return {int(number) for number in self.redis.smembers("done")}

    def begun(self, number: int) -> int:
        """How often a task of that number was begun."""
        return int(self.redis.hget("begun", str(number)) or 0)

    def are_done(self, *numbers: int) -> Callable[[], bool]:
        return lambda: self.done() == set(numbers)

    def waits(self) -> bool:
        """Whether the worker's question is with the broker, which answers it when there is a message."""
        clients = self.redis.client_list()
        return any(client["cmd"] in ("brpop", "blmove") and "b" in client["flags"] for client in clients)

    def kept(self) -> int:
        """How many messages the broker has, waiting or unacknowledged."""
        return int(self.redis.llen("numbers")) + int(self.redis.hlen("unacked"))


@contextmanager
def numbers_running(
    server: Server,
    folder: Path,
    *queues: str,
    safely: bool = True,
    held_seconds: float = 0,
    looks_seconds: float = 0,
) -> Iterator[Numbers]:
    server_redis = redis.Redis.from_url(server.url)
    server_redis.flushall()
    numbers = Numbers(server, folder, safely=safely, held_seconds=held_seconds, looks_seconds=looks_seconds)
    numbers.start(*queues)
    try:
        numbers.send(0)
        soon(numbers.are_done(0), 30)
        soon(lambda: numbers.kept() == 0)
        yield numbers
    finally:
        numbers.kill()
        numbers.app.close()
        numbers.redis.close()
        server_redis.close()


@pytest.fixture
def numbers(valkey: Server, tmp_path: Path) -> Iterator[Numbers]:
    """A worker that is idle."""
    with numbers_running(valkey, tmp_path) as running:
        yield running


def _strike_while_a_message_comes(numbers: Numbers) -> int:
    """Stop the idle worker, send it a message, kill it: what the broker has then.

    Its question must be with the broker meanwhile: one of a second's looks may just be over as the message comes.
    """
    assert numbers.worker is not None
    soon(numbers.waits)
    os.kill(numbers.worker.pid, signal.SIGSTOP)
    numbers.send(1)
    time.sleep(0.1)
    numbers.kill()
    return numbers.kept()


def test_a_message_on_its_way_to_a_worker_that_dies_is_still_the_brokers(valkey: Server, tmp_path: Path) -> None:
    with numbers_running(valkey, tmp_path, looks_seconds=60) as numbers:
        assert _strike_while_a_message_comes(numbers) == 1


def test_the_stock_transport_loses_it(valkey: Server, tmp_path: Path) -> None:
    """Why there is another. Should this fail one day, kombu has learnt it, and ours can go."""
    with numbers_running(valkey, tmp_path, safely=False, looks_seconds=60) as numbers:
        assert _strike_while_a_message_comes(numbers) == 0


def test_a_worker_killed_under_load_loses_nothing(numbers: Numbers) -> None:
    # Slowly done, so that there is much left at each blow, however long the sending takes.
    numbers.send(*range(1, 1_500), seconds=0.01)
    for _ in range(3):
        before = len(numbers.done())
        soon(lambda before=before: len(numbers.done()) > before + 20, 20)  # type: ignore[misc]
        numbers.kill()
        numbers.start()
    # Afterwards: what it did in between would be neither known nor left.
    numbers.kill()
    known = numbers.done()
    unacknowledged = [json.loads(entry)[0] for entry in numbers.redis.hvals("unacked")]
    for message in [*map(json.loads, numbers.redis.lrange("numbers", 0, -1)), *unacknowledged]:
        known.add(json.loads(base64.b64decode(message["body"]))[0][0])
    assert known == set(range(1_500))


def test_messages_of_all_queues_come_at_once(valkey: Server, tmp_path: Path) -> None:
    with numbers_running(valkey, tmp_path, "numbers", "others", looks_seconds=60) as numbers:
        soon(numbers.waits)
        began = time.monotonic()
        numbers.send(1, queue="others")
        soon(numbers.are_done(0, 1))
        numbers.send(2)
        soon(numbers.are_done(0, 1, 2))
        assert time.monotonic() - began < 20, "each was seen at once, not at the next look of a minute"


def test_messages_of_all_priorities_come(numbers: Numbers) -> None:
    """One of another priority at the next look: an idle worker is told of the ordinary ones alone."""
    soon(numbers.waits)
    numbers.send(1, priority=6)
    soon(numbers.are_done(0, 1))


def test_what_can_not_be_read_is_put_aside_and_the_rest_goes_on(numbers: Numbers) -> None:
    numbers.redis.lpush("numbers", "{no json", json.dumps({"properties": None}))
    numbers.send(1)
    soon(numbers.are_done(0, 1))
    assert set(numbers.redis.lrange("numbers.unreadable", 0, -1)) == {b"{no json", b'{"properties": null}'}


def test_a_server_that_was_restarted_is_taken_from_again(tmp_path: Path) -> None:
    """It has forgotten the script."""
    with valkey_server(tmp_path) as server, numbers_running(server, tmp_path) as numbers:
        server.kill()
        server.start()
        numbers.send(1)
        soon(numbers.are_done(0, 1), 20)
        numbers.redis.script_flush()
        numbers.send(2, 3)
        soon(numbers.are_done(0, 1, 2, 3), 20)


def test_who_acknowledges_nothing_leaves_nothing(valkey: Server, tmp_path: Path) -> None:
    """Celery's answers to an inspection are taken so; kept as unacknowledged they would come again and again."""
    with numbers_running(valkey, tmp_path) as numbers:
        take_safely_from_redis()
        with Celery("asking", broker=valkey.url, set_as_current=False) as asking:
            assert len(asking.control.inspect(timeout=2).ping()) == 1
            with asking.connection_for_read() as connection:
                queue = SimpleQueue(connection, "plain", no_ack=True)  # type: ignore[no-untyped-call]
                queue.put({"number": 1})  # type: ignore[no-untyped-call]
                assert queue.queue.get(no_ack=True) is not None
        soon(lambda: numbers.kept() == 0)


def test_a_channel_that_waits_at_one_queue_after_another_holds_few_connections(valkey: Server, tmp_path: Path) -> None:
    """As a pooled connection does over which one control command after another is answered."""
    app = Numbers(valkey, tmp_path).app
    take_safely_from_redis()
    with app.connection_for_write() as connection, redis.Redis.from_url(valkey.url) as asker:
        channel = connection.default_channel
        before = len(asker.client_list())
        for number in range(120):  # more than a channel may have connections
            queue = Queue(f"waited-at-{number}", channel=channel, auto_delete=True)  # type: ignore[no-untyped-call]
            arrived: list[Any] = []
            with Consumer(channel, queues=[queue], on_message=arrived.append, no_ack=True):  # type: ignore[no-untyped-call]
                with pytest.raises(TimeoutError):
                    connection.drain_events(timeout=0.01)
                if number % 40 == 0:
                    Producer(channel).publish(number, routing_key=queue.name)  # type: ignore[no-untyped-call]
                    connection.drain_events(timeout=5)
                    assert [message.payload for message in arrived] == [number]
        assert len(asker.client_list()) <= before + 4


@pytest.mark.slow
def test_what_a_killed_worker_had_taken_comes_back_long_before_the_visibility_timeout(
    valkey: Server, tmp_path: Path
) -> None:
    """The timeout must outlast the longest task; the worker that lives says so all the while."""
    with numbers_running(valkey, tmp_path, held_seconds=3) as numbers:
        numbers.send(1, seconds=8)  # far longer than it would be held, were its worker silent
        soon(numbers.are_done(0, 1), 40)
        assert numbers.begun(1) == 1
        numbers.send(2, seconds=1)
        soon(lambda: numbers.begun(2) == 1, 20)
        numbers.kill()
        killed = time.monotonic()
        numbers.start()
        soon(numbers.are_done(0, 1, 2), 40)
        assert time.monotonic() - killed < 50, "the visibility timeout is 60 s"
        soon(lambda: numbers.kept() == 0)


def test_what_a_cut_connection_had_brought_comes_back_as_soon(valkey: Server, tmp_path: Path) -> None:
    with numbers_running(valkey, tmp_path, held_seconds=3) as numbers:
        numbers.send(1, seconds=2)
        soon(lambda: numbers.begun(1) == 1, 20)
        numbers.redis.client_kill_filter(_type="normal", skipme=True)
        soon(numbers.are_done(0, 1), 40)
        soon(lambda: numbers.kept() == 0, 40)


def test_cut_connections_are_made_again(numbers: Numbers) -> None:
    for number in (1, 2, 3):
        for client in numbers.redis.client_list():
            if client["cmd"] in ("blmove", "evalsha", "evalsha_ro"):
                numbers.redis.client_kill_filter(_id=client["id"])
        numbers.send(number)
        soon(numbers.are_done(*range(number + 1)), 20)


def test_a_producer_whose_channel_was_closed_finds_another(valkey: Server) -> None:
    """As one is whose connection broke while it was being made anew: it lies in its pool, its channel closed."""
    take_safely_from_redis()
    queue = f"sent.{os.urandom(4).hex()}"
    with Celery("sender", broker=valkey.url, set_as_current=False) as app, app.connection_for_write() as connection:
        producer = Producer(connection)  # type: ignore[no-untyped-call]
        for _ in range(3):
            producer.publish({}, routing_key=queue, serializer="json", retry=True)  # type: ignore[no-untyped-call]
            producer.channel.close()
    with redis.Redis.from_url(valkey.url) as line:
        assert line.llen(queue) == 3


def test_a_server_that_falls_silent_is_left(numbers: Numbers, tmp_path: Path) -> None:
    """A look whose answer does not come is given up: the broker's machine may have vanished without a word."""

    def has_noticed() -> bool:
        said = (tmp_path / "worker.log").read_text()
        return "broker.silent" in said or "Connection to broker lost" in said

    time.sleep(0.3)
    numbers.server.pause()
    try:
        soon(has_noticed, 20)
    finally:
        numbers.server.resume()
    numbers.send(1)
    soon(numbers.are_done(0, 1), 20)


def test_a_worker_waits_without_asking_again_and_again(numbers: Numbers) -> None:
    """Idle, and with its process busy while more waits: it is the broker that tells."""
    assert numbers.worker is not None
    process = psutil.Process(numbers.worker.pid)

    def share() -> float:
        before, began = process.cpu_times(), time.monotonic()
        time.sleep(1.5)
        after = process.cpu_times()
        return (after.user + after.system - before.user - before.system) / (time.monotonic() - began)

    time.sleep(0.5)
    assert share() < 0.1
    numbers.send(1, 2, 3, 4, seconds=60)  # until it is killed
    soon(lambda: numbers.begun(1) == 1)
    time.sleep(0.3)
    assert numbers.kept() == 4
    assert share() < 0.1


def test_a_worker_told_to_stop_gives_back_what_it_did_not_begin(numbers: Numbers) -> None:
    assert numbers.worker is not None
    numbers.send(1, 2, 3, 4, seconds=1)
    time.sleep(0.5)
    numbers.worker.terminate()
    numbers.worker.wait(20)
    assert len(numbers.done()) - 1 + int(numbers.redis.llen("numbers")) == 4
    assert numbers.redis.hlen("unacked") == 0
