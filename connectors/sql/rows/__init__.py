"""The schema, declared. CHECK constraints hold the states (DESIGN 4); the migrations are tested to equal this."""

from connectors.sql.rows.base import Base
from connectors.sql.rows.delivery import DeadLetterRow, OutboxRow
from connectors.sql.rows.federated import (
    ClientAggregateScoreRow,
    ClientRow,
    FederatedModelRow,
    ModelAggregateRow,
    ModelArtifactRow,
    ModelClientRow,
    ModelUpdateRow,
    RoundRow,
)
from connectors.sql.rows.fma import FmaModelRow, FmaRefusedRow
from connectors.sql.rows.limits import SubmissionRateRow
from connectors.sql.rows.schema import SchemaStepRow
from connectors.sql.rows.service import (
    AuditRow,
    FLKitSlotRow,
    LogRow,
    MetricRow,
    ModelRunRow,
    ModelTrustRow,
    TrustRow,
)

__all__ = [
    "AuditRow",
    "Base",
    "ClientAggregateScoreRow",
    "ClientRow",
    "DeadLetterRow",
    "FLKitSlotRow",
    "FederatedModelRow",
    "FmaModelRow",
    "FmaRefusedRow",
    "LogRow",
    "MetricRow",
    "ModelAggregateRow",
    "ModelArtifactRow",
    "ModelClientRow",
    "ModelRunRow",
    "ModelTrustRow",
    "ModelUpdateRow",
    "OutboxRow",
    "RoundRow",
    "SchemaStepRow",
    "SubmissionRateRow",
    "TrustRow",
]
