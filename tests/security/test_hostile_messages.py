"""What is no message, put into a real worker's queue: refused unopened, with a trace, and the worker lives on."""

from __future__ import annotations

import base64
import bz2
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from fedqueue import Client
from fedqueue.errors import Rejected
from fedqueue.messages.names import EVENTS_QUEUE
from tests.security.workers import Intruder, Worker, worker_of
from tests.servers import valkey_server

CALL = [[{"model_id": str(uuid4())}], {}, {}]


@pytest.fixture(scope="module")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker for these tests alone."""
    with valkey_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, broker_url: str) -> Iterator[Worker]:
    """One worker for all of them: it must outlive every one."""
    with worker_of(tmp_path_factory.mktemp("hub") / "home", FEDQUEUE_BROKER_URL=broker_url) as running:
        yield running


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pickle_that_writes(path: Path) -> bytes:
    """Protocol 0 by hand: opened, it would make the file."""
    return f"cbuiltins\nopen\n(V{path}\nVw\ntR.".encode()


# Each is an envelope's changes; `None` takes a part away.
HOSTILE: dict[str, dict[str, Any]] = {
    "yaml": {"content_type": "application/x-yaml"},
    "msgpack": {"content_type": "application/x-msgpack", "content_encoding": "binary"},
    "signed, where nobody signs": {"content_type": "application/data"},
    "no content type": {"content_type": None},
    "an empty content type": {"content_type": ""},
    "a call that is no bytes": {"body": CALL, "properties__body_encoding": None},
    "one that kombu opens for anybody": {
        "body": CALL,
        "content_type": "application/text",
        "content_encoding": "binary",
        "properties__body_encoding": None,
    },
    "one without a content type": {"body": CALL, "content_type": None, "properties__body_encoding": None},
    "another encoding": {"content_encoding": "utf-7"},
    "a number": {"body": in_base64(b"5")},
    "no call": {"body": in_base64(b'{"args": []}')},
    "a call of four parts": {"body": in_base64(json.dumps([*CALL, {}]).encode())},
    "what would overwrite the request": {"body": in_base64(json.dumps([[{}], {}, {"id": "mine"}]).encode())},
    "no JSON": {"body": in_base64(b"[[{}], {}, {}")},
    "no base64": {"body": "!"},
    "no text": {"body": in_base64(b"\xff\xfe")},
    "JSON of a thousand levels": {"body": in_base64(b"[" * 100_000)},
    "a datetime that is none": {"body": in_base64(b'[[{"__type__": "datetime", "__value__": 1}], {}, {}]')},
    "headers that are none": {"headers": "task"},
    "a task that is no name": {"headers__task": ["fedqueue.models.get"]},
    "no id": {"headers__id": None},
    "limits that are none": {"headers__timelimit": "long"},
    "retries below none": {"headers__retries": -1},
    "properties that are hardly any": {"properties__body_encoding": "rot13"},
    "a bomb": {"body": in_base64(zlib.compress(bytes(80 << 20), 9)), "headers__compression": "gzip"},
    "another bomb": {"body": in_base64(bz2.compress(bytes(80 << 20))), "headers__compression": "bzip2"},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_message_of_ours_is_refused_once(worker: Worker, broker_url: str, name: str) -> None:
    """Some of them end Celery's own worker, or are run by it unopened."""
    refused = len(worker.lines("message.refused"))
    with redis.Redis.from_url(broker_url) as broker:
        intruder = Intruder(broker)
        intruder.put(**HOSTILE[name])
        worker.wait_for(f"refusal of {name}", lambda: len(worker.lines("message.refused")) > refused)
        worker.wait_for("the queue's end", intruder.is_taken)
    assert len(worker.lines("message.refused")) == refused + 1
    line = worker.lines("message.refused")[-1]
    assert line["reason"]
    assert line["refused"] == refused + 1
    assert not worker.lines("task.refused"), "nothing of it reached a task"


def test_a_pickle_is_not_opened(worker: Worker, broker_url: str, tmp_path: Path) -> None:
    """In whatever wrapping it comes."""
    trap = tmp_path / "opened"
    body = in_base64(pickle_that_writes(trap))
    refused = len(worker.lines("message.refused"))
    with redis.Redis.from_url(broker_url) as broker:
        intruder = Intruder(broker)
        for queue in ("fedqueue.control", EVENTS_QUEUE):
            for content_type in ("application/x-python-serialize", "application/json", "application/text", "pickle"):
                for encoding in ("binary", "utf-8"):
                    intruder.put(queue, body=body, content_type=content_type, content_encoding=encoding)
        worker.wait_for("sixteen refusals", lambda: len(worker.lines("message.refused")) >= refused + 16)
        worker.wait_for("the queues' end", lambda: intruder.is_taken("fedqueue.control", EVENTS_QUEUE))
    assert not trap.exists()


def test_the_worker_answers_after_all_of_it(worker: Worker, broker_url: str) -> None:
    """The same process: nothing had to be restarted."""
    with Client(broker_url, timeout=30) as client, pytest.raises(Rejected, match="there is no model"):
        client.get_model(uuid4())
    assert len(worker.lines("ready")) == 1


def test_a_message_packed_by_gzip_is_read(worker: Worker, broker_url: str) -> None:
    """Any Celery producer may pack: what is refused is a bomb."""
    with redis.Redis.from_url(broker_url) as broker:
        body = in_base64(zlib.compress(json.dumps([[{"model_id": "packed"}], {}, {}]).encode()))
        Intruder(broker).put(body=body, headers__compression="gzip")
        worker.wait_for("an answer", lambda: worker.lines("task.refused"))
    assert worker.lines("task.refused")[-1]["field"] == "model_id"
