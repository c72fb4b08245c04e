"""Who is compared: how each is started, sent an update, let finish, and read."""

from __future__ import annotations

import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import numpy as np
import psycopg
from celery import Celery

from config.settings import Settings
from fedqueue import Client
from fedqueue.errors import Unanswered
from tests.chaos.facts import read_facts
from tests.chaos.peers import plain_celery
from tests.chaos.peers.ledger import (
    GATE,
    VALUES,
    Aggregate,
    insert_update,
    make_tables,
    open_the_gate,
    read_aggregates,
    read_states,
)
from tests.chaos.traffic import wait_until
from tests.hubs import environment
from worker.bootstrap import HubCelery, build_metadata
from worker.children import Child
from worker.health import check_workers
from worker.plan import process_environment, worker_command

WORKERS: Final = 3


class Contestant(ABC):
    """One way to do the job on a PostgreSQL and a Redis-protocol server of its own."""

    name: str
    # So long nothing new, and it has come to its end: many times what any of them takes for a round.
    quiet_seconds = 10.0

    def __init__(self, database_url: str, broker_url: str, folder: Path) -> None:
        self.database_url = database_url
        self.plain_url = database_url.replace("+psycopg", "")
        self.broker_url = broker_url
        self.folder = folder
        self.set_up()

    @abstractmethod
    def set_up(self) -> None:
        """Everything before the workers are started."""

    @abstractmethod
    def workers(self) -> list[Child]:
        """Its workers, not started yet."""

    @abstractmethod
    def wait_for_workers(self) -> None:
        """Return when all are at work: on a slow machine none would come up under the kills."""

    @abstractmethod
    def send(self, name: str, num_examples: int, values: Sequence[float]) -> None:
        """Hand in an update; return when its sender may take it for accepted."""

    @abstractmethod
    def finish(self) -> None:
        """Everything was sent: let rounds be posted of what is left."""

    def hurry(self) -> None:  # noqa: B027  # most need none
        """What may be asked again and again until all is quiet."""

    @abstractmethod
    def aggregates(self) -> list[Aggregate]:
        """What it has posted, oldest first, with the updates by the names that they were sent under."""

    @abstractmethod
    def states(self) -> dict[str, str]:
        """Each update's state by that name."""

    def close(self) -> None:  # noqa: B027  # most keep none open
        """Let go of connections."""


class FmaLogic(Contestant):
    """FMA's order of steps in three processes; its API writes an update down before it answers its sender."""

    name = "FMA's logic"

    def set_up(self) -> None:
        make_tables(self.plain_url)
        self._lines = threading.local()

    def workers(self) -> list[Child]:
        command = [sys.executable, "-m", "tests.chaos.peers.fma_logic", self.plain_url]
        return [
            Child(f"fma{number}", "worker", command, environment(self.folder), self.folder / f"fma{number}.log")
            for number in range(WORKERS)
        ]

    def wait_for_workers(self) -> None:
        others = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        with psycopg.connect(self.plain_url, autocommit=True) as database:
            wait_until("worker ready", lambda: database.execute(others).fetchone() == (WORKERS,), 60)

    def send(self, name: str, num_examples: int, values: Sequence[float]) -> None:
        if not hasattr(self._lines, "database"):
            self._lines.database = psycopg.connect(self.plain_url, autocommit=True)
        insert_update(self._lines.database, name, num_examples, values)

    def finish(self) -> None:
        open_the_gate(self.plain_url)

    def aggregates(self) -> list[Aggregate]:
        return read_aggregates(self.plain_url)

    def states(self) -> dict[str, str]:
        return read_states(self.plain_url)


class PlainCelery(FmaLogic):
    """Celery with its default settings; a sender is done when the broker has the message."""

    name = "plain Celery"

    def set_up(self) -> None:
        make_tables(self.plain_url)
        self._app = Celery(broker=self.broker_url, set_as_current=False, fixups=[])

    def workers(self) -> list[Child]:
        variables = {plain_celery.BROKER: self.broker_url, plain_celery.DATABASE: self.plain_url}
        command = [sys.executable, "-m", "celery", "-q", "-A", plain_celery.__name__, "worker", "-c", "2"]
        return [
            Child(
                f"plain{number}",
                "worker",
                [*command, "--hostname", f"plain{number}@localhost"],
                environment(self.folder) | variables,
                self.folder / f"plain{number}.log",
            )
            for number in range(WORKERS)
        ]

    def wait_for_workers(self) -> None:
        wait_until("worker ready", lambda: len(self._app.control.inspect(timeout=2.0).ping() or {}) == WORKERS, 60)

    def send(self, name: str, num_examples: int, values: Sequence[float]) -> None:
        self._app.send_task(plain_celery.submit.name, args=[name, num_examples, list(values)])

    def hurry(self) -> None:
        self._app.send_task(plain_celery.aggregate.name)

    def close(self) -> None:
        self._app.close()


class Ours(Contestant):
    """The hub; a sender is done when the hub has answered."""

    name = "fedqueue"
    # All must be counted here: whatever a slow machine takes to start the last of the killed again.
    quiet_seconds = 60.0

    def set_up(self) -> None:
        self.settings = Settings(
            home=self.folder / "home",
            database_url=self.database_url,
            broker_url=self.broker_url,
            lease_seconds=0.6,
            sweep_seconds=0.3,
            retry_base_seconds=0.05,
            retry_cap_seconds=0.2,
            max_attempts=100,
            worker_concurrency=2,
            soft_shutdown_seconds=1.0,
        )
        metadata = build_metadata(self.settings)
        metadata.update_database()
        metadata.close()
        self._client = Client(self.broker_url, self.broker_url, self.settings.store_url, resend_after=1.0, timeout=60)
        self._model: UUID | None = None
        self._names: dict[UUID, str] = {}
        self._making = threading.Lock()

    def workers(self) -> list[Child]:
        variables = process_environment(self.settings)
        return [
            Child(
                name,
                "worker",
                worker_command(["--hostname", f"{name}@localhost"]),
                variables,
                self.folder / f"{name}.log",
            )
            for name in (f"ours{number}" for number in range(WORKERS))
        ]

    def wait_for_workers(self) -> None:
        names = [f"{child.name}@localhost" for child in self.workers()]
        with HubCelery(self.settings) as app:
            wait_until("worker ready", lambda: all(it.is_well for it in check_workers(app, names, 5.0)), 60)

    def send(self, name: str, num_examples: int, values: Sequence[float]) -> None:
        with self._making:
            if self._model is None:
                made = self._client.create_model(
                    initial={"w": np.zeros(VALUES, np.float32)},
                    requirement="require_x_updates",
                    requirement_args=[GATE],
                    allow_repeats=True,
                )
                self._model = made.model_id
                self._participant = self._client.register_client(made.model_id).client_id
            submission = uuid4()
            self._names[submission] = name
        while True:
            try:
                self._client.submit_update(
                    self._model,
                    self._participant,
                    {"w": np.array(values, np.float32)},
                    num_examples=num_examples,
                    submission_id=submission,
                )
            except Unanswered:
                continue  # as its error says: a repeat under the same id is harmless
            return

    def finish(self) -> None:
        assert self._model is not None
        self._client.edit_model(self._model, requirement=None)

    def aggregates(self) -> list[Aggregate]:
        return [
            Aggregate(
                row["id"],
                row["parent_id"],
                tuple(self._names[UUID(entry["submission_id"])] for entry in row["manifest"]["inputs"]),
            )
            for row in read_facts(self.database_url).aggregates
        ]

    def states(self) -> dict[str, str]:
        return {self._names[row["submission_id"]]: row["status"] for row in read_facts(self.database_url).updates}

    def close(self) -> None:
        self._client.close()
