"""A participant in Node.js, by nothing but docs/wire.md, against real hubs: over Redis, over RabbitMQ, signed."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
import redis
from safetensors.numpy import load_file

from examples.heterogeneous.devices import Device
from examples.heterogeneous.regression import train
from examples.node.__main__ import Participant
from examples.node.programs import FOLDER, find_node, run_program, words_of
from examples.node.training import outcome_of, train_digits
from fedqueue import Client
from fedqueue.blobs import blob_path
from fedqueue.messages import ModelView, UpdateView
from fedqueue.messages.names import CONTROL_QUEUE
from fedqueue.signing import Signer, SigningFailed, check_binding
from tests.debian_servers import rabbitmq_server, rabbitmqctl
from tests.hubs import ROOT, RunningHub, environment, hub_running
from tests.security.parties import Parties, variables_of
from tests.security.workers import worker_of
from tests.servers import Server
from worker.demo.judge import Accepted

pytestmark = pytest.mark.wide

LAST_LINE = (
    r"node: accuracy 0\.9\d{3} \(central 0\.9\d{3}\), 4 rounds of 4 participants, 16 updates counted once each, "
    r"0 lost, 0 counted twice, 16 events in the feed, 16 points of their loss"
)


@pytest.fixture(scope="module")
def node() -> str:
    found = find_node()
    if found is None or not (FOLDER / "node_modules").exists():
        pytest.skip("Node.js or its packages are not there: make peers")
    return found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with hub_running(tmp_path_factory.mktemp("node") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def client(hub: RunningHub) -> Iterator[Client]:
    found = json.loads((hub.home / "endpoint.json").read_text())
    with Client(found["broker_url"], found["result_url"], found["store_url"]) as made:
        yield made


def start(node: str, variables: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    """participant.mjs, which knows of the hub what `variables` say."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FEDQUEUE_")}
    return subprocess.Popen(
        # Patient: beside other tests a worker needs a while to start. What the test itself says comes later, and holds.
        [node, str(FOLDER / "participant.mjs"), "--timeout", "90", *arguments],
        env=inherited | dict(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # `node` may be a program that runs the real one
    )


def said_by(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Its one line."""
    output, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    (line,) = output.splitlines()
    said: dict[str, Any] = json.loads(line)
    return said


def refusal_of(process: subprocess.Popen[str]) -> str:
    """What it ends with instead."""
    output, errors = process.communicate(timeout=150)
    assert (process.returncode, output) == (1, "")
    return errors.strip()


def two_needed(client: Client, data_format: str) -> ModelView:
    """A model whose round needs two participants."""
    initial = [0.0, 0.0, 0.0] if data_format == "json" else {"w": np.zeros(3, np.float32)}
    return client.create_model(initial=initial, requirement="require_x_clients", requirement_args={"x": 2})


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not come true within {seconds} s"
        time.sleep(0.02)


def entries_of(client: Client, model: UUID, participant: Participant) -> int:
    """How often the participant's event is in the feed."""
    return [entry.text for entry in client.iter_logs(model)].count(f"{participant.name} has sent its update")


@pytest.mark.parametrize(("data_format", "options"), [("json", []), ("safetensors", ["--tensor"])])
def test_an_update_and_an_event_count_once_though_the_program_ran_twice(
    node: str, hub: RunningHub, client: Client, data_format: str, options: list[str]
) -> None:
    model = two_needed(client, data_format).model_id
    home = {"FEDQUEUE_HOME": str(hub.home)}
    north, south = Participant("north", [1, 2, 4], 10), Participant("south", [5, 2, 3], 30)

    first, again = (said_by(start(node, home, *north.arguments(model), *options)) for _ in range(2))
    assert UpdateView.model_validate(first["update"]).status == "PENDING"
    assert again["update"] == first["update"] | {"repeated": True}
    assert first["update"]["submission_id"] == north.submission_id
    assert client.get_model(model).updates["PENDING"] == 1

    last = said_by(start(node, home, *south.arguments(model), *options, "--aggregate", "1"))
    assert (last["latest"]["number"], last["latest"]["num_updates"], last["latest"]["num_examples"]) == (1, 2, 40)
    newest = client.fetch_latest(model)
    mean = newest.data if data_format == "json" else newest.arrays["w"].tolist()
    assert mean == [4.0, 2.0, 3.25]  # (10 · 1 + 30 · 5) / 40, …
    assert client.get_model(model).updates["COMPLETE"] == 2

    until(lambda: all(entries_of(client, model, each) for each in (north, south)))
    # Had the repeat been written down, too, it would stand there by now: the later event of south does.
    assert [entries_of(client, model, each) for each in (north, south)] == [1, 1]


def test_what_the_hub_refuses_is_told_and_ends_the_program(node: str, hub: RunningHub, client: Client) -> None:
    home = {"FEDQUEUE_HOME": str(hub.home)}
    nobody = uuid4()
    unknown = refusal_of(start(node, home, "--model", str(nobody)))
    assert unknown == f"Rejected: UnknownModel: model_id: there is no model {nobody}"
    model = two_needed(client, "json").model_id
    north = Participant("north", [1, 2, 4], 10)
    said_by(start(node, home, *north.arguments(model)))
    other = refusal_of(start(node, home, *north.arguments(model), "--values", "1,2,5"))
    assert other.startswith("Rejected: SubmissionReused: submission_id: ")


def test_it_asks_again_until_a_worker_is_there(node: str, valkey_url: str, home: Path) -> None:
    """As while a hub is upgraded: nothing is lost, and of several copies one is carried out."""
    process = start(node, {"FEDQUEUE_BROKER_URL": valkey_url}, "--aggregate", "1")
    with redis.Redis.from_url(valkey_url) as broker:
        until(lambda: broker.llen(CONTROL_QUEUE) >= 2)
    with worker_of(home, FEDQUEUE_BROKER_URL=valkey_url), Client(valkey_url) as client:
        said = said_by(process)
        assert said["latest"]["data"] == [1, 2, 4]
        view = client.get_model(said["model_id"])
        assert (view.clients, view.updates["COMPLETE"]) == (1, 1)


def test_a_limit_of_the_hub_s_is_waited_out(node: str, valkey_url: str, home: Path) -> None:
    """Nothing is wrong with the message: it is sent again when the hub says, and counts then."""
    variables = {"FEDQUEUE_BROKER_URL": valkey_url}
    limits = {"FEDQUEUE_CLIENT_OPEN_UPDATES": "1", "FEDQUEUE_SWEEP_SECONDS": "1"}
    with worker_of(home, variables | limits) as worker, Client(valkey_url) as client:
        model = two_needed(client, "json").model_id
        north, south = Participant("north", [1, 2, 4], 10), Participant("south", [5, 2, 3], 30)
        more = Participant("north", [3, 3, 3], 10, client_id=north.client_id)
        said_by(start(node, variables, *north.arguments(model)))
        waiting = start(node, variables, *more.arguments(model))
        worker.wait_for("a refusal", lambda: worker.lines("task.refused"))
        assert worker.lines("task.refused")[0]["kind"] == "LimitExceeded"
        said_by(start(node, variables, *south.arguments(model), "--aggregate", "1"))
        assert said_by(waiting)["update"]["status"] == "PENDING"


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[Server]:
    with rabbitmq_server() as server:
        yield server


@pytest.mark.parametrize("are_answers_on_redis", [False, True])
def test_over_rabbitmq(node: str, rabbitmq: Server, valkey_url: str, home: Path, are_answers_on_redis: bool) -> None:
    variables = {"FEDQUEUE_BROKER_URL": rabbitmq.url}
    if are_answers_on_redis:
        variables["FEDQUEUE_RESULT_URL"] = valkey_url
    with (
        worker_of(home, variables),
        Client(rabbitmq.url, variables.get("FEDQUEUE_RESULT_URL"), timeout=60) as client,
        redis.Redis.from_url(valkey_url) as results,
    ):
        model = two_needed(client, "json").model_id
        north, south = Participant("north", [1, 2, 4], 10), Participant("south", [5, 2, 3], 30)
        first, again = (said_by(start(node, variables, *north.arguments(model))) for _ in range(2))
        assert again["update"] == first["update"] | {"repeated": True}
        last = said_by(start(node, variables, *south.arguments(model), "--aggregate", "1"))
        assert last["latest"]["data"] == [4.0, 2.0, 3.25]
        until(lambda: all(entries_of(client, model, each) for each in (north, south)))
        assert [entries_of(client, model, each) for each in (north, south)] == [1, 1]
        assert bool(results.keys("celery-task-meta-*")) is are_answers_on_redis
        # A queue of answers goes with its answer.
        listed = rabbitmqctl(rabbitmq, "list_queues", "name").split()
        assert [name for name in listed if name.startswith("fedqueue.reply.")] == []


def test_a_hub_that_takes_signed_messages_alone_takes_its_and_answers_it(
    node: str, valkey_url: str, home: Path, tmp_path: Path
) -> None:
    parties = Parties(tmp_path / "parties")
    hubs, site, stranger = parties.party("hub"), parties.party("site"), parties.party("stranger", trusted=False)
    broker = {"FEDQUEUE_BROKER_URL": valkey_url}
    with worker_of(home, broker | variables_of(hubs)) as worker:
        said = said_by(start(node, broker | variables_of(site), "--aggregate", "1"))
        assert said["latest"]["data"] == [1, 2, 4]
        assert worker.lines("message.refused") == []
        for sender, reason in ((variables_of(stranger), "Unknown certificate"), ({}, "only signed messages")):
            before = len(worker.lines("message.refused"))
            refusal = refusal_of(start(node, broker | sender, "--timeout", "2"))
            assert refusal.startswith("NoAnswer: fedqueue.models.create: no answer within 2 s")
            worker.wait_for("a refusal", lambda: len(worker.lines("message.refused")) > before)  # noqa: B023
            assert reason in worker.lines("message.refused")[-1]["reason"]


def test_what_it_signs_says_which_call_it_is_of(node: str, valkey_url: str, tmp_path: Path) -> None:
    """Or whoever can write to the broker could put it under another task's name."""
    parties = Parties(tmp_path / "parties")
    files = parties.party("site")
    process = start(node, {"FEDQUEUE_BROKER_URL": valkey_url} | variables_of(files))
    with redis.Redis.from_url(valkey_url) as broker:
        until(lambda: broker.llen(CONTROL_QUEUE))
        envelope = json.loads(broker.lindex(CONTROL_QUEUE, 0) or "")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    headers = envelope["headers"]
    _arguments, _named, embedded = Signer(files).open(base64.b64decode(envelope["body"]))
    assert embedded == {"signed": {"task": "fedqueue.models.create", "id": headers["id"]}}
    check_binding(embedded, headers)
    with pytest.raises(SigningFailed):
        check_binding(embedded, headers | {"task": "fedqueue.models.delete"})


def unsigned(record: Mapping[str, Any], _parties: Parties) -> str:
    return json.dumps(record)


def by_a_stranger(record: Mapping[str, Any], parties: Parties) -> str:
    return Signer(parties.party("stranger", trusted=False)).sign(record)


def changed(record: Mapping[str, Any], parties: Parties) -> str:
    packed = base64.b64decode(Signer(parties.party("hub")).sign(record))
    return base64.b64encode(packed.replace(b"SUCCESS", b"FAILURE")).decode()


def of_another_call(record: Mapping[str, Any], parties: Parties) -> str:
    return Signer(parties.party("hub")).sign({**record, "task_id": str(uuid4())})


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (unsigned, "the answer is not signed by anybody who is believed"),
        (by_a_stranger, "the answer is not signed by anybody who is believed"),
        (changed, "the answer's signature is wrong"),
        (of_another_call, "what lies where the answer to CALL belongs is another's"),
    ],
)
def test_no_answer_is_believed_that_the_hub_has_not_signed_for_this_call(
    node: str, valkey_url: str, tmp_path: Path, forge: Callable[[Mapping[str, Any], Parties], str], says: str
) -> None:
    """Whoever can write to the broker could answer in its place."""
    parties = Parties(tmp_path / "parties")
    site = variables_of(parties.party("site"))
    record = {"status": "SUCCESS", "result": {"value": {}, "rejection": None}}
    # Made before it starts: it reads the folder of those whom it believes once.
    forged = forge(record | {"task_id": "CALL"}, parties)
    process = start(node, {"FEDQUEUE_BROKER_URL": valkey_url} | site)
    with redis.Redis.from_url(valkey_url) as broker:
        until(lambda: broker.llen(CONTROL_QUEUE))
        call = json.loads(broker.lindex(CONTROL_QUEUE, 0) or "")["headers"]["id"]
        broker.set(f"celery-task-meta-{call}", forged)
        assert refusal_of(process) == f"Error: {says.replace('CALL', call)}"


def test_model_data_goes_into_a_hub_s_store_alone_and_leaves_nothing_beside_it(
    node: str, hub: RunningHub, client: Client, tmp_path: Path
) -> None:
    """A store that is not mounted is no empty store: what was written there nobody would find."""
    model = two_needed(client, "safetensors").model_id
    endpoint = json.loads((hub.home / "endpoint.json").read_text())
    broker = {"FEDQUEUE_BROKER_URL": endpoint["broker_url"]}
    arguments = [*Participant("north", [1, 2, 4], 10).arguments(model), "--tensor"]
    unmounted = refusal_of(start(node, broker | {"FEDQUEUE_STORE_URL": tmp_path.as_uri()}, *arguments))
    assert unmounted.startswith("Error: no hub's store lies at ")
    assert list(tmp_path.iterdir()) == []

    for _ in range(2):
        said_by(start(node, broker | {"FEDQUEUE_STORE_URL": endpoint["store_url"]}, *arguments))
    store = Path(endpoint["store_url"].removeprefix("file://"))
    # The one of docs/wire.md.
    blob = blob_path(store, "c02cbb5888cd16f6fe0e10076032fb203d797a82e860e0d46e1155ad6a6c6540")
    assert load_file(blob)["w"].tolist() == [1, 2, 4]
    assert blob.stat().st_mode & 0o777 == 0o644
    assert list((store / "staging").iterdir()) == []


def test_its_training_is_the_regression_that_it_is_judged_beside(
    node: str, hub: RunningHub, client: Client, tmp_path: Path
) -> None:
    """Of ten examples, one batch, the order does not matter: the same model comes out, in 32 bits."""
    features, labels = np.random.default_rng(3).random((10, 4)), np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 2])
    start = {"weight": np.zeros((4, 3), np.float32), "bias": np.array([0.5, -0.25, 0], np.float32)}
    model = client.create_model(initial=start, requirement="require_x_clients", requirement_args={"x": 1}).model_id
    trust = client.add_trust("lone").trust_id
    client.set_slot("lone", trust)
    client.set_model_trusts(model, [trust])
    examples = tmp_path / "examples.json"
    examples.write_text(json.dumps({"features": features.tolist(), "labels": labels.tolist()}))
    given = {"model": model, "name": "lone", "examples": examples, "rounds": 1, "epochs": 7, "rate": 0.5}
    run_program(node, "training.mjs", words_of(given), {"FEDQUEUE_HOME": str(hub.home)})

    alone = Device(features, labels, features, labels, epochs=7)
    wanted, _ = train({name: values.astype(np.float64) for name, values in start.items()}, alone, 0.5, [0])
    found = client.fetch_latest(model).arrays
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-7)


def test_they_train_on_a_hub_that_takes_signed_messages_alone_and_a_lost_update_would_be_seen(
    node: str, valkey_url: str, home: Path, tmp_path: Path
) -> None:
    parties = Parties(tmp_path / "parties")
    site, broker = parties.party("site"), {"FEDQUEUE_BROKER_URL": valkey_url}
    store = {"FEDQUEUE_STORE_URL": (home / "store").as_uri()}
    with (
        worker_of(home, broker | store | variables_of(parties.party("hub"))),
        Client(
            valkey_url,
            store_url=store["FEDQUEUE_STORE_URL"],
            timeout=60,
            signing_key=site.key,
            signing_certificate=site.certificate,
            trusted_certificates=site.trusted,
        ) as client,
    ):
        variables = broker | store | variables_of(site)
        trained = train_digits(client, lambda words: run_program(node, "training.mjs", words, variables), tmp_path)
    line, problems = outcome_of(trained, home / "fedqueue.db")
    assert problems == []
    assert re.fullmatch(LAST_LINE, line)
    accepted = [*trained.accepted, Accepted(uuid4(), 10)]
    line, problems = outcome_of(replace(trained, accepted=accepted, events=15), home / "fedqueue.db")
    assert "16 updates counted once each, 1 lost, 0 counted twice, 15 events in the feed" in line
    assert len(problems) == 2


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_the_example_says_what_came_of_it(
    node: str, tmp_path: Path, broker: str, request: pytest.FixtureRequest
) -> None:
    chosen = {"FEDQUEUE_BROKER_URL": request.getfixturevalue("rabbitmq").url} if broker == "rabbitmq" else {}
    done = subprocess.run(
        [sys.executable, "-m", "examples.node", "--node", node],
        cwd=ROOT,
        env=environment(tmp_path, **chosen),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *before, last = done.stdout.splitlines()
    assert before == [
        "north: update 1",
        "north: update 1 again",
        "south: update 2",
        "3 runs of 2 participants: 2 updates counted once each, aggregate 1: [4.0, 2.0, 3.25], 2 events in the feed",
    ]
    assert re.fullmatch(LAST_LINE, last)
