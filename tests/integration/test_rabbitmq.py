"""The hub on RabbitMQ, whose quorum queues gave a killed worker's message back soonest (wider matrix)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedqueue import Client
from tests.debian_servers import rabbitmq_server

pytestmark = pytest.mark.wide

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A client of a hub with one real worker on a real RabbitMQ."""
    with rabbitmq_server() as broker:
        environment = {
            **os.environ,
            "FEDQUEUE_HOME": str(tmp_path),
            "FEDQUEUE_BROKER_URL": broker.url,
            "FEDQUEUE_WORKER_CONCURRENCY": "2",
            "FEDQUEUE_LEASE_SECONDS": "2",
            "FEDQUEUE_SWEEP_SECONDS": "1",
        }
        subprocess.run([sys.executable, "-m", "worker", "migrate"], cwd=ROOT, env=environment, check=True)
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "worker", "worker"],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            with Client(broker.url, store_url=f"file://{tmp_path}/store", timeout=60) as made:
                yield made
        finally:
            os.killpg(worker.pid, signal.SIGTERM)
            try:
                worker.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()


def test_rounds_run_over_rabbitmq(client: Client) -> None:
    model = client.create_model(
        name="digits", data_format="json", requirement="require_x_clients", requirement_args=[2]
    )
    senders = [client.register_client(model.model_id).client_id for _ in range(2)]
    for number in (1, 2, 3):
        for position, sender in enumerate(senders):
            view = client.submit_update(model.model_id, sender, [[float(position)], [float(number)]], num_examples=1)
            assert view.status == "PENDING"
        latest = client.wait_for_aggregate(model.model_id, after=number - 1)
        assert (latest.number, latest.num_updates) == (number, 2)
    assert client.fetch_latest(model.model_id).latest.number == 3
    deadline = time.monotonic() + 10
    while client.get_model(model.model_id).updates["COMPLETE"] != 6:
        assert time.monotonic() < deadline
