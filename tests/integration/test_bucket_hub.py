"""A hub whose store is a bucket, with the workers of an embedded one, and clients with and without credentials."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.pool_memory import PoolWatch
from config.settings import Settings
from fedqueue import Client, Rejected, UpdateRejected
from fedqueue.buckets import Bucket
from tests.buckets import make_bucket, s3_server
from worker.supervisor import Supervisor

_URL = "s3://models/hub"
_MIB = 1 << 20


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    folder = tmp_path_factory.mktemp("bucket")
    with s3_server(folder) as server:
        make_bucket(server, "models")
        with Supervisor(Settings(home=folder / "home", store_url=_URL)) as running:
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
        client.submit_update(model, sender, {"w": np.full(1000, value, np.float32)}, num_examples=10)
    client.wait_for_aggregate(model, after=0, timeout=60)
    newest = client.fetch_latest(model)
    assert newest.arrays["w"].tolist() == [2.0] * 1000
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


@pytest.mark.wide
@pytest.mark.slow
def test_a_gibibyte_goes_through_within_the_memory_budget(
    settings: Settings, record_property: Callable[[str, object], None]
) -> None:
    """The model, two updates and the aggregate: four gibibytes to and from the bucket, by one hub."""
    parameters = (1 << 30) // 4
    with Client(settings.broker_url, settings.result_url, _URL, timeout=120.0) as client:
        values = np.zeros(parameters, np.float32)
        model = client.create_model(
            initial={"w": values}, requirement="require_x_updates", requirement_args=[2], timeout=120
        ).model_id
        senders = [client.register_client(model).client_id for _ in range(2)]
        with PoolWatch(_pool) as watch:
            for number, sender in enumerate(senders):
                values += 1 + number
                client.submit_update(model, sender, {"w": values}, num_examples=1, timeout=120)
            client.wait_for_aggregate(model, after=0, timeout=120)
        memory = watch.memory()
        record_property("memory", memory.shown())
        newest = client.fetch_latest(model, timeout=120).arrays["w"]
    assert (newest[0], newest[-1]) == (2.0, 2.0)  # the mean of 1 and 3
    budget = int(settings.memory_budget_bytes) / _MIB
    # A process that does nothing has some 110 MiB of its own.
    assert memory.peak_anonymous < budget + 150, memory.shown()


def _pool() -> list[int]:
    """The processes in which the hub's tasks run."""
    parents = [child for child in psutil.Process().children() if "celery" in child.cmdline()]
    return [child.pid for parent in parents for child in parent.children()]
