"""A hub as production runs it, for a while: its own broker, database, store and prefork workers, on this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psutil
import pytest

from config.settings import Settings
from tests.debian_servers import mariadb_server, rabbitmq_server
from tests.servers import postgres_server, valkey_server
from worker.bootstrap import HubCelery, build_metadata
from worker.children import Child
from worker.health import check_workers
from worker.plan import process_environment, worker_command

DatabaseName = Literal["postgresql", "sqlite", "mariadb"]
BrokerName = Literal["valkey", "rabbitmq"]

_START_SECONDS: Final = 60.0


@dataclass(frozen=True)
class ProductionHub:
    """A running hub: `settings` say where everything is, `app` sends to its workers."""

    settings: Settings
    app: HubCelery
    workers: Sequence[Child] = ()

    def pool(self) -> list[int]:
        """Process ids of all the workers' pool processes that live."""
        found = []
        for worker in self.workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [process.pid for process in psutil.Process(worker.pid).children()]
        return found


@contextmanager
def production_hub(
    folder: Path,
    database: DatabaseName,
    *,
    broker: BrokerName = "valkey",
    workers: int = 2,
    application: str = "worker",
    variables: dict[str, str] | None = None,
) -> Iterator[ProductionHub]:
    """Workers at the default settings (lease 30 s, sweep 5 s, as many processes as cores), fsync on everywhere.

    `application` is what Celery's `--app` names; `variables` are added to the workers' environment.
    Raises: RuntimeError if something is missing or does not start.
    """
    with ExitStack() as running:
        try:
            place = rabbitmq_server() if broker == "rabbitmq" else valkey_server(_made(folder / "broker"))
            broker_url = running.enter_context(place).url
            url = f"sqlite:///{folder}/hub.db"
            if database == "mariadb":
                url = running.enter_context(mariadb_server()).url
            if database == "postgresql":
                url = running.enter_context(postgres_server(_made(folder / "postgres"), fsync=True)).url
        except pytest.skip.Exception as missing:
            raise RuntimeError(str(missing)) from None
        settings = Settings(home=folder, database_url=url, broker_url=broker_url, store_url=(folder / "store").as_uri())
        metadata = build_metadata(settings)
        metadata.update_database()
        metadata.close()
        app = running.enter_context(HubCelery(settings))
        environment = process_environment(settings) | (variables or {})
        names = [f"bench{number}@localhost" for number in range(1, workers + 1)]
        children = []
        for name in names:
            command = worker_command(["--hostname", name])
            command[command.index("--app") + 1] = application
            child = Child(name, "worker", command, environment, folder / "logs" / f"{name}.log")
            running.callback(child.kill_family)
            child.start()
            children.append(child)
        _wait_for(app, names, folder / "logs")
        yield ProductionHub(settings, app, children)


def _wait_for(app: HubCelery, names: Sequence[str], logs: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not all(report.is_well for report in check_workers(app, names, 5.0)):
        if time.monotonic() > deadline:
            said = "\n".join(log.read_text()[-2000:] for log in sorted(logs.glob("*.log")))
            raise RuntimeError(f"the workers did not come up:\n{said}")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
