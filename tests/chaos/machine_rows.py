"""The in-memory connector's contents as the rows that a database would hold, for the same checker."""

from __future__ import annotations

from typing import Any

from connectors.memory import InMemoryMetadataConnector
from connectors.records import BlobRef
from tests.chaos.facts import Facts, Row


def rows_in(connector: InMemoryMetadataConnector) -> Facts:
    """Its facts."""
    tables = connector._tables
    return Facts(
        [_row(record) for record in tables.models.values()],
        [_row(record) for record in tables.updates.values()],
        [_row(record) for record in tables.aggregates.values()],
        [_row(record) for record in tables.artifacts.values()],
        [_row(record) for record in tables.rounds.values()],
        [{"model_id": model_id, "action": str(action)} for model_id, action, _user in tables.audit.values()],
        [_row(record) for record in tables.logs.values()],
    )


def _row(record: Any) -> Row:
    row: Row = {name: getattr(record, name) for name in record.__slots__}
    blob = row.pop("data", None)
    if isinstance(blob, BlobRef):
        row |= {"data_uri": blob.uri, "data_digest": blob.digest, "data_size": blob.size_bytes}
    else:
        row |= {"data_uri": None, "data_digest": None, "data_size": None}
    return row
