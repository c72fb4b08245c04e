"""A broker to take waiting messages from, and a process that does and may be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.connection import Connection

from config.celery import celery_settings
from config.settings import Settings
from tasks.draining import Drain, Taken
from tests.hubs import ROOT
from tests.servers import Server
from worker.children import die_with_parent

TASK = "fedqueue.events.ingest"
OTHER = "fedqueue.logs.add"
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

    def new_drain(self, **limits: Any) -> Drain:
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


def numbers_of(taken: Taken) -> list[int]:
    return [payload["number"] for payload in taken.payloads(TASK)]


def acknowledge(taken: Taken) -> None:
    """As if all had been done."""
    for task in taken.tasks():
        taken.done(task)
    taken.settle()


def soon(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def taker(bench: Bench, name: str, journal: Path | None = None, pause: float = 60) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that takes, says what, writes it down and acknowledges it, `TAKES` times; ended by force."""
    with subprocess.Popen(
        [sys.executable, "-c", _TAKER, bench.broker.url, name, str(journal or ""), str(pause)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent(),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


TAKES = 7

_TAKER = f"""
import json, sys, time
from kombu.connection import Connection
from tasks.draining import Drain, Taken
url, taker, journal, pause = sys.argv[1:]
options = {{}} if url.startswith("amqp") else {{"visibility_timeout": 1200}}
drain = Drain(lambda: Connection(url, transport_options=options), {QUEUE!r}, {OTHERS!r}, count=5)
for _ in range({TAKES}):
    taken = drain.take([{TASK!r}], taker)
    numbers = [payload["number"] for payload in taken.payloads({TASK!r})]
    print(json.dumps(numbers), flush=True)
    if journal:
        with open(journal, "a") as file:
            file.write("".join(f"{{number}}\\n" for number in numbers))
    time.sleep(float(pause))
    taken.done({TASK!r})
    taken.settle()
time.sleep(600)
"""
