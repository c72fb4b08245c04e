"""For every CHECK and UNIQUE of the schema: a statement that it alone refuses, on the rows that `fill` writes.

Written as plain SQL: whatever our code does wrong, such a row must never stand (RELIABILITY, "second net").
"""

from __future__ import annotations

from typing import Any, Final
from uuid import uuid4

from connectors.metadata import BaseMetadataConnector
from connectors.records import ModelArtifact, ModelStatus, NewLog, NewMetric
from tests.contract.entries import status


def _first_ones(table: str, column: str) -> str:
    """Give every row what the first one has."""
    return f"UPDATE {table} SET {column} = (SELECT {column} FROM {table} ORDER BY id LIMIT 1)"


BREACHES: Final = {
    "ck_federated_model_status": "UPDATE federated_model SET status = 'LOST'",
    "ck_federated_model_data_format": "UPDATE federated_model SET data_format = 'pickle'",
    "ck_federated_model_counters": "UPDATE federated_model SET head = -1",
    "ck_model_update_status": "UPDATE model_update SET status = 'LOST' WHERE status = 'PENDING'",
    "ck_model_update_complete": "UPDATE model_update SET status = 'COMPLETE' WHERE status = 'PENDING'",
    "ck_model_update_running": "UPDATE model_update SET status = 'RUNNING' WHERE status = 'PENDING'",
    "ck_model_update_invalid": "UPDATE model_update SET status = 'INVALID' WHERE status = 'PENDING'",
    "ck_model_update_reason_code": (
        "UPDATE model_update SET status = 'INVALID', reason_code = 'BORED' WHERE status = 'PENDING'"
    ),
    "ck_model_update_countable": "UPDATE model_update SET num_examples = 0 WHERE status = 'PENDING'",
    "ck_model_aggregate_chain": "UPDATE model_aggregate SET parent_id = NULL WHERE number = 2",
    "ck_round_state": "UPDATE round SET state = 'LOST'",
    "ck_round_posted": "UPDATE round SET state = 'POSTED'",
    "ck_model_log_typed_xor_text": "UPDATE model_log SET log = 'as well' WHERE event_type IS NOT NULL",
    "ck_model_run_status": "UPDATE model_run SET status = 'LOST'",
    "ck_model_run_number": "UPDATE model_run SET number = 0 WHERE number = 1",
    "ck_model_audit_action": "UPDATE model_audit SET action = 'FORGOTTEN'",
    "ck_dead_letter_outcome": "UPDATE dead_letter SET outcome = 'FORGOTTEN', settled_at = created_at",
    "ck_dead_letter_settled": "UPDATE dead_letter SET outcome = 'DISCARDED'",
    "uq_federated_model_uuid": _first_ones("federated_model", "uuid"),
    "uq_client_uuid": _first_ones("client", "uuid"),
    "uq_trust_uuid": _first_ones("trust", "uuid"),
    "uq_trust_name": _first_ones("trust", "name"),
    "uq_trust_code": _first_ones("trust", "code"),
    "uq_fl_kit_slot_fl_client_name": _first_ones("fl_kit_slot", "fl_client_name"),
    "uq_model_update_submission_id": _first_ones("model_update", "submission_id"),
    "uq_model_log_event_id": _first_ones("model_log", "event_id"),
    "uq_model_metric_event_id": _first_ones("model_metric", "event_id"),
    "uq_outbox_key": "UPDATE outbox SET key = 'the same'",
    "uq_model_aggregate_model_id_number": "UPDATE model_aggregate SET number = 2 WHERE number = 3",
    "uq_model_aggregate_parent_id": (
        "UPDATE model_aggregate SET parent_id = (SELECT id FROM model_aggregate WHERE number = 1) WHERE number = 3"
    ),
    "uq_model_artifact_model_id_version": "UPDATE model_artifact SET version = '1'",
    "uq_client_aggregate_score_aggregate_id_client_id": (
        "UPDATE client_aggregate_score SET client_id = (SELECT id FROM client ORDER BY id LIMIT 1)"
    ),
    "uq_model_run_model_id_run_id": _first_ones("model_run", "run_id"),
    "uq_model_run_model_id_number": "UPDATE model_run SET number = 1",
}


def fill(connector: BaseMetadataConnector, world: Any) -> None:
    """At least two rows where a value must be one row's alone, and a row in every state that a CHECK speaks of."""
    model = world.model()
    for _ in range(3):
        world.update(model)
        aggregate = world.post(model)
    world.update(model)
    one, two = connector.pull_model_clients(model)
    with connector.transaction():
        for version in ("1", "2"):
            connector.add_model_artifact(ModelArtifact(0, model.id, version, world.blob()))
        for client in (one, two):
            connector.post_client_aggregate_score(aggregate, client, {"accuracy": 0.5})
        connector.add_logs([NewLog(model.id, uuid4(), event_type="JOB_WAITING_FOR_RESOURCES") for _ in range(2)])
        connector.add_metrics(
            [
                NewMetric(model_id=model.id, event_id=uuid4(), label="loss", x_label="x", x_value=float(x), result=2.0)
                for x in range(2)
            ]
        )
        connector.add_dead_letter("t", {}, kind="InvalidMessage", field=None, reason="is required")
        for key in ("k1", "k2"):
            connector.add_outbox_message(key, "their.task", {"a": 1})
    for name in ("north", "south"):
        trust = world.trust(name, name[0].upper())
        with connector.transaction():
            connector.set_fl_kit_slot(f"{name}-1", trust)
    for _ in range(2):
        status(connector, model, ModelStatus.INITIATED, run_id=uuid4())
    other = world.model()
    with connector.transaction():
        claim = connector.claim_model(other, 60_000)
        assert claim is not None
        connector.add_round(claim, 1, "worker@one")
