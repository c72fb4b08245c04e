"""FMA deployments for tests: their tables without a Django, and whether both sides of one say the same."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, insert, text

from connectors.django.connector import DjangoMetadataConnector
from connectors.django.tables import METADATA, STATUS_NUMBERS, USERS

DEVELOPER = "admin"


def new_deployment(url: str, media: str | Path) -> DjangoMetadataConnector:
    """A hub beside a deployment that has one user and nothing else."""
    made = DjangoMetadataConnector(url, media=media)
    with made.engine.begin() as connection:
        METADATA.create_all(connection)
        connection.execute(insert(USERS).values(username=DEVELOPER, is_superuser=True, is_active=True))
    made.update_database()
    return made


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
