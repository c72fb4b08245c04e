"""The first schema: models, rounds, the model service, deliveries.

Written once and never edited: it says what databases of that age look like, whatever the declared rows become. (For
MariaDB it was, before the first hub ran on it.)
Its length is one revision's: a schema is read whole.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
MOMENT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "dead_letter",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("task", sa.String(length=200), nullable=False),
        sa.Column("payload", JSON, nullable=True),
        sa.Column("kind", sa.String(length=100), nullable=False),
        sa.Column("field", sa.String(length=200), nullable=True),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letter")),
    )
    op.create_table(
        "federated_model",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("description", TEXT, nullable=False),
        sa.Column("user_id", sa.String(length=200), nullable=True),
        sa.Column("project_id", sa.String(length=200), nullable=True),
        sa.Column("aggregator", sa.String(length=100), nullable=False),
        sa.Column("aggregator_params", JSON, nullable=False),
        sa.Column("requirement", sa.String(length=100), nullable=True),
        sa.Column("requirement_args", JSON, nullable=True),
        sa.Column("furthest_base_agg", sa.BigInteger(), nullable=True),
        sa.Column("allow_repeats", sa.Boolean(), nullable=False),
        sa.Column("max_rounds", sa.BigInteger(), nullable=True),
        sa.Column("data_format", sa.String(length=20), nullable=False),
        sa.Column("update_schema", JSON, nullable=True),
        sa.Column("client_agg_results_schema", JSON, nullable=True),
        sa.Column("max_norm", sa.Double(), nullable=True),
        sa.Column("tensors", JSON, nullable=True),
        sa.Column("allow_aggregation", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(length=30), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("head", sa.BigInteger(), nullable=False),
        sa.Column("initial_artifact_id", sa.BigInteger(), nullable=True),
        sa.Column("best_aggregate_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.CheckConstraint("data_format IN ('safetensors', 'json')", name=op.f("ck_federated_model_data_format")),
        sa.CheckConstraint(
            "status IN ('PENDING', 'INITIATED', 'PREPARED', 'RUNNING', 'RESULTS_UPLOADED', 'RESULTS_UPLOAD_FAILED', 'ERROR', 'STOPPED')",
            name=op.f("ck_federated_model_status"),
        ),
        sa.CheckConstraint("head >= 0 AND fence >= 0", name=op.f("ck_federated_model_counters")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_federated_model")),
        sa.UniqueConstraint("uuid", name=op.f("uq_federated_model_uuid")),
    )
    op.create_index(op.f("ix_federated_model_project_id"), "federated_model", ["project_id"], unique=False)
    op.create_table(
        "trust",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("code", sa.String(length=50), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trust")),
        sa.UniqueConstraint("code", name=op.f("uq_trust_code")),
        sa.UniqueConstraint("name", name=op.f("uq_trust_name")),
        sa.UniqueConstraint("uuid", name=op.f("uq_trust_uuid")),
    )
    op.create_table(
        "client",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("trust_id", BIG_ID, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["trust_id"], ["trust.id"], name=op.f("fk_client_trust_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_client")),
        sa.UniqueConstraint("uuid", name=op.f("uq_client_uuid")),
    )
    op.create_table(
        "fl_kit_slot",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("fl_client_name", sa.String(length=200), nullable=False),
        sa.Column("trust_id", BIG_ID, nullable=True),
        sa.ForeignKeyConstraint(["trust_id"], ["trust.id"], name=op.f("fk_fl_kit_slot_trust_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fl_kit_slot")),
        sa.UniqueConstraint("fl_client_name", name=op.f("uq_fl_kit_slot_fl_client_name")),
    )
    op.create_table(
        "model_aggregate",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("model_id", BIG_ID, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("parent_id", BIG_ID, nullable=True),
        sa.Column("data_uri", TEXT, nullable=False),
        sa.Column("data_digest", sa.String(length=64), nullable=False),
        sa.Column("data_size", sa.BigInteger(), nullable=False),
        sa.Column("num_updates", sa.BigInteger(), nullable=False),
        sa.Column("num_examples", sa.Double(), nullable=False),
        sa.Column("manifest", JSON, nullable=False),
        sa.Column("validation_score", sa.Double(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("number >= 1 AND (number = 1) = (parent_id IS NULL)", name=op.f("ck_model_aggregate_chain")),
        sa.ForeignKeyConstraint(["model_id"], ["federated_model.id"], name=op.f("fk_model_aggregate_model_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["model_aggregate.id"], name=op.f("fk_model_aggregate_parent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_aggregate")),
        sa.UniqueConstraint("model_id", "number", name=op.f("uq_model_aggregate_model_id_number")),
        sa.UniqueConstraint("parent_id", name=op.f("uq_model_aggregate_parent_id")),
    )
    op.create_index(op.f("ix_model_aggregate_data_digest"), "model_aggregate", ["data_digest"], unique=False)
    op.create_table(
        "model_audit",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("model_id", BIG_ID, nullable=False),
        sa.Column("action", sa.String(length=30), nullable=False),
        sa.Column("user_id", sa.String(length=200), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint(
            "action IN ('CREATE', 'EDIT', 'DELETE', 'PUBLISH', 'INITIATED', 'PREPARED', 'RUNNING', 'RESULTS_UPLOADED', 'STOPPED', 'ERROR')",
            name=op.f("ck_model_audit_action"),
        ),
        sa.ForeignKeyConstraint(["model_id"], ["federated_model.id"], name=op.f("fk_model_audit_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_audit")),
    )
    op.create_index("ix_model_audit_model_id", "model_audit", ["model_id", "id"], unique=False)
    op.create_table(
        "model_log",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=True),
        sa.Column("model_id", BIG_ID, nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("trust_id", BIG_ID, nullable=True),
        sa.Column("fl_client_name", sa.String(length=200), nullable=True),
        sa.Column("event_type", sa.String(length=100), nullable=True),
        sa.Column("log", TEXT, nullable=True),
        sa.Column("success", sa.Boolean(), nullable=False),
        sa.Column("global_round", sa.BigInteger(), nullable=True),
        sa.Column("details", JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("(event_type IS NULL) <> (log IS NULL)", name=op.f("ck_model_log_typed_xor_text")),
        sa.ForeignKeyConstraint(["model_id"], ["federated_model.id"], name=op.f("fk_model_log_model_id")),
        sa.ForeignKeyConstraint(["trust_id"], ["trust.id"], name=op.f("fk_model_log_trust_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_log")),
        sa.UniqueConstraint("event_id", name=op.f("uq_model_log_event_id")),
    )
    op.create_index("ix_model_log_model_id", "model_log", ["model_id", "id"], unique=False)
    op.create_table(
        "model_metric",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=True),
        sa.Column("model_id", BIG_ID, nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("trust_id", BIG_ID, nullable=True),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("x_label", sa.String(length=64), nullable=False),
        sa.Column("x_value", sa.Double(), nullable=False),
        sa.Column("result", sa.Double(), nullable=False),
        sa.Column("global_round", sa.BigInteger(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["federated_model.id"], name=op.f("fk_model_metric_model_id")),
        sa.ForeignKeyConstraint(["trust_id"], ["trust.id"], name=op.f("fk_model_metric_trust_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_metric")),
        sa.UniqueConstraint("event_id", name=op.f("uq_model_metric_event_id")),
    )
    op.create_index("ix_model_metric_model_id", "model_metric", ["model_id", "label", "id"], unique=False)
    op.create_table(
        "model_trust",
        sa.Column("model_id", BIG_ID, nullable=False),
        sa.Column("trust_id", BIG_ID, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["federated_model.id"], name=op.f("fk_model_trust_model_id")),
        sa.ForeignKeyConstraint(["trust_id"], ["trust.id"], name=op.f("fk_model_trust_trust_id")),
        sa.PrimaryKeyConstraint("model_id", "trust_id", name=op.f("pk_model_trust")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("task", sa.String(length=200), nullable=False),
        sa.Column("queue", sa.String(length=200), nullable=True),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("model_id", BIG_ID, nullable=True),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("sent_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["federated_model.id"], name=op.f("fk_outbox_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("key", name=op.f("uq_outbox_key")),
    )
    # MariaDB has no partial indexes: what is open stands together in a whole one.
    on_mariadb = op.get_bind().dialect.name == "mariadb"
    if on_mariadb:
        op.create_index("ix_outbox_unsent_first", "outbox", ["sent_at", "id"])
    else:
        op.create_index(
            "ix_outbox_unsent",
            "outbox",
            ["id"],
            unique=False,
            postgresql_where=sa.text("sent_at IS NULL"),
            sqlite_where=sa.text("sent_at IS NULL"),
        )
    op.create_table(
        "client_aggregate_score",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("aggregate_id", BIG_ID, nullable=False),
        sa.Column("client_id", BIG_ID, nullable=False),
        sa.Column("validation_results", JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["aggregate_id"], ["model_aggregate.id"], name=op.f("fk_client_aggregate_score_aggregate_id")
        ),
        sa.ForeignKeyConstraint(["client_id"], ["client.id"], name=op.f("fk_client_aggregate_score_client_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_client_aggregate_score")),
        sa.UniqueConstraint("aggregate_id", "client_id", name=op.f("uq_client_aggregate_score_aggregate_id_client_id")),
    )
    op.create_table(
        "model_artifact",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("model_id", BIG_ID, nullable=False),
        sa.Column("version", sa.String(length=100), nullable=False),
        sa.Column("aggregate_id", BIG_ID, nullable=True),
        sa.Column("data_uri", TEXT, nullable=False),
        sa.Column("data_digest", sa.String(length=64), nullable=False),
        sa.Column("data_size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["aggregate_id"], ["model_aggregate.id"], name=op.f("fk_model_artifact_aggregate_id")),
        sa.ForeignKeyConstraint(["model_id"], ["federated_model.id"], name=op.f("fk_model_artifact_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_artifact")),
        sa.UniqueConstraint("model_id", "version", name=op.f("uq_model_artifact_model_id_version")),
    )
    op.create_index(op.f("ix_model_artifact_data_digest"), "model_artifact", ["data_digest"], unique=False)
    op.create_table(
        "model_client",
        sa.Column("model_id", BIG_ID, nullable=False),
        sa.Column("client_id", BIG_ID, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["client.id"], name=op.f("fk_model_client_client_id")),
        sa.ForeignKeyConstraint(["model_id"], ["federated_model.id"], name=op.f("fk_model_client_model_id")),
        sa.PrimaryKeyConstraint("model_id", "client_id", name=op.f("pk_model_client")),
    )
    op.create_table(
        "model_update",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("model_id", BIG_ID, nullable=False),
        sa.Column("client_id", BIG_ID, nullable=True),
        sa.Column("client_uuid", sa.Uuid(), nullable=False),
        sa.Column("submission_id", sa.Uuid(), nullable=False),
        sa.Column("payload_digest", sa.String(length=64), nullable=False),
        sa.Column("data_uri", TEXT, nullable=True),
        sa.Column("data_digest", sa.String(length=64), nullable=True),
        sa.Column("data_size", sa.BigInteger(), nullable=True),
        sa.Column("num_examples", sa.Double(), nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("reason_code", sa.String(length=30), nullable=True),
        sa.Column("reason", TEXT, nullable=True),
        sa.Column("base_aggregate_id", BIG_ID, nullable=True),
        sa.Column("applied_aggregate_id", BIG_ID, nullable=True),
        sa.Column("claim", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("suspect_group", sa.BigInteger(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.CheckConstraint(
            "(status = 'COMPLETE') = (applied_aggregate_id IS NOT NULL)",
            name=op.f("ck_model_update_complete"),
        ),
        sa.CheckConstraint("(status = 'INVALID') = (reason_code IS NOT NULL)", name=op.f("ck_model_update_invalid")),
        sa.CheckConstraint("(status = 'RUNNING') = (claim IS NOT NULL)", name=op.f("ck_model_update_running")),
        sa.CheckConstraint(
            "reason_code IS NULL OR reason_code IN ('SCHEMA', 'SHAPE', 'DTYPE', 'NOT_FINITE', 'NORM', 'DUPLICATE', 'STALE', 'UNREGISTERED_CLIENT', 'WEIGHT', 'CORRUPT', 'TOO_LARGE', 'POISON')",
            name=op.f("ck_model_update_reason_code"),
        ),
        sa.CheckConstraint(
            "status = 'INVALID' OR (client_id IS NOT NULL AND data_digest IS NOT NULL AND num_examples > 0)",
            name=op.f("ck_model_update_countable"),
        ),
        sa.CheckConstraint(
            "status IN ('PENDING', 'RUNNING', 'COMPLETE', 'FAILED', 'INVALID')",
            name=op.f("ck_model_update_status"),
        ),
        sa.ForeignKeyConstraint(
            ["applied_aggregate_id"],
            ["model_aggregate.id"],
            name=op.f("fk_model_update_applied_aggregate_id"),
        ),
        sa.ForeignKeyConstraint(
            ["base_aggregate_id"], ["model_aggregate.id"], name=op.f("fk_model_update_base_aggregate_id")
        ),
        sa.ForeignKeyConstraint(["client_id"], ["client.id"], name=op.f("fk_model_update_client_id")),
        sa.ForeignKeyConstraint(["model_id"], ["federated_model.id"], name=op.f("fk_model_update_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_update")),
        sa.UniqueConstraint("submission_id", name=op.f("uq_model_update_submission_id")),
    )
    op.create_index(
        op.f("ix_model_update_applied_aggregate_id"), "model_update", ["applied_aggregate_id"], unique=False
    )
    op.create_index(op.f("ix_model_update_data_digest"), "model_update", ["data_digest"], unique=False)
    op.create_index("ix_model_update_model_id_status", "model_update", ["model_id", "status", "id"], unique=False)
    if on_mariadb:
        op.create_index("ix_model_update_open_first", "model_update", ["status", "not_before", "model_id"])
    else:
        op.create_index(
            "ix_model_update_open",
            "model_update",
            ["model_id", "not_before"],
            unique=False,
            postgresql_where=sa.text("status IN ('PENDING', 'FAILED', 'RUNNING')"),
            sqlite_where=sa.text("status IN ('PENDING', 'FAILED', 'RUNNING')"),
        )
    op.create_table(
        "round",
        sa.Column("model_id", BIG_ID, nullable=False),
        sa.Column("fence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("num_updates", sa.BigInteger(), nullable=False),
        sa.Column("updates_done", sa.BigInteger(), nullable=False),
        sa.Column("bytes_done", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=False),
        sa.Column("reason", TEXT, nullable=True),
        sa.Column("aggregate_id", BIG_ID, nullable=True),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.CheckConstraint("(state = 'POSTED') = (aggregate_id IS NOT NULL)", name=op.f("ck_round_posted")),
        sa.CheckConstraint("state IN ('CLAIMED', 'POSTED', 'RELEASED', 'RESCUED')", name=op.f("ck_round_state")),
        sa.ForeignKeyConstraint(["aggregate_id"], ["model_aggregate.id"], name=op.f("fk_round_aggregate_id")),
        sa.ForeignKeyConstraint(["model_id"], ["federated_model.id"], name=op.f("fk_round_model_id")),
        sa.PrimaryKeyConstraint("model_id", "fence", name=op.f("pk_round")),
    )


def downgrade() -> None:
    # Their indexes go with them: MariaDB lets none go alone that a foreign key is looked up by.
    op.drop_table("round")
    op.drop_table("model_update")
    op.drop_table("model_client")
    op.drop_table("model_artifact")
    op.drop_table("client_aggregate_score")
    op.drop_table("outbox")
    op.drop_table("model_trust")
    op.drop_table("model_metric")
    op.drop_table("model_log")
    op.drop_table("model_audit")
    op.drop_table("model_aggregate")
    op.drop_table("fl_kit_slot")
    op.drop_table("client")
    op.drop_table("trust")
    op.drop_table("federated_model")
    op.drop_table("dead_letter")
