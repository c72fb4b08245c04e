"""What the limits on submissions are counted by, beside the updates themselves."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from connectors.sql.rows.base import Base, BigId

# In place of a client's id: all who submit to the model together, and those who are not registered with it.
EVERYBODY = 0
STRANGERS = -1


class SubmissionRateRow(Base):
    """How far a sender has used up its rate: one number each, which a rate limit alone writes."""

    __tablename__ = "submission_rate"

    model_id: Mapped[int] = mapped_column(BigId, ForeignKey("federated_model.id"), primary_key=True)
    # No foreign key: the two above are nobody's ids.
    sender: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    # Microseconds since 1970 by the database's clock; a minute ahead of it, the rate is used up.
    spent_until: Mapped[int]
