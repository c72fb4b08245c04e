"""The connectors that must behave alike, each on a database of its own."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from connectors.django.connector import DjangoMetadataConnector
from connectors.memory import InMemoryMetadataConnector
from connectors.metadata import BaseMetadataConnector
from connectors.records import AggregateResult, BlobRef, FederatedModel, ModelUpdate, Trust
from connectors.sql.connector import SqlAlchemyMetadataConnector
from tests.contract.waiting_bench import OTHERS, Bench
from tests.debian_servers import rabbitmq_server
from tests.deployments import disagreements, new_deployment
from tests.servers import Server, valkey_server


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        "postgresql",
        "django-sqlite",
        pytest.param("django-postgresql", marks=pytest.mark.wide),
        pytest.param("mariadb", marks=pytest.mark.wide),
    ]
)
def connector(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseMetadataConnector]:
    """Every connector in turn, empty and migrated."""
    made: BaseMetadataConnector
    if request.param == "memory":
        made = InMemoryMetadataConnector()
        made.update_database()
    elif request.param.startswith("django-"):
        # Its media folder is where `World` has its blobs.
        made = new_deployment(database_url(request, tmp_path), "/store")
    else:
        made = SqlAlchemyMetadataConnector(migrated_url(request, tmp_path))
    yield made
    if isinstance(made, DjangoMetadataConnector):
        # Whatever the test was about: FMA's clients see the same as the hub's.
        assert disagreements(made.engine) == []
    made.close()


def migrated_url(request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of a database of the kind that the test's parameter names, migrated and without a row."""
    if request.param == "mariadb":
        url: str = request.getfixturevalue("emptied_mariadb_url")
        return url
    url = database_url(request, folder)
    hub = SqlAlchemyMetadataConnector(url)
    hub.update_database()
    hub.close()
    return url


def database_url(request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of an empty database of the kind that the test's parameter names."""
    kind = request.param.removeprefix("django-")
    if kind == "sqlite":
        return f"sqlite:///{folder}/hub.db"
    url: str = request.getfixturevalue(f"{kind}_url".replace("postgresql", "postgres"))
    return url


class World:
    """Short ways to fill a connector, each in a transaction of its own."""

    def __init__(self, connector: BaseMetadataConnector) -> None:
        self.connector = connector
        self._count = itertools.count()

    def blob(self, content: str = "") -> BlobRef:
        """A reference to bytes; nothing need be stored for metadata's sake."""
        content = content or f"blob {next(self._count)}"
        digest = hashlib.sha256(content.encode()).hexdigest()
        return BlobRef(uri=f"file:///store/sha256/{digest[:2]}/{digest}", digest=digest, size_bytes=len(content))

    def model(self, clients: int = 2, **policy: Any) -> FederatedModel:
        """A model with that many registered clients."""
        with self.connector.transaction():
            model = self.connector.add_federated_model(FederatedModel(id=0, uuid=uuid4(), **policy))
            for _ in range(clients):
                self.connector.register_client(model, uuid4())
        return model

    def update(self, model: FederatedModel, client: int = 0, **fields: Any) -> ModelUpdate:
        """A PENDING update of the model's client of that position."""
        sender = self.connector.pull_model_clients(model)[client]
        values: dict[str, Any] = {
            "id": 0,
            "model_id": model.id,
            "client_id": sender.id,
            "client_uuid": sender.uuid,
            "submission_id": uuid4(),
            "payload_digest": "0" * 64,
            "data": self.blob(),
            "num_examples": 1.0,
        }
        with self.connector.transaction():
            return self.connector.add_model_update(ModelUpdate(**(values | fields)))

    def result(self, num_updates: int = 1, num_examples: float = 1.0) -> AggregateResult:
        """A combined model that is in the store already."""
        return AggregateResult(self.blob(), num_updates, num_examples, {"aggregator": "fedavg"})

    def now(self, model: FederatedModel) -> FederatedModel:
        """The model as it stands."""
        found = self.connector.pull_federated_model_w_id(model.id)
        assert found is not None
        return found

    def delete(self, *models: FederatedModel, user_id: str | None = "u1") -> int:
        """How many of the models were deleted now."""
        with self.connector.transaction():
            return self.connector.delete_federated_models(models, user_id)

    def trust(self, name: str, code: str | None = None) -> Trust:
        """An institution."""
        with self.connector.transaction():
            return self.connector.add_trust(Trust(0, uuid4(), name, code))

    def post(self, model: FederatedModel) -> Any:
        """One whole round over everything that is ready, the way FMA's callers do it."""
        parent = self.connector.pull_latest_model_aggregate(model)
        with self.connector.transaction():
            ready = self.connector.pull_model_updates_ready_for_aggregation(model, parent)
            taken = self.connector.register_model_updates_for_aggregation(ready)
        with self.connector.transaction():
            aggregate = self.connector.post_new_model_aggregate(model, parent, self.result(len(taken)))
            self.connector.register_model_update_used_in_aggregate(taken, aggregate)
            self.connector.register_model_updates_use_in_aggregation_complete(taken, True)
        return aggregate


@pytest.fixture
def world(connector: BaseMetadataConnector) -> World:
    """Short ways to fill the connector."""
    return World(connector)


@pytest.fixture(scope="session", params=["valkey", pytest.param("rabbitmq", marks=pytest.mark.wide)])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A broker of these tests' own."""
    with ExitStack() as running:
        if request.param == "rabbitmq":
            yield running.enter_context(rabbitmq_server())
        else:
            yield running.enter_context(valkey_server(tmp_path_factory.mktemp("valkey")))


@pytest.fixture
def bench(broker: Server, tmp_path: Path) -> Iterator[Bench]:
    """The broker with both queues declared and empty."""
    made = Bench(broker, tmp_path)
    made.declare()
    made.restore()
    made.left(), made.left(OTHERS)
    yield made
    made.drain.close()
    made.app.close()
