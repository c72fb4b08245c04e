"""What FL events need: runs, silence, senders of metrics, an audit of every status, indexes to read a run's entries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")

_ACTIONS_BEFORE = (
    "'CREATE', 'EDIT', 'DELETE', 'PUBLISH', 'INITIATED', 'PREPARED', 'RUNNING', 'RESULTS_UPLOADED', 'STOPPED', 'ERROR'"
)
_ACTIONS = f"{_ACTIONS_BEFORE}, 'RESULTS_UPLOAD_FAILED'"


def upgrade() -> None:
    """Add a table, and columns that may be empty: workers of the version before go on writing rows."""
    op.add_column("federated_model", sa.Column("silence_timeout", sa.Double(), nullable=True))
    op.add_column("federated_model", sa.Column("heard_at", MOMENT, nullable=True))
    op.add_column("model_metric", sa.Column("fl_client_name", sa.String(length=200), nullable=True))
    op.create_table(
        "model_run",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("model_id", BIG_ID, nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(length=30), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.CheckConstraint(
            "status IN ('PENDING', 'INITIATED', 'PREPARED', 'RUNNING', 'RESULTS_UPLOADED', 'RESULTS_UPLOAD_FAILED', 'ERROR', 'STOPPED')",
            name=op.f("ck_model_run_status"),
        ),
        sa.CheckConstraint("number >= 1", name=op.f("ck_model_run_number")),
        sa.ForeignKeyConstraint(["model_id"], ["federated_model.id"], name=op.f("fk_model_run_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_run")),
        sa.UniqueConstraint("model_id", "number", name=op.f("uq_model_run_model_id_number")),
        sa.UniqueConstraint("model_id", "run_id", name=op.f("uq_model_run_model_id_run_id")),
    )
    op.create_index("ix_model_log_run", "model_log", ["model_id", "run_id", "id"], unique=False)
    # The new index first: MariaDB keeps one for the foreign key at any time.
    op.create_index("ix_model_metric_run", "model_metric", ["model_id", "run_id", "id"], unique=False)
    op.drop_index("ix_model_metric_model_id", table_name="model_metric")
    _allow_actions(_ACTIONS)


def downgrade() -> None:
    """Take them away: what the runs were, who sent a metric, and how long a silence may last are forgotten."""
    op.execute("DELETE FROM model_audit WHERE action = 'RESULTS_UPLOAD_FAILED'")  # a word that the old schema refuses
    _allow_actions(_ACTIONS_BEFORE)
    op.create_index("ix_model_metric_model_id", "model_metric", ["model_id", "label", "id"], unique=False)
    op.drop_index("ix_model_metric_run", table_name="model_metric")
    op.drop_index("ix_model_log_run", table_name="model_log")
    op.drop_table("model_run")
    op.drop_column("model_metric", "fl_client_name")
    op.drop_column("federated_model", "heard_at")
    op.drop_column("federated_model", "silence_timeout")


def _allow_actions(actions: str) -> None:
    name = op.f("ck_model_audit_action")
    # SQLite copies the table, which no other one points at, and leaves the old constraint behind.
    is_copied = op.get_bind().dialect.name == "sqlite"
    with op.batch_alter_table("model_audit") as audit:
        if not is_copied:
            audit.drop_constraint(name, type_="check")
        audit.create_check_constraint(name, f"action IN ({actions})")
