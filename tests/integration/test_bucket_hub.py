"""A hub whose store is a bucket, with the workers of an embedded one, and clients with and without credentials."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil
import pytest

from benchmarks.pool_memory import PoolWatch
from config.settings import Settings
from fedqueue import Client, Rejected, UpdateRejected
from fedqueue.buckets import Bucket
from fedqueue.messages import DataRef
from fedqueue.payload import Payload
from tests.buckets import make_bucket, s3_server
from tests.hubs import run_worker_command
from tests.servers import Server
from worker.supervisor import Supervisor

_URL = "s3://models/hub"
_MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        make_bucket(running, "models")
        yield running


@pytest.fixture(scope="module")
def settings(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    assert server.url
    home = tmp_path_factory.mktemp("bucket") / "home"
    # At this level everything is said that is ever said.
    with Supervisor(Settings(home=home, store_url=_URL, log_level="DEBUG")) as running:
        yield running.settings


@pytest.fixture(scope="module")
def bucket(settings: Settings) -> Bucket:
    """It keeps the credentials that it has found."""
    found = Bucket(settings.store_url)
    list(found.list("sha256"))
    return found


@pytest.fixture(params=[_URL, "signed"])
def client(
    settings: Settings, bucket: Bucket, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """One that reads and writes the bucket itself, and one that could not."""
    assert bucket.url == settings.store_url  # asked for first: without credentials it would find none
    if request.param == "signed":
        for name in list(os.environ):
            if name.startswith("AWS_"):
                monkeypatch.delenv(name)
    with Client(settings.broker_url, settings.result_url, request.param) as connected:
        yield connected


def test_a_round_over_a_bucket(client: Client, bucket: Bucket, settings: Settings) -> None:
    model = client.create_model(
        initial={"w": np.zeros(1000, np.float32)}, requirement="require_x_updates", requirement_args=[2]
    ).model_id
    for value in (1.0, 3.0):
        sender = client.register_client(model).client_id
        payload = client.put({"w": np.full(1000, value, np.float32)})
        client.submit_update(model, sender, payload, num_examples=10)
    newest = client.fetch(client.wait_for_aggregate(model, after=0, timeout=60))
    assert newest.arrays["w"].tolist() == client.fetch_latest(model).arrays["w"].tolist() == [2.0] * 1000
    assert newest.latest.uri is not None
    assert newest.latest.uri.startswith(f"{_URL}/sha256/")
    assert list(bucket.list("incoming")) == []
    # Nothing of it lies in a folder store of the home.
    assert not (settings.home / "store").exists()


def test_a_file_from_outside_and_what_is_wrong_with_it(client: Client, tmp_path: Path) -> None:
    model = client.create_model(initial={"w": np.zeros(3)}, requirement="all_clients").model_id
    sender = client.register_client(model).client_id
    np.savez(tmp_path / "update.npz", w=np.ones(3))
    assert client.submit_update(model, sender, tmp_path / "update.npz", num_examples=1).status == "PENDING"
    with pytest.raises(UpdateRejected, match="SHAPE"):
        client.submit_update(model, sender, {"w": np.ones(4)}, num_examples=1)


def test_the_urls_are_for_any_program(settings: Settings, bucket: Bucket) -> None:
    with Client(settings.broker_url, settings.result_url, "signed") as client:
        granted = client.upload_url(5)
        request = urllib.request.Request(granted.url, b"hello", {"Content-Type": "application/binary"}, method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
        assert b"".join(bucket.read(granted.uri.removeprefix(f"{_URL}/"))) == b"hello"
        with pytest.raises(Rejected, match="limit") as caught:
            client.upload_url(1 << 50)
        assert (caught.value.kind, caught.value.field) == ("UploadTooLarge", "size_bytes")


def test_no_log_holds_what_a_url_is_signed_by(settings: Settings) -> None:
    with Client(settings.broker_url, settings.result_url, "signed") as client:
        signature = client.upload_url(5).url.partition("X-Amz-Signature=")[2].partition("&")[0]
        assert len(signature) == 64
        model = client.create_model(initial={"w": np.zeros(3)}).model_id
        # As one does that has mistaken the URL for the reference.
        sender = client.register_client(model).client_id
        wrong = Payload("safetensors", ref=DataRef(uri=client.upload_url().url, digest="0" * 64))
        with (
            patch.object(client._store, "take", lambda *_: wrong),
            pytest.raises(UpdateRejected, match="roots") as caught,
        ):
            client.submit_update(model, sender, {}, num_examples=1)
        assert "Signature" not in str(caught.value)
    said = _said(settings)
    assert "X-Amz-Signature=***" in said  # by Celery, of the answer
    assert signature not in said


def test_a_store_that_is_away_condemns_no_update(settings: Settings, server: Server, bucket: Bucket) -> None:
    """A submission that it meets comes back until the store is there again, and then counts."""
    with ThreadPoolExecutor(1) as pool, Client(settings.broker_url, settings.result_url, _URL) as client:
        model = client.create_model(initial={"w": np.zeros(9)}, requirement="all_clients").model_id
        sender = client.register_client(model).client_id
        sent = client.put({"w": np.ones(9)})
        assert sent.ref is not None
        digest = sent.ref.digest
        kept = {found.key: b"".join(bucket.read(found.key)) for found in bucket.list("")}
        server.kill()
        sending = pool.submit(client.submit_update, model, sender, sent, num_examples=1, timeout=120)
        _wait_until(lambda: "task.postponed" in _said(settings))
        assert not sending.done()
        server.start()  # which has forgotten everything
        make_bucket(server, "models")
        # The one that is looked for first: beside others that are there it would be missing.
        for key in sorted(kept, key=lambda key: digest not in key):
            bucket.put(key, kept[key])
        assert sending.result(120).status == "PENDING"
        client.wait_for_aggregate(model, after=0, timeout=60)
        assert client.fetch(client.latest(model)).arrays["w"].tolist() == [1.0] * 9


def test_a_worker_says_at_its_start_what_is_wrong_with_its_bucket(server: Server, tmp_path: Path) -> None:
    assert server.url
    home = tmp_path / "home"
    with Supervisor(Settings(home=home, store_url="s3://nobody-made-this/hub")) as running:
        _wait_until(lambda: "the store can't be used before its owner acts" in _said(running.settings))
        said = _said(running.settings)
        assert "FEDQUEUE_STORE_URL" in said
        assert "no such bucket" in said
        found = run_worker_command(home, "ready", "--json", **running.settings.as_environment())
    [store] = [part for part in json.loads(found.stdout) if part["part"] == "store"]
    assert not store["ready"]
    assert store["detail"].startswith(
        "FEDQUEUE_STORE_URL: s3://nobody-made-this/hub can't be written: there is no such"
    )


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_gibibyte_goes_through_within_the_memory_budget(
    settings: Settings, record_property: Callable[[str, object], None]
) -> None:
    """The model, two updates and the aggregate: four gibibytes to and from the bucket, by one hub."""
    parameters = (1 << 30) // 4
    with Client(settings.broker_url, settings.result_url, _URL, timeout=300.0) as client:
        values = np.zeros(parameters, np.float32)
        model = client.create_model(
            initial={"w": values}, requirement="require_x_updates", requirement_args=[2], timeout=300
        ).model_id
        senders = [client.register_client(model).client_id for _ in range(2)]
        with PoolWatch(_pool) as watch:
            for number, sender in enumerate(senders):
                values += 1 + number
                client.submit_update(model, sender, {"w": values}, num_examples=1, timeout=300)
            client.wait_for_aggregate(model, after=0, timeout=300)
        memory = watch.memory()
        record_property("memory", memory.shown())
        newest = client.fetch_latest(model, timeout=300).arrays["w"]
    assert (newest[0], newest[-1]) == (2.0, 2.0)  # the mean of 1 and 3
    budget = int(settings.memory_budget_bytes) / _MIB
    # A process that does nothing has some 110 MiB of its own.
    assert memory.peak_anonymous < budget + 150, memory.shown()


def _pool() -> list[int]:
    """The processes in which the hub's tasks run."""
    parents = [child for child in psutil.Process().children() if "celery" in child.cmdline()]
    return [child.pid for parent in parents for child in parent.children()]


def _said(settings: Settings) -> str:
    """By all the hub's processes."""
    return "".join(log.read_text(errors="replace") for log in (settings.home / "logs").glob("*.log"))


def _wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)
