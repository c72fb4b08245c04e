"""Signed messages through a real worker: what a trusted party signed is done and answered, everything else refused."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from config.loading import load_settings
from fedqueue import Client
from fedqueue.endpoint import Endpoint
from fedqueue.errors import InvalidArgument, NoAnswer
from fedqueue.messages.names import CONTROL_QUEUE, EVENTS_QUEUE
from fedqueue.signing import Signer, SigningFiles
from fedqueue.transport import BrokerAway, CeleryTransport
from tasks.draining import Drain
from tests.contract.waiting_bench import TASK, Bench, numbers_of
from tests.security.parties import Parties, variables_of
from tests.security.workers import Intruder, Worker, worker_of
from tests.servers import Server, valkey_server
from worker.bootstrap import HubCelery
from worker.health import default_worker_name

NOTES = "somebody.elses.queue"


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    made = Parties(tmp_path_factory.mktemp("parties"))
    for name in ("hub", "site"):
        made.party(name)
    made.party("lapsed", expired=True)  # trusted, and its certificate has expired since
    made.party("stranger", trusted=False)
    return made


def files_of(parties: Parties, name: str) -> SigningFiles:
    return SigningFiles(parties.folder / f"{name}.key", parties.folder / f"{name}.pem", str(parties.trusted))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with valkey_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, broker: Server, parties: Parties) -> Iterator[Worker]:
    """A worker that signs as the hub."""
    home = tmp_path_factory.mktemp("hub") / "home"
    settings = {
        "FEDQUEUE_BROKER_URL": broker.url,
        "FEDQUEUE_SWEEP_SECONDS": "0.5",
        "FEDQUEUE_NOTIFY_TASK": "somebody.elses.task",
        "FEDQUEUE_NOTIFY_QUEUE": NOTES,
    }
    with worker_of(home, {**settings, **variables_of(files_of(parties, "hub"))}) as running:
        yield running


def client_of(broker: Server, worker: Worker, files: SigningFiles | None, **options: Any) -> Client:
    signing = {}
    if files is not None:
        signing = {
            "signing_key": files.key,
            "signing_certificate": files.certificate,
            "trusted_certificates": files.trusted,
        }
    store = (worker.home / "store").as_uri()
    return Client(broker.url, store_url=store, **{"timeout": 60, **signing, **options})


def test_a_signed_client_is_served(broker: Server, worker: Worker, parties: Parties) -> None:
    """Submissions and answers, events that are taken many at a time, notifications, sweeps: the whole way."""
    with client_of(broker, worker, files_of(parties, "site")) as hub:
        model = hub.create_model(
            name="digits", data_format="json", requirement="require_x_clients", requirement_args=[1]
        )
        sender = hub.register_client(model.model_id, name="north").client_id
        assert hub.submit_update(model.model_id, sender, [1, 2, 4], num_examples=1).status == "PENDING"
        assert hub.wait_for_aggregate(model.model_id, after=0, timeout=60).number == 1
        assert hub.fetch_latest(model.model_id).data == [1, 2, 4]
        for number in range(200):
            hub.send_events([{"model_id": model.model_id, "log": f"line {number}"}])
        told: set[str] = set()
        while len(told) < 200:
            told = {entry.text for entry in hub.iter_logs(model.model_id) if entry.text.startswith("line ")}
            assert worker.process.poll() is None
            time.sleep(0.05)
    assert worker.lines("message.refused") == []
    assert worker.lines("message.handed_on") == []
    with redis.Redis.from_url(broker.url) as connection:
        note = json.loads(connection.lindex(NOTES, 0))
    assert note["content-type"] == "application/data"
    (fact, *_), _, _ = Signer(files_of(parties, "site")).open(base64.b64decode(note["body"]))
    assert fact["model_id"] == str(model.model_id)


def test_the_hubs_own_messages_are_signed(broker: Server, worker: Worker, parties: Parties) -> None:
    """The sweep, a retry, the canary of `health`, remote control: refused, they would be noticed by nobody for long."""
    signing = files_of(parties, "hub")
    settings = load_settings(
        None,
        home=worker.home,
        broker_url=broker.url,
        signing_key=signing.key,
        signing_certificate=signing.certificate,
        signing_trusted_certificates=signing.trusted,
    )
    with HubCelery(settings) as app:

        def counts() -> dict[str, int]:
            stats = app.control.inspect(destination=[default_worker_name()], timeout=5).stats() or {}
            return next((found["total"] for found in stats.values()), {})

        worker.wait_for("two sweeps", lambda: counts().get("fedqueue.rounds.poll", 0) >= 2)
        with client_of(broker, worker, files_of(parties, "site")) as hub:
            model = hub.create_model(name="retried")
            hub.start_run(model.model_id, user_id="ada")
            early = {"model_id": model.model_id, "event_type": "RUNNING", "run_id": uuid4()}
            hub.send_events([early])
        worker.wait_for("a retry", lambda: counts().get("fedqueue.models.update_status", 0) >= 2)
    healthy = worker.command("health", "--seconds", "20")
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    assert worker.command("status", "--json").returncode == 0
    assert worker.lines("message.refused") == []


# Any service of somebody else's: Celery's own settings, and nothing of ours.
_PRODUCER = """
import sys
from uuid import uuid4
from celery import Celery
broker, key, certificate, trusted = sys.argv[1:]
app = Celery(broker=broker, backend=broker)
app.conf.update(
    task_serializer="auth", result_serializer="auth", accept_content=["auth"], event_serializer="auth",
    security_key=key, security_certificate=certificate, security_cert_store=trusted, security_digest="sha256",
)
app.setup_security()
message = {"model_id": str(uuid4()), "name": "from elsewhere"}
sent = app.send_task("fedqueue.models.create", args=[message], queue="fedqueue.control", ignore_result=False)
print(sent.get(timeout=30)["value"]["name"])
"""


def test_any_celery_producer_that_signs_is_served(broker: Server, worker: Worker, parties: Parties) -> None:
    """It is Celery's own serializer on the wire, both ways."""
    site = files_of(parties, "site")
    hubs = str(parties.trusted / "hub.pem")  # Celery's own store takes no folder with a lapsed certificate in it
    command = [sys.executable, "-c", _PRODUCER, broker.url, str(site.key), str(site.certificate), hubs]
    done = subprocess.run(command, cwd=parties.folder, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "from elsewhere", done.stderr


@pytest.mark.parametrize(
    ("sender", "says"),
    [("stranger", "Unknown certificate"), ("lapsed", "Expired certificate"), (None, "only signed messages")],
)
def test_who_is_not_trusted_is_refused(
    broker: Server, worker: Worker, parties: Parties, sender: str | None, says: str
) -> None:
    """Its message is done away with, not redelivered, and the worker lives on."""
    refused = len(worker.lines("message.refused"))
    # Who may not sign by an expired certificate any more may still have the key.
    files = None if sender in (None, "lapsed") else files_of(parties, sender or "")
    if sender == "lapsed":
        put_signed(broker, parties, "lapsed")
    else:
        with client_of(broker, worker, files, timeout=2, resend_after=60) as hub, pytest.raises(NoAnswer):
            hub.get_model(uuid4())
    worker.wait_for("a refusal", lambda: len(worker.lines("message.refused")) > refused)
    with redis.Redis.from_url(broker.url) as connection:
        worker.wait_for("the queue's end", lambda: Intruder(connection).is_taken(CONTROL_QUEUE))
    line = worker.lines("message.refused")[-1]
    assert says in line["reason"]
    assert line["task_name"] == "fedqueue.models.get"


def put_signed(broker: Server, parties: Parties, party: str, queue: str = CONTROL_QUEUE, **changes: Any) -> None:
    """A message signed by that party, put into the queue by hand."""
    import celery.security.certificate as certificates

    expired = certificates.Certificate.has_expired
    certificates.Certificate.has_expired = lambda self: False  # in this process: it signs all the same
    try:
        signer = Signer(files_of(parties, party))
    finally:
        certificates.Certificate.has_expired = expired
    body = changes.pop("body", None) or [[{"model_id": str(uuid4())}], {}, {"callbacks": None}]
    with redis.Redis.from_url(broker.url) as connection:
        Intruder(connection).put(
            queue,
            **{
                "body": base64.b64encode(signer.sign(body).encode()).decode(),
                "content_type": "application/data",
                **changes,
            },
        )


def forged(parties: Parties) -> dict[str, dict[str, Any]]:
    """What somebody makes of messages that a trusted party has signed, and of none."""
    signer = Signer(files_of(parties, "site"))
    call = [[{"model_id": str(uuid4())}], {}, {"signed": {"task": "fedqueue.models.get", "id": "1"}}]
    signed = base64.b64decode(signer.sign(call))
    changed = signed.replace(b"model_id", b"model_ie")
    as_pickle = signed.replace(b"application/json", b"application/x-python-serialize")
    who, _, *rest = signed.split(b"\0\1", 4)
    unsigned = b"\0\1".join([who, base64.b64encode(bytes(256)), *rest])
    bare = {"content_type": "application/data"}
    plain = [[{"model_id": str(uuid4())}], {}, {}]
    return {
        "a body that was changed": bare | {"body": twice(changed)},
        "another content beside the signature": bare | {"body": twice(as_pickle)},
        "a signature of zeros": bare | {"body": twice(unsigned)},
        "no signature": bare | {"body": base64.b64encode(json.dumps(plain).encode()).decode()},
        "nothing but noise": bare | {"body": base64.b64encode(b"AAAA").decode()},
        "another task's name": bare | {"body": twice(signed), "headers__task": "fedqueue.models.delete"},
        "another id": bare | {"body": twice(signed), "headers__id": "2"},
        "a call as it stands": {"body": plain, "content_type": "application/text", "properties__body_encoding": None}
        | {"content_encoding": "binary"},
        "a call of no type": {"body": plain, "content_type": None, "properties__body_encoding": None},
    }


def twice(packed: bytes) -> str:
    """As Celery packs it, and then kombu."""
    return base64.b64encode(base64.b64encode(packed)).decode()


@pytest.mark.parametrize("queue", [CONTROL_QUEUE, EVENTS_QUEUE])
def test_what_is_forged_is_refused(broker: Server, worker: Worker, parties: Parties, queue: str) -> None:
    """Also by somebody who can read and write everything on the broker."""
    with redis.Redis.from_url(broker.url) as connection:
        intruder = Intruder(connection)
        for name, changes in forged(parties).items():
            refused = len(worker.lines("message.refused"))
            intruder.put(queue, **changes)
            worker.wait_for(
                f"refusal of {name}",
                lambda: len(worker.lines("message.refused")) > refused,  # noqa: B023  # called in this turn
            )
        worker.wait_for("the queue's end", lambda: intruder.is_taken(queue))
    assert worker.lines("task.refused") == [], "nothing of it reached a task"
    with client_of(broker, worker, files_of(parties, "site")) as hub:
        assert hub.create_model(name="after").name == "after"


def test_forged_events_are_not_taken_along_with_signed_ones(broker: Server, worker: Worker, parties: Parties) -> None:
    """They wait in the queue that tasks take many from at once: what is not signed well is handed on, and refused."""
    connect = Bench(broker, worker.home).connect
    # Queues of the test's own: the worker reads the others.
    drain = Drain(connect, "fedqueue.test", "fedqueue.test.others", signer=Signer(files_of(parties, "hub")))
    task = {"headers__task": TASK}
    put_signed(broker, parties, "site", "fedqueue.test", body=[[{"number": 1}], {}, {}], **task)
    put_signed(broker, parties, "stranger", "fedqueue.test", body=[[{"number": 2}], {}, {}], **task)
    bound = {"signed": {"task": "fedqueue.logs.add", "id": "x"}}
    put_signed(broker, parties, "site", "fedqueue.test", body=[[{"number": 3}], {}, bound], **task)
    put_signed(broker, parties, "site", "fedqueue.test", body=[[{"number": 4}], {}, {}], **task)
    taken = drain.take([TASK], "a")
    assert numbers_of(taken) == [1, 4]
    with redis.Redis.from_url(broker.url) as connection:
        assert connection.llen("fedqueue.test.others") == 2
        Intruder(connection).put("fedqueue.test", **task)
    assert numbers_of(drain.take([TASK], "b")) == [], "one that is not signed is not even taken"
    taken.settle()
    drain.close()


def test_a_forged_answer_is_not_believed(broker: Server, parties: Parties) -> None:
    """Whoever can write to the result store could tell a client that its update was taken."""
    transport = CeleryTransport(Endpoint(broker.url, broker.url, signing=files_of(parties, "site")))
    hub, stranger = Signer(files_of(parties, "hub")), Signer(files_of(parties, "stranger"))
    answer = {"task_id": "wanted", "status": "SUCCESS", "result": {"value": {}}}
    with redis.Redis.from_url(broker.url) as connection:
        for forged in (
            json.dumps(answer).encode(),
            stranger.sign(answer),
            hub.sign(answer | {"task_id": "another"}),
            hub.sign("nothing"),
        ):
            connection.set("celery-task-meta-wanted", forged)
            with pytest.raises(BrokerAway, match="where the answer to wanted belongs"):
                transport.receive("wanted", 0)
        connection.set("celery-task-meta-wanted", hub.sign(answer))
    reply = transport.receive("wanted", 0)
    assert reply is not None
    assert reply.value == {"value": {}}
    transport.close()


def test_signing_files_that_can_not_be_used_are_named(tmp_path: Path, parties: Parties, broker: Server) -> None:
    """At the start, and without a word of the key."""
    site, hub = files_of(parties, "site"), files_of(parties, "hub")
    empty = tmp_path / "empty"
    empty.mkdir()
    for files, says in (
        (SigningFiles(hub.key, site.certificate, site.trusted), "is not the certificate of the key"),
        (SigningFiles(site.certificate, site.certificate, site.trusted), "no usable private key"),
        (SigningFiles(tmp_path / "none", site.certificate, site.trusted), "can't be read"),
        (SigningFiles(site.key, site.certificate, str(empty)), "holds no certificate"),
        (files_of(parties, "lapsed"), "has expired"),
    ):
        variables = variables_of(files)
        with pytest.raises(InvalidArgument, match=says):
            Client(
                broker.url,
                signing_key=variables["FEDQUEUE_SIGNING_KEY"],
                signing_certificate=variables["FEDQUEUE_SIGNING_CERTIFICATE"],
                trusted_certificates=variables["FEDQUEUE_SIGNING_TRUSTED_CERTIFICATES"],
            )
    with pytest.raises(InvalidArgument, match=r"trusted_certificates: is missing"):
        Client(broker.url, signing_key=site.key, signing_certificate=site.certificate)


def test_a_hub_with_half_a_signature_does_not_start(tmp_path: Path, parties: Parties) -> None:
    with worker_of(
        tmp_path / "home", is_ready=False, FEDQUEUE_BROKER_URL="redis://127.0.0.1:1", FEDQUEUE_SIGNING_KEY="key.pem"
    ) as half:
        assert half.process.wait(30) == 2
        assert "FEDQUEUE_SIGNING_CERTIFICATE" in half.log.read_text()
        assert "Traceback" not in half.log.read_text()
