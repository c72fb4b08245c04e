"""The hub on RabbitMQ and MariaDB, its workers real processes: rounds, events, answers, kills, what operators see.

Part of the wider matrix: what is shown here runs on Valkey, with SQLite and PostgreSQL, in every test run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from config.loading import load_settings
from fedqueue import Client
from fedqueue.messages import ModelView
from fedqueue.messages.names import CONTROL_QUEUE, QUEUES
from tests.chaos.facts import read_facts
from tests.debian_servers import fresh_mariadb_database, rabbitmq_server
from tests.hubs import ROOT, environment, run_worker_command
from tests.servers import Server
from worker.bootstrap import HubCelery
from worker.children import die_with_parent

pytestmark = pytest.mark.wide

NOTIFIED = "receiver"


class Place:
    """A broker, a database and a store: everything of a hub but its workers."""

    def __init__(self, home: Path, broker: Server, database_url: str, **variables: str) -> None:
        self.home = home
        self.database_url = database_url
        self.broker_url = broker.url
        self.variables = {
            "FEDQUEUE_BROKER_URL": broker.url,
            "FEDQUEUE_DATABASE_URL": database_url,
            "FEDQUEUE_LEASE_SECONDS": "2",
            "FEDQUEUE_SWEEP_SECONDS": "1",
            "FEDQUEUE_NOTIFY_TASK": "receiver.hear",
            "FEDQUEUE_NOTIFY_QUEUE": NOTIFIED,
            **variables,
        }

    def command(self, *arguments: str) -> str:
        """What `python -m worker ARGUMENTS` prints."""
        done = run_worker_command(self.home, *arguments, **self.variables)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def client(self, **options: Any) -> Client:
        return Client(self.broker_url, store_url=f"file://{self.home}/store", **({"timeout": 60} | options))

    def app(self) -> HubCelery:
        settings = {name.removeprefix("FEDQUEUE_").lower(): value for name, value in self.variables.items()}
        return HubCelery(load_settings(None, home=self.home, **settings))

    @contextmanager
    def worker(self, name: str = "one", app: str = "worker") -> Iterator[subprocess.Popen[bytes]]:
        """A worker with two processes, which has begun to consume; killed with all it started when the block ends."""
        log = self.home / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", app, "worker", "-c", "2", "-n", f"{name}@here"],
                cwd=ROOT,
                env=environment(self.home, **self.variables),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        try:
            until(lambda: "ready" in log.read_text(), 60)
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not come true within {seconds} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[Server]:
    with rabbitmq_server() as broker:
        yield broker


@pytest.fixture
def place(rabbitmq: Server, mariadb: Server, home: Path) -> Iterator[Place]:
    """A migrated hub without a worker; its broker's queues are left empty."""
    home.mkdir()
    with fresh_mariadb_database(mariadb) as database_url:
        made = Place(home, rabbitmq, database_url)
        made.command("migrate")
        yield made
        with made.app().connection_for_write() as connection:
            for name in (*QUEUES, NOTIFIED):
                connection.default_channel.queue_delete(name)


def waiting(place: Place, queue: str) -> int:
    """How many messages lie in the queue, taken by nobody."""
    with place.app().connection_for_read() as connection:
        return int(connection.default_channel.queue_declare(queue=queue, passive=True).message_count)


def told(place: Place) -> list[Mapping[str, Any]]:
    """What the receiver of notifications would get, oldest first."""
    app = place.app()
    found = []
    with app.connection_for_read() as connection:
        while (message := connection.default_channel.basic_get(NOTIFIED, no_ack=True)) is not None:
            found.append(json.loads(message.body)[0][0])
    return found


def test_updates_become_aggregates_and_events_progress(place: Place) -> None:
    with place.worker(), place.client() as client:
        model = client.create_model(
            name="digits", data_format="json", requirement="require_x_clients", requirement_args=[2]
        ).model_id
        senders = [client.register_client(model).client_id for _ in range(2)]
        for number in (1, 2, 3):
            for position, sender in enumerate(senders):
                view = client.submit_update(model, sender, [[float(position)], [float(number)]], num_examples=1)
                assert view.status == "PENDING"
            latest = client.wait_for_aggregate(model, after=number - 1)
            assert (latest.number, latest.num_updates) == (number, 2)
        assert client.fetch_latest(model).latest.number == 3
        until(lambda: client.get_model(model).updates["COMPLETE"] == 6)

        run = uuid4()
        events = [{"model_id": model, "run_id": run, "event_type": "ROUND_STARTED", "global_round": n} for n in (1, 2)]
        points = [
            {"model_id": model, "run_id": run, "global_round": n, "metric": {"label": "loss", "result": 1.0 / n}}
            for n in range(1, 301)
        ]
        client.update_status(model, "INITIATED", run_id=run)
        client.send_events([*events, *points])
        assert (
            client.send_events([{"model_id": model, "run_id": run, "log": "Größe: 2 µm 🏥"}], wait=True).accepted == 1
        )
        until(lambda: sum(len(s.points) for p in client.metrics(model, run_id=run).plots for s in p.series) == 300)
        until(lambda: client.progress(model).current_round == 2)
        assert "Größe: 2 µm 🏥" in [entry.text for entry in client.iter_logs(model, run_id=run)]

        until(lambda: waiting(place, NOTIFIED) >= 3)
        # Each in its turn. Two who send at the same moment may send one twice: by what it is, it is known again.
        posted: list[int] = []

        def all_were_told() -> bool:
            posted.extend(fact["details"]["number"] for fact in told(place) if fact["event"] == "aggregate.posted")
            return 3 in posted

        until(all_were_told)
        assert list(dict.fromkeys(posted)) == [1, 2, 3]


def test_operators_see_workers_and_queues(place: Place) -> None:
    with place.worker():
        assert "one@here: alive" in place.command("health", "--seconds", "30", "one@here")

        def is_shown_at_rest() -> bool:
            seen = json.loads(place.command("status", "--json"))
            workers = [(each["worker"], each["health"]) for each in seen["workers"]]
            return bool(seen["queues"] == dict.fromkeys(QUEUES, 0) and workers == [("one@here", "alive")])

        # A sweep may be on its way at that moment; and it waits half a second for who is there.
        until(is_shown_at_rest, 120)
        with place.app().connection_for_write() as connection:
            assert _exists(connection, CONTROL_QUEUE)
            assert not _exists(connection, "celery_delayed_0"), "queues that nothing uses"
    with place.client() as client:
        client.send_events([{"model_id": uuid4(), "log": f"nobody there {n}"} for n in range(5)])
    until(lambda: json.loads(place.command("status", "--json"))["queues"]["fedqueue.events"] == 1)
    shown = json.loads(place.command("config", "--json"))
    assert shown["database_url"].startswith("mariadb+pymysql://")
    assert shown["result_url"] == "rpc://"


def test_a_question_waits_for_a_worker_and_its_repeats_change_nothing(place: Place) -> None:
    """The client asks again while nobody answers: RabbitMQ keeps every copy, the hub carries out one."""
    views: list[ModelView] = []
    with place.client(resend_after=0.5) as client:
        asking = threading.Thread(target=lambda: views.append(client.create_model(name="once")))
        asking.start()
        with place.app().connection_for_write() as connection:
            until(lambda: _exists(connection, CONTROL_QUEUE))
        until(lambda: waiting(place, CONTROL_QUEUE) >= 2)
        with place.worker():
            asking.join(60)
            until(lambda: waiting(place, CONTROL_QUEUE) == 0)
    assert [str(row["uuid"]) for row in read_facts(place.database_url).models] == [str(views[0].model_id)]


def test_what_a_killed_worker_had_taken_goes_to_another_at_once(place: Place) -> None:
    """The broker sees the connection end: nothing waits for a visibility timeout, which is 1,200 seconds."""
    app = place.app()
    with place.worker("one", app="tests.slow_tasks") as killed:
        for _ in range(2):
            app.send_task("tests.sleep", args=[600], ignore_result=True)
        until(lambda: len(_begun(app, "one@here")) == 2)
        os.killpg(killed.pid, signal.SIGKILL)
    with place.worker("two", app="tests.slow_tasks"):
        until(lambda: len(_begun(app, "two@here")) == 2, 60)
        held = _begun(app, "two@here")
        assert [task["delivery_info"]["redelivered"] for task in held] == [True, True]


def test_answers_may_come_over_redis(place: Place, valkey_url: str) -> None:
    place.variables["FEDQUEUE_RESULT_URL"] = valkey_url
    with place.worker(), place.client(result_url=valkey_url) as client:
        assert client.create_model(name="answered").name == "answered"
        assert "one@here: alive" in place.command("health", "--seconds", "30", "one@here")


def _begun(app: HubCelery, worker: str) -> list[dict[str, Any]]:
    """The sleeping tasks that it has begun. To one that is named it returns with that one's answer, however late."""
    asked = app.control.inspect(destination=[worker], timeout=20).active() or {}
    return [task for task in asked.get(worker, []) if task["name"] == "tests.sleep"]


def _exists(connection: Any, queue: str) -> bool:
    with connection.channel() as channel:
        try:
            channel.queue_declare(queue=queue, passive=True)
        except connection.channel_errors:
            return False
        return True
