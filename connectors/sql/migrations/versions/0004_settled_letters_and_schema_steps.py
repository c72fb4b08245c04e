"""What became of a dead letter, and the oldest code that may work on the schema after each step."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
oldest_code = "0001"

MOMENT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
TEXT = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    """Add a table, and columns that may be empty: workers of the version before go on writing rows."""
    op.create_table(
        "schema_step",
        sa.Column("revision", sa.String(length=32), nullable=False),
        sa.Column("oldest_code", sa.String(length=32), nullable=False),
        sa.Column("applied_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_schema_step")),
    )
    # SQLite copies the table, which no other one points at.
    with op.batch_alter_table("dead_letter") as letters:
        letters.add_column(sa.Column("outcome", sa.String(length=20), nullable=True))
        letters.add_column(sa.Column("settled_at", MOMENT, nullable=True))
        letters.add_column(sa.Column("settled_by", sa.String(length=200), nullable=True))
        letters.add_column(sa.Column("settled_reason", TEXT, nullable=True))
        letters.create_check_constraint(
            op.f("ck_dead_letter_outcome"), "outcome IS NULL OR outcome IN ('REQUEUED', 'DISCARDED')"
        )
        letters.create_check_constraint(op.f("ck_dead_letter_settled"), "(outcome IS NULL) = (settled_at IS NULL)")


def downgrade() -> None:
    """Take them away: what became of the letters is forgotten, and all of them are open again."""
    with op.batch_alter_table("dead_letter") as letters:
        letters.drop_constraint(op.f("ck_dead_letter_settled"), type_="check")
        letters.drop_constraint(op.f("ck_dead_letter_outcome"), type_="check")
        letters.drop_column("settled_reason")
        letters.drop_column("settled_by")
        letters.drop_column("settled_at")
        letters.drop_column("outcome")
    op.drop_table("schema_step")
