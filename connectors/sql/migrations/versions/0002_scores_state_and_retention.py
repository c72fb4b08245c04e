"""What asynchronous and adaptive aggregators need, the best aggregate, and retention of inputs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    """Add columns with defaults: workers of the version before go on writing rows."""
    op.add_column("federated_model", sa.Column("score_metric", sa.String(length=100), nullable=True))
    op.add_column("federated_model", sa.Column("score_mode", sa.String(length=3), nullable=False, server_default="max"))
    op.add_column("federated_model", sa.Column("patience", sa.BigInteger(), nullable=True))
    op.add_column("model_update", sa.Column("num_steps", sa.BigInteger(), nullable=True))
    op.add_column("model_update", sa.Column("loss", sa.Double(), nullable=True))
    op.add_column("model_update", sa.Column("is_data_dropped", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("model_aggregate", sa.Column("state_uri", TEXT, nullable=True))
    op.add_column("model_aggregate", sa.Column("state_digest", sa.String(length=64), nullable=True))
    op.add_column("model_aggregate", sa.Column("state_size", sa.BigInteger(), nullable=True))
    op.create_index(op.f("ix_model_aggregate_state_digest"), "model_aggregate", ["state_digest"])
    op.add_column("client_aggregate_score", sa.Column("num_examples", sa.Double(), nullable=False, server_default="1"))


def downgrade() -> None:
    """Drop them: scores' weights, optimizer states and what was retained are forgotten."""
    op.drop_column("client_aggregate_score", "num_examples")
    op.drop_index(op.f("ix_model_aggregate_state_digest"), table_name="model_aggregate")
    op.drop_column("model_aggregate", "state_size")
    op.drop_column("model_aggregate", "state_digest")
    op.drop_column("model_aggregate", "state_uri")
    op.drop_column("model_update", "is_data_dropped")
    op.drop_column("model_update", "loss")
    op.drop_column("model_update", "num_steps")
    op.drop_column("federated_model", "patience")
    op.drop_column("federated_model", "score_mode")
    op.drop_column("federated_model", "score_metric")
