"""docs/wire.md is true: every block in it is checked, its example is sent to a real hub as it stands."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
import redis
from jsonschema import Draft202012Validator
from kombu.connection import Connection
from kombu.messaging import Producer

from fedqueue import Client
from fedqueue.blobs import blob_path, keep_blob, new_blob
from fedqueue.messages import events, names
from fedqueue.wire.examples import EXAMPLES
from fedqueue.wire.schemas import schema_files
from tests.debian_servers import rabbitmq_server
from tests.hubs import ROOT, RunningHub, hub_running
from tests.readme import blocks_of, table_under
from tests.security.workers import worker_of

PAGE = ROOT / "docs" / "wire.md"
SCHEMAS = schema_files()

BLOCKS = blocks_of(PAGE)
MESSAGE, ENVELOPE, RECORD, PUBLISHED, REFUSED, SET_ASIDE = (
    json.loads(block.text) for block in BLOCKS if block.language == "json"
)
CALL, COMMANDS, BLOB = (block.text for block in BLOCKS if block.language == "text")
TASK = names.UPDATES_SUBMIT


def is_valid(value: Any, name: str) -> bool:
    return bool(Draft202012Validator(SCHEMAS[f"{name}.json"]).is_valid(value))


# --- what the page shows, against itself and the schemas --------------------------------------------


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {block.language for block in BLOCKS} == {"json", "text"}


def test_each_step_of_the_example_follows_from_the_one_before() -> None:
    assert {name: value for name, value in EXAMPLES[TASK].items() if name != "metrics"} == MESSAGE
    assert is_valid(MESSAGE, "SubmitModelUpdate")
    text = CALL.removesuffix("\n").encode()
    assert json.loads(text) == [[MESSAGE], {}, {}]
    assert f"These {len(text)} bytes" in PAGE.read_text()
    assert base64.b64decode(ENVELOPE["body"]) == text
    assert is_valid(ENVELOPE, "RedisEnvelope")
    call_id = ENVELOPE["headers"]["id"]
    assert ENVELOPE["properties"]["correlation_id"] == ENVELOPE["headers"]["root_id"] == call_id == RECORD["task_id"]
    queue = names.QUEUE_OF[TASK]
    assert f"LPUSH {queue} <the envelope>\nGET celery-task-meta-{call_id}\n" == COMMANDS
    assert ENVELOPE["properties"]["delivery_info"]["routing_key"] == queue


def test_the_answers_are_as_their_schemas_say() -> None:
    assert is_valid(RECORD, "ResultRecord")
    for answer in (RECORD["result"], REFUSED, SET_ASIDE):
        assert is_valid(answer, "Answer")
        assert answer["value"] is None or is_valid(answer["value"], "UpdateView")
    assert is_valid(REFUSED["rejection"], "Rejection")


def test_the_limits_are_those_of_the_code() -> None:
    shown = {row[0]: row[1] for row in table_under(PAGE, "Limits")}
    assert shown["`data` inline"] == f"{names.INLINE_DATA_LIMIT // 1024} KiB of JSON"
    assert shown["entries of a message (`events`, `entries`, `points`, `statuses`)"] == f"{events.MAX_EVENTS:,}"
    assert shown["an event's `details`"] == f"{events.MAX_DETAILS_BYTES // 1024} KiB of JSON"
    assert shown["free text, `log`"] == f"{events.MAX_LOG_CHARACTERS:,} characters"


def test_rabbitmq_s_queues_are_declared_as_the_hub_declares_them() -> None:
    assert PUBLISHED["queue_arguments"] == names.RABBITMQ_QUEUE_ARGUMENTS


# --- on a real hub ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with hub_running(tmp_path_factory.mktemp("wire") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def endpoint(hub: RunningHub) -> dict[str, str]:
    found: dict[str, str] = json.loads((hub.home / "endpoint.json").read_text())
    return found


@pytest.fixture(scope="module")
def client(endpoint: dict[str, str]) -> Iterator[Client]:
    """One who has made the example's model, with its one client of two that a round needs."""
    with Client(endpoint["broker_url"], endpoint["result_url"], endpoint["store_url"]) as made:
        create_the_model(made)
        yield made


@pytest.fixture(scope="module")
def broker(endpoint: dict[str, str]) -> Iterator[redis.Redis]:
    path = re.fullmatch(r"redis\+socket://(.+)\?virtual_host=0", endpoint["broker_url"])
    assert path
    with redis.Redis(unix_socket_path=path[1]) as connection:
        yield connection


def create_the_model(client: Client) -> None:
    model = UUID(MESSAGE["model_id"])
    client.create_model(model_id=model, data_format="json", requirement="require_x_clients", requirement_args={"x": 2})
    client.register_client(model, MESSAGE["client_id"])


def found_before(holds: Callable[[], Any], seconds: float = 30.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < until, f"nothing within {seconds} s"
        time.sleep(0.02)
    return found


def ask(broker: redis.Redis, envelope: dict[str, Any]) -> Any:
    """What is written down under the envelope's id, once it is."""
    broker.lpush(envelope["properties"]["delivery_info"]["routing_key"], json.dumps(envelope))
    key = f"celery-task-meta-{envelope['headers']['id']}"
    return json.loads(found_before(lambda: broker.get(key)))


def enveloped(message: Any, task: str = TASK) -> dict[str, Any]:
    """The page's envelope around another message, as a call of its own."""
    call_id = str(uuid4())
    delivery = {"exchange": "", "routing_key": names.QUEUE_OF.get(task, names.CONTROL_QUEUE)}
    envelope: dict[str, Any] = ENVELOPE | {
        "body": base64.b64encode(json.dumps([[message], {}, {}]).encode()).decode(),
        "headers": ENVELOPE["headers"] | {"task": task, "id": call_id, "root_id": call_id},
        "properties": ENVELOPE["properties"]
        | {"correlation_id": call_id, "delivery_tag": str(uuid4()), "delivery_info": delivery},
    }
    return envelope


def test_the_envelope_as_it_stands_is_answered_as_the_page_says(client: Client, broker: redis.Redis) -> None:
    changing = {"date_done": None, "children": None}
    first = ask(broker, ENVELOPE)
    assert first | changing == RECORD | changing
    assert first.keys() == RECORD.keys()
    assert 0 < broker.ttl(f"celery-task-meta-{RECORD['task_id']}") <= 300
    again = ask(broker, enveloped(MESSAGE))["result"]["value"]
    assert again == RECORD["result"]["value"] | {"repeated": True}
    assert client.get_model(MESSAGE["model_id"]).updates["PENDING"] == 1
    # "To the letter": 1 and 1.0 are two things.
    other = ask(broker, enveloped(MESSAGE | {"data": [1.0, 2.0, 4.0]}))["result"]
    assert other["rejection"]["kind"] == "SubmissionReused"


def test_refusals_are_as_the_page_says(client: Client, broker: redis.Redis) -> None:
    misspelt = {name.replace("num_examples", "num_example"): value for name, value in MESSAGE.items()}
    assert ask(broker, enveloped(misspelt))["result"] == REFUSED
    shown = SET_ASIDE["value"]
    client_id = re.match(r"client (\S+) ", shown["reason"])
    assert client_id
    stranger = MESSAGE | {"submission_id": shown["submission_id"], "client_id": client_id[1]}
    answer = ask(broker, enveloped(stranger))["result"]
    assert answer["value"] | {"update_id": 2} == shown
    assert answer["rejection"] is None


def test_a_call_of_task_and_id_alone_is_carried_out(client: Client, broker: redis.Redis) -> None:
    """The least that may be sent: everything else has its default."""
    envelope = enveloped({"model_id": MESSAGE["model_id"]}, names.MODELS_GET)
    headers = {"task": names.MODELS_GET, "id": envelope["headers"]["id"], "ignore_result": False}
    assert is_valid(least := envelope | {"headers": headers}, "RedisEnvelope")
    assert ask(broker, least)["result"]["value"]["model_id"] == MESSAGE["model_id"]


def test_the_blob_is_a_model_in_the_bytes_that_the_page_shows(
    client: Client, broker: redis.Redis, endpoint: dict[str, str]
) -> None:
    *dump, place = BLOB.splitlines()
    rows = [re.fullmatch(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)+) +\|(.+)\|", line) for line in dump]
    assert all(rows)
    content = b"".join(bytes.fromhex(row[2]) for row in rows if row)
    shown = "".join(row[3] for row in rows if row)
    assert shown == "".join(chr(byte) if 32 <= byte < 127 else "." for byte in content)
    digest = hashlib.sha256(content).hexdigest()
    assert place == blob_path(Path(), digest).as_posix()
    root = Path(endpoint["store_url"].removeprefix("file://"))
    with new_blob(root) as file:
        file.write(content)
        path, _digest = keep_blob(root, file)
    model: dict[str, Any] = {"model_id": str(uuid4()), "initial": {"uri": path.as_uri(), "digest": digest}}
    assert ask(broker, enveloped(model, names.MODELS_CREATE))["result"]["rejection"] is None
    arrays = client.fetch_latest(model["model_id"]).arrays
    np.testing.assert_array_equal(arrays["w"], np.array([1, 2, 4], np.float32))


# --- on RabbitMQ ------------------------------------------------------------------------------------


@pytest.mark.wide
def test_the_call_over_rabbitmq_is_answered_too(home: Path) -> None:
    with (
        rabbitmq_server() as server,
        worker_of(home, FEDQUEUE_BROKER_URL=server.url),
        Client(server.url, store_url=f"file://{home}/store", timeout=60) as client,
        Connection(server.url) as connection,  # type: ignore[no-untyped-call]
    ):
        create_the_model(client)
        channel = connection.default_channel
        reply = PUBLISHED["reply_queue"]
        queue, reply_to = PUBLISHED["routing_key"], PUBLISHED["properties"]["reply_to"]
        channel.queue_declare(queue=queue, durable=True, auto_delete=False, arguments=PUBLISHED["queue_arguments"])
        expires = {"x-expires": reply["expires"]}
        channel.queue_declare(queue=reply_to, durable=reply["durable"], auto_delete=False, arguments=expires)
        Producer(channel).publish(  # type: ignore[no-untyped-call]
            CALL.removesuffix("\n"),
            exchange=PUBLISHED["exchange"],
            routing_key=queue,
            headers=PUBLISHED["headers"],
            **PUBLISHED["properties"],
        )
        answer = found_before(lambda: channel.basic_get(reply_to, no_ack=True))
        assert answer.properties["correlation_id"] == PUBLISHED["headers"]["id"]
        assert json.loads(answer.body)["result"] == RECORD["result"]
