"""FMA deployments for tests: their tables without a Django, and whether both sides of one say the same."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, insert, text

from config.settings import Settings
from connectors.django.connector import DjangoMetadataConnector
from connectors.django.tables import CLIENTS, METADATA, MODELS, REGISTRATIONS, STATUS_NUMBERS, UPDATES, USERS
from connectors.records import FederatedModel
from fedqueue.buckets import Bucket
from tasks.domain.takeover import Taken, take_over
from tasks.hub import Hub
from worker.bootstrap import build_model_data

DEVELOPER = "admin"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def new_deployment(url: str, media: str | Path) -> DjangoMetadataConnector:
    """A hub beside a deployment that has one user and nothing else."""
    made = DjangoMetadataConnector(url, media=media)
    with made.engine.begin() as connection:
        METADATA.create_all(connection)
        connection.execute(insert(USERS).values(username=DEVELOPER, is_superuser=True, is_active=True))
    made.update_database()
    return made


class Deployment:
    """FMA's side, written to as its API does; and a hub beside it."""

    def __init__(self, folder: Path, bucket: str | None = None, **values: Any) -> None:
        self.media = folder / "media"
        self.bucket = bucket  # in place of that folder
        self.metadata = new_deployment(f"sqlite:///{folder}/fma.db", bucket or self.media)
        settings = Settings(home=folder, metadata_connector="django", fma_media=bucket or self.media, **values)
        store = build_model_data(settings, self.metadata)
        self.hub = Hub(settings, self.metadata, store, send=lambda *_: None, worker="test")

    def insert(self, table: Any, **values: Any) -> int:
        with self.metadata.engine.begin() as connection:
            key = connection.execute(insert(table).values(values)).inserted_primary_key
        assert key is not None
        return key[0]  # type: ignore[no-any-return]

    def model(self, clients: int = 1, **policy: Any) -> tuple[int, list[UUID]]:
        named = {"name": "m", "aggregator": "avg_values_if_data", "requirement": "", "developer_id": 1}
        moments = {"created_on": WHEN, "last_modified": WHEN}
        model_id = self.insert(MODELS, **(named | moments | policy))
        uuids = [uuid4() for _ in range(clients)]
        for uuid in uuids:
            self.insert(CLIENTS, uuid=uuid)
            self.insert(REGISTRATIONS, federatedmodel_id=model_id, client_id=uuid)
        return model_id, uuids

    def file(self, data: Any) -> str:
        path = f"model_updates/{uuid4()}"
        if self.bucket is not None:
            Bucket(self.bucket).put(path, json.dumps(data).encode())
            return path
        (self.media / path).parent.mkdir(parents=True, exist_ok=True)
        (self.media / path).write_text(json.dumps(data))
        return path

    def send(self, model_id: int, client: UUID, data: Any, **fields: Any) -> int:
        named = {"status": 0, "created_on": WHEN, "client_id": client, "federated_model_id": model_id}
        return self.insert(UPDATES, **({"data": self.file(data)} | named | fields))

    def take(self) -> Taken:
        return take_over(self.hub, seconds=60)

    def known(self, model_id: int) -> FederatedModel:
        found = self.metadata.pull_federated_model_w_id(model_id)
        assert found is not None
        return found


def disagreements(engine: Engine) -> list[str]:
    """Where FMA's tables say something else than the hub's, in plain SQL; and where the tree is none.

    A model's policy is left out: it is brought together when the model is locked next.
    """
    found = []
    with engine.connect() as connection:
        for what, ours, theirs in _SAME:
            hubs, fmas = _rows(connection, ours), _rows(connection, theirs)
            found += [f"{what}: the hub alone has {row}" for row in sorted(hubs - fmas)]
            found += [f"{what}: FMA alone has {row}" for row in sorted(fmas - hubs)]
        found += _tree_faults(connection)
    return found


# The hub keeps the rows of a model that was deleted in FMA.
_GONE = "SELECT id FROM federated_model WHERE deleted AND id NOT IN (SELECT id FROM fma_django_federatedmodel)"
_NUMBER = "CASE u.status " + " ".join(f"WHEN '{s}' THEN {n}" for s, n in STATUS_NUMBERS.items()) + " END"
_SAME = (
    ("models", f"SELECT id FROM federated_model WHERE id NOT IN ({_GONE})", "SELECT id FROM fma_django_federatedmodel"),
    (
        "registrations",
        f"SELECT m.model_id, c.uuid FROM model_client m JOIN client c ON c.id = m.client_id "
        f"WHERE m.model_id NOT IN ({_GONE})",
        "SELECT federatedmodel_id, client_id FROM fma_django_federatedmodel_clients",
    ),
    (
        "updates",
        # A stranger's, or one without data, has no place in FMA's table, unless it came in by that.
        f"SELECT u.id, u.model_id, u.client_uuid, {_NUMBER}, u.base_aggregate_id, u.applied_aggregate_id "
        f"FROM model_update u WHERE u.model_id NOT IN ({_GONE}) AND "
        "(u.client_id IS NOT NULL AND u.data_uri IS NOT NULL OR u.id IN (SELECT id FROM fma_django_modelupdate))",
        "SELECT id, federated_model_id, client_id, status, base_aggregate_id, applied_aggregate_id "
        "FROM fma_django_modelupdate",
    ),
    (
        "aggregates",
        f"SELECT id, model_id, parent_id, validation_score FROM model_aggregate WHERE model_id NOT IN ({_GONE})",
        "SELECT id, federated_model_id, parent_id, validation_score FROM fma_django_modelaggregate",
    ),
    (
        "artifacts",
        f"SELECT id, model_id, version FROM model_artifact WHERE model_id NOT IN ({_GONE})",
        "SELECT id, federated_model_id, version FROM fma_django_modelartifact",
    ),
    (
        "scores",
        "SELECT s.id, s.aggregate_id, c.uuid, CAST(s.validation_results AS TEXT) "
        "FROM client_aggregate_score s JOIN client c ON c.id = s.client_id",
        "SELECT id, aggregate_id, client_id, CAST(validation_results AS TEXT) FROM fma_django_clientaggregatescore",
    ),
)


def _rows(connection: Connection, statement: str) -> set[tuple[str, ...]]:
    return {tuple(str(value).replace("-", "") for value in row) for row in connection.execute(text(statement))}


def _tree_faults(connection: Connection) -> list[str]:
    """Nested sets worked out from the parents alone, compared with those that stand there."""
    statement = "SELECT id, parent_id, lft, rght, tree_id, level FROM fma_django_modelaggregate ORDER BY tree_id, lft"
    rows = connection.execute(text(statement)).all()
    children: dict[Any, list[int]] = defaultdict(list)
    for row in rows:
        children[row.parent_id].append(row.id)
    right: dict[int, tuple[int, int, int, int]] = {}
    for tree, root in enumerate(children[None], 1):
        count = 0
        # Without recursion: a chain is as deep as it is long.
        walk: list[tuple[int, int, bool]] = [(root, 0, False)]
        while walk:
            node, level, is_left = walk.pop()
            count += 1
            if is_left:
                right[node] = (right[node][0], count, tree, level)
                continue
            right[node] = (count, 0, tree, level)
            walk.append((node, level, True))
            walk += [(child, level + 1, False) for child in reversed(children[node])]
    return [
        f"aggregate {row.id}: {tuple(row[2:])} instead of {right.get(row.id)}"
        for row in rows
        if tuple(row[2:]) != right.get(row.id)
    ]
