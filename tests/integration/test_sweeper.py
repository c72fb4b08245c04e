"""The sweep every worker sends, so that no beat is needed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from config.loading import load_settings
from fedqueue.messages.names import CONTROL_QUEUE, MAINTENANCE_OUTBOX, ROUNDS_POLL
from tests.servers import Server, valkey_server
from worker.bootstrap import HubCelery
from worker.sweeper import Sweeper


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    with valkey_server(tmp_path) as server:
        yield server


@pytest.fixture
def sweeper(own_server: Server, home: Path) -> Iterator[Sweeper]:
    app = HubCelery(load_settings(env_file=None, home=home, broker_url=own_server.url))
    sweeper = Sweeper(app, 0.1)
    yield sweeper
    sweeper.stop()
    if sweeper.is_alive():
        sweeper.join(10)


def sent(server: Server) -> list[dict[str, object]]:
    """Headers of the messages that wait, the oldest first."""
    with redis.Redis.from_url(server.url, decode_responses=True) as broker:
        return [json.loads(message)["headers"] for message in reversed(broker.lrange(CONTROL_QUEUE, 0, -1))]


def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_asks_for_sweeps_that_lapse_if_nobody_carries_them_out(sweeper: Sweeper, own_server: Server) -> None:
    sweeper.start()
    until(lambda: len(sent(own_server)) >= 6)
    headers = sent(own_server)
    assert {header["task"] for header in headers} == {ROUNDS_POLL, MAINTENANCE_OUTBOX}
    assert all(header["expires"] for header in headers)


def test_what_the_worker_was_just_given_is_not_asked_for(own_server: Server, home: Path) -> None:
    sweeper = Sweeper(HubCelery(load_settings(env_file=None, home=home, broker_url=own_server.url)), 2.0)
    stopped = threading.Event()

    def hear() -> None:
        while not stopped.wait(0.02):
            sweeper.received(ROUNDS_POLL)
            sweeper.received("another task")

    listening = threading.Thread(target=hear)
    listening.start()
    sweeper.start()
    until(lambda: len(sent(own_server)) >= 2)
    assert {header["task"] for header in sent(own_server)} == {MAINTENANCE_OUTBOX}
    stopped.set()
    listening.join()
    until(lambda: ROUNDS_POLL in {header["task"] for header in sent(own_server)})
    sweeper.stop()
    sweeper.join(10)


def test_it_asks_over_one_connection(sweeper: Sweeper, own_server: Server) -> None:
    with redis.Redis.from_url(own_server.url) as broker:
        sweeper.start()
        until(lambda: broker.llen(CONTROL_QUEUE) >= 2)
        connections = broker.info("stats")["total_connections_received"]
        until(lambda: broker.llen(CONTROL_QUEUE) >= 8)
        assert broker.info("stats")["total_connections_received"] == connections


def test_it_outlives_the_broker_and_goes_on_when_that_is_back(sweeper: Sweeper, own_server: Server) -> None:
    sweeper.start()
    until(lambda: sent(own_server))
    own_server.kill()
    time.sleep(1.0)
    assert sweeper.is_alive()
    own_server.start()
    before = len(sent(own_server))
    # It rests for up to half a minute after a long outage.
    until(lambda: len(sent(own_server)) > before, 60)


def test_it_ends_when_told_even_while_the_broker_is_away(sweeper: Sweeper, own_server: Server) -> None:
    own_server.kill()
    sweeper.start()
    time.sleep(0.5)
    sweeper.stop()
    sweeper.join(10)
    assert not sweeper.is_alive()
