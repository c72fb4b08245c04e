"""What is remembered of an FMA deployment: each model's policy as last seen, and rows that can't be taken over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
oldest_code = "0001"

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
LONG_TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    """Add two tables: workers of the version before leave them alone."""
    op.create_table(
        "fma_model",
        sa.Column("model_id", BIG_ID, nullable=False),
        sa.Column("seen", JSON, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["federated_model.id"], name=op.f("fk_fma_model_model_id")),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_fma_model")),
    )
    op.create_table(
        "fma_refused",
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("row_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("reason", LONG_TEXT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("kind", "row_id", name=op.f("pk_fma_refused")),
    )


def downgrade() -> None:
    """Take them away: the hub's word counts for every policy then, until it is seen again."""
    op.drop_table("fma_refused")
    op.drop_table("fma_model")
