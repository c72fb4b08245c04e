"""How far a model and each of its senders have used up the rate at which they may submit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
oldest_code = "0001"

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add a table: workers of the version before know no limits, and leave it alone."""
    op.create_table(
        "submission_rate",
        sa.Column("model_id", BIG_ID, nullable=False),
        sa.Column("sender", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("spent_until", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["federated_model.id"], name=op.f("fk_submission_rate_model_id")),
        sa.PrimaryKeyConstraint("model_id", "sender", name=op.f("pk_submission_rate")),
    )


def downgrade() -> None:
    """Take it away: every rate begins anew."""
    op.drop_table("submission_rate")
