"""A real worker of a hub, its log, and messages put before it as somebody who can write to the broker would."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis

from fedqueue.messages.names import CONTROL_QUEUE
from tests.hubs import ROOT, environment, run_worker_command
from worker.children import die_with_parent


class Worker:
    """A running worker."""

    def __init__(self, process: subprocess.Popen[bytes], home: Path, variables: Mapping[str, str], log: Path) -> None:
        self.process = process
        self.home = home
        self.variables = dict(variables)
        self.log = log

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What it has logged under that name."""
        read = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in read if line.get("event") == event]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`python -m worker ARGUMENTS` with the worker's own settings."""
        return run_worker_command(self.home, *arguments, **self.variables)

    def wait_for(self, what: str, holds: Callable[[], object], seconds: float = 60.0) -> None:
        """Return once `holds`; fail with the end of its log, at once if it has ended."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, f"the worker ended before {what}:\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"no {what} within {seconds} s:\n{self.log.read_text()[-4000:]}"
            time.sleep(0.05)


@contextmanager
def worker_of(
    home: Path, settings: Mapping[str, str] | None = None, *, is_ready: bool = True, **more: str
) -> Iterator[Worker]:
    """`celery -A worker worker` with one process on a migrated database; killed with all it started when it is over."""
    home.mkdir(parents=True, exist_ok=True)
    variables = {**(settings or {}), **more}
    if is_ready:
        migrated = run_worker_command(home, "migrate", **variables)
        assert migrated.returncode == 0, migrated.stdout + migrated.stderr
    log = home / "worker.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker", "worker", "-c", "1"],
            cwd=ROOT,
            env=environment(home, **variables),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
    worker = Worker(process, home, variables, log)
    try:
        if is_ready:
            worker.wait_for("ready", lambda: worker.lines("ready"))
        yield worker
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Intruder:
    """Somebody who can write to a Redis broker: raw messages of any form, into any queue."""

    def __init__(self, broker: redis.Redis) -> None:
        self.broker = broker

    def put(self, queue: str = CONTROL_QUEUE, **changes: Any) -> None:
        """kombu's envelope of a call of `fedqueue.models.get`, its parts changed; None takes a part away."""
        body = json.dumps([[{"model_id": str(uuid4())}], {}, {"callbacks": None, "errbacks": None}]).encode()
        envelope: dict[str, Any] = {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"task": "fedqueue.models.get", "id": str(uuid4()), "ignore_result": True},
            "properties": {
                "body_encoding": "base64",
                "correlation_id": str(uuid4()),
                "delivery_info": {"exchange": queue, "routing_key": queue},
                "delivery_tag": str(uuid4()),
            },
        }
        for name, value in changes.items():
            place = envelope
            *path, last = name.replace("__", ".").split(".")
            for part in path:
                place = place[part]
            last = {"content_type": "content-type", "content_encoding": "content-encoding"}.get(last, last)
            if value is None:
                place.pop(last, None)
            else:
                place[last] = value
        self.broker.lpush(queue, json.dumps(envelope))

    def is_taken(self, *queues: str) -> bool:
        """Whether nothing is left: neither in the queues nor among what is not acknowledged."""
        return not any(self.broker.llen(queue) for queue in (queues or (CONTROL_QUEUE,))) and not self.broker.hlen(
            "unacked"
        )
