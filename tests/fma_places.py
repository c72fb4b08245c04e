"""A real FMA deployment with its API running and the hub beside it, for tests; it takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from config.settings import Settings
from connectors.django.connector import DjangoMetadataConnector
from connectors.django.tables import UPDATES
from connectors.records import FederatedModel, ModelAggregate, ModelUpdate
from examples.fma.peer import FmaDeployment
from fedqueue.buckets import Bucket, is_bucket
from tasks.domain.rounds import run_round
from tasks.domain.takeover import Taken, take_over
from tasks.hub import Hub
from worker.bootstrap import build_metadata, build_model_data


class Place:
    """A deployment with its API running, the hub beside it, and short ways to use both."""

    def __init__(self, fma: FmaDeployment, media: str, hub: Hub) -> None:
        self.fma = fma
        self.media = media  # as the hub is told: a folder's path, or a bucket's URL
        self.hub = hub
        self.token = fma.developer()

    @property
    def metadata(self) -> DjangoMetadataConnector:
        assert isinstance(self.hub.metadata, DjangoMetadataConnector)
        return self.hub.metadata

    @property
    def engine(self) -> Engine:
        return self.metadata.engine

    def model(self, clients: int = 2, **policy: Any) -> tuple[int, list[str]]:
        """A model made by FMA's API, and that many clients registered by it."""
        asked = {"name": "digits", "developer": 1, "aggregator": "avg_values_if_data", "allow_aggregation": True}
        made = self.fma.ask("POST", "models/", asked | policy, token=self.token)
        registered = [self.fma.ask("POST", f"models/{made['id']}/register_client/") for _ in range(clients)]
        return made["id"], [client["uuid"] for client in registered]

    def send(self, model_id: int, client: str, data: Any, base: int | None = None) -> int:
        """The id that FMA gives to an update."""
        asked = {"federated_model": model_id, "data": data, "base_aggregate": base}
        sent: int = self.fma.ask("POST", "model_updates/", asked, client=client)["id"]
        return sent

    def latest(self, model_id: int, client: str) -> Any:
        """What FMA's API serves as the newest model."""
        return self.fma.ask("GET", f"models/{model_id}/get_latest_model/", client=client)

    def file_of(self, update_id: int) -> str:
        """What FMA calls an update's file."""
        with self.engine.connect() as connection:
            path: str = connection.scalars(select(UPDATES.c.data).where(UPDATES.c.id == update_id)).one()
        return path

    def read(self, path: str) -> bytes:
        """The bytes of a file of FMA's."""
        if is_bucket(self.media):
            return b"".join(Bucket(self.media).read(path))
        return (Path(self.media) / path).read_bytes()

    @contextmanager
    def without(self, path: str) -> Iterator[None]:
        """A file of FMA's is gone until the block ends."""
        aside = f"{path}-aside"
        self._move(path, aside)
        try:
            yield
        finally:
            self._move(aside, path)

    def _move(self, path: str, to: str) -> None:
        if is_bucket(self.media):
            Bucket(self.media).move(path, to)
        else:
            (Path(self.media) / path).rename(Path(self.media) / to)

    def take(self) -> Taken:
        return take_over(self.hub, seconds=60)

    def round(self, model_id: int) -> ModelAggregate | None:
        """What a poll and a round after it come to."""
        self.take()
        return run_round(self.hub, model_id).aggregate

    def known(self, model_id: int) -> FederatedModel:
        """The hub's record of the model."""
        found = self.metadata.pull_federated_model_w_id(model_id)
        assert found is not None
        return found

    def updates(self, model_id: int) -> dict[int, ModelUpdate]:
        """The hub's records of its updates."""
        return {found.id: found for found in self.metadata.pull_model_updates(self.known(model_id))}

    def shown(self, model_id: int) -> dict[int, Any]:
        """The same as FMA shows them."""
        rows = self.fma.ask("GET", f"model_updates/?federated_model={model_id}", token=self.token)
        return {row["id"]: row for row in rows}


@contextmanager
def beside(
    home: Path, database_url: str, database: dict[str, Any] | None = None, bucket: str | None = None
) -> Iterator[Place]:
    """A hub beside a new deployment, both migrated by the hub's own command; `bucket`: in place of a media folder."""
    fma = FmaDeployment(home, database, bucket)
    media = bucket or str(fma.media)
    settings = Settings(
        home=home / "hub",
        database_url=database_url,
        broker_url="memory://",
        metadata_connector="django",
        fma_media=media,
        fma_migrate_command=fma.migrate_command,
    )
    metadata = build_metadata(settings)
    try:
        metadata.update_database()
        metadata.check()
        hub = Hub(settings, metadata, build_model_data(settings, metadata), send=lambda *_: None, worker="test")
        with fma.serving():
            yield Place(fma, media, hub)
        # Whatever the tests were about.
        assert fma.rebuild()["changed"] == []
    finally:
        metadata.close()
