"""What the hub writes, written into FMA's tables as well: in the same transaction, and under the same id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Table, case, func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from connectors.django.errors import NoDeveloper, PathNotServed
from connectors.django.media import as_media, path_in
from connectors.django.policy import bring_together, insert_model, pause_schedules, policy_of_model, remember
from connectors.django.tables import (
    AGGREGATES,
    ARTIFACTS,
    CLIENTS,
    LONGEST_PATH,
    MODELS,
    REGISTRATIONS,
    SCORES,
    STATUS_NUMBERS,
    UPDATES,
    USERS,
)
from connectors.django.tree import add_node, lock_tree
from connectors.errors import ClaimLost
from connectors.records import (
    AggregateResult,
    Claim,
    Client,
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    ModelUpdate,
    ReasonCode,
    UpdateStatus,
)
from connectors.sql.connector import SqlAlchemyMetadataConnector
from connectors.sql.rows import (
    Base,
    ClientAggregateScoreRow,
    ClientRow,
    FederatedModelRow,
    ModelAggregateRow,
    ModelArtifactRow,
    ModelClientRow,
    ModelUpdateRow,
)
from connectors.sql.rows.base import now

# Rows whose ids are FMA's. A client has none there but its UUID.
_SAME_ID: Final = (FederatedModelRow, ModelUpdateRow, ModelAggregateRow, ModelArtifactRow, ClientAggregateScoreRow)

_STATUS: Final = (
    select(case(*((ModelUpdateRow.status == status, number) for status, number in STATUS_NUMBERS.items())))
    .where(ModelUpdateRow.id == UPDATES.c.id)
    .scalar_subquery()
)
_APPLIED: Final = select(ModelUpdateRow.applied_aggregate_id).where(ModelUpdateRow.id == UPDATES.c.id).scalar_subquery()


class Beside(SqlAlchemyMetadataConnector):
    """The SQL connector, with FMA's tables beside the hub's."""

    def __init__(self, url: str, *, media: str | Path, pool_size: int = 5, pool_timeout: float = 30.0) -> None:
        """`media`: the deployment's media folder, a path or a URL, also a bucket's; the hub's store lies in it."""
        super().__init__(url, pool_size=pool_size, pool_timeout=pool_timeout)
        self._media = as_media(media)

    # --- models -----------------------------------------------------------------------------------

    def add_federated_model(self, model: FederatedModel) -> FederatedModel:
        added = super().add_federated_model(model)
        remember(self._session("add_federated_model"), added.id, policy_of_model(added))
        return added

    def lock_model(self, model: FederatedModel) -> FederatedModel:
        """The model as it stands on both sides, its row locked until the transaction ends."""
        locked = super().lock_model(model)
        taken = bring_together(self._session("lock_model"), locked)
        # What is taken over was seen by both: the change comes back here, and finds nothing more to do.
        return super().change_federated_model(locked, taken) if taken else locked

    def delete_federated_models(self, models: Sequence[FederatedModel], user_id: str | None = None) -> int:
        """Delete them for the hub, and have FMA, which knows no deleted models, show them as paused."""
        deleted = super().delete_federated_models(models, user_id)
        pause_schedules(self._session("delete_federated_models"), [model.id for model in models])
        return deleted

    # --- updates: each transition with FMA's number for it ------------------------------------------

    def register_model_updates_for_aggregation(
        self, model_updates: Sequence[ModelUpdate], *, claim: Claim | None = None
    ) -> list[ModelUpdate]:
        taken = super().register_model_updates_for_aggregation(model_updates, claim=claim)
        self._mirror(found.id for found in taken)
        return taken

    def register_model_update_used_in_aggregate(
        self, model_updates: Sequence[ModelUpdate], aggregate: ModelAggregate
    ) -> None:
        super().register_model_update_used_in_aggregate(model_updates, aggregate)
        self._mirror(found.id for found in model_updates)

    def register_model_updates_invalid(
        self, model_updates: Sequence[ModelUpdate], reason_code: ReasonCode, reason: str
    ) -> None:
        super().register_model_updates_invalid(model_updates, reason_code, reason)
        self._mirror(found.id for found in model_updates)

    def requeue_model_updates(self, model_updates: Sequence[ModelUpdate]) -> None:
        super().requeue_model_updates(model_updates)
        self._mirror(found.id for found in model_updates)

    def return_model_updates(
        self,
        model_updates: Sequence[ModelUpdate],
        *,
        status: UpdateStatus,
        rest_ms: Mapping[int, int] | None = None,
        suspect_groups: Mapping[int, int | None] | None = None,
        attempts: Mapping[int, int] | None = None,
    ) -> None:
        super().return_model_updates(
            model_updates, status=status, rest_ms=rest_ms, suspect_groups=suspect_groups, attempts=attempts
        )
        self._mirror(found.id for found in model_updates)

    # --- aggregates and scores --------------------------------------------------------------------

    def post_new_model_aggregate(
        self,
        model: FederatedModel,
        parent_agg: ModelAggregate | None,
        results: AggregateResult,
        *,
        claim: Claim | None = None,
    ) -> ModelAggregate:
        """The new aggregate, as a child in FMA's tree, too.

        Raises: ClaimLost, also where FMA's own service has written one that the hub has not taken over yet.
        """
        session = self._session("post_new_model_aggregate")
        claim = claim or self._claim_of(model.id)
        self.lock_model(model)  # before the tree, as everybody does
        lock_tree(session)
        stranger = session.scalar(
            select(func.min(AGGREGATES.c.id))
            .outerjoin(ModelAggregateRow, ModelAggregateRow.id == AGGREGATES.c.id)
            .where(AGGREGATES.c.federated_model_id == model.id, ModelAggregateRow.id.is_(None))
        )
        if stranger is not None:
            raise ClaimLost(claim, f"the post: FMA's own service has written aggregate {stranger}")
        return super().post_new_model_aggregate(model, parent_agg, results, claim=claim)

    def post_client_aggregate_score(
        self,
        aggregate: ModelAggregate,
        client: Client,
        validation_results: Mapping[str, Any],
        num_examples: float = 1.0,
    ) -> ClientAggregateScore:
        score = super().post_client_aggregate_score(aggregate, client, validation_results, num_examples)
        statement = update(SCORES).where(SCORES.c.id == score.id).values(validation_results=dict(validation_results))
        self._changed("post_client_aggregate_score", statement)
        return score

    def register_validation_score(self, aggregate: ModelAggregate, validation_score: float | None) -> None:
        super().register_validation_score(aggregate, validation_score)
        statement = update(AGGREGATES).where(AGGREGATES.c.id == aggregate.id)
        self._changed("register_validation_score", statement.values(validation_score=validation_score))

    # --- FMA's rows -------------------------------------------------------------------------------

    def _place_beside(self, session: Session, row: Base) -> None:
        """FMA's row of a new one of the hub's, and its id; one that has an id already is of FMA's making."""
        if isinstance(row, ClientRow):
            _insert_once(session, CLIENTS, uuid=row.uuid)
        elif isinstance(row, ModelClientRow):
            uuid = _uuid_of(session, row.client_id)
            _insert_once(session, REGISTRATIONS, federatedmodel_id=row.model_id, client_id=uuid)
        elif isinstance(row, _SAME_ID) and not row.id:
            row.id = self._theirs(session, row)

    def _theirs(self, session: Session, row: Base) -> int:
        if isinstance(row, FederatedModelRow):
            return insert_model(session, vars(row), _developer(session, row.user_id))
        if isinstance(row, ModelUpdateRow):
            return self._insert_theirs_of_update(session, row)
        if isinstance(row, ModelAggregateRow):
            return add_node(session, row.model_id, row.parent_id, self._path(row.data_uri))
        if isinstance(row, ModelArtifactRow):
            return self._insert_theirs_of_artifact(session, row)
        assert isinstance(row, ClientAggregateScoreRow)
        return _insert_score(session, row)

    def _insert_theirs_of_update(self, session: Session, row: ModelUpdateRow) -> int:
        if row.client_id is None or row.data_uri is None:
            # FMA's row would need a client and a file; and a client's id is its password there.
            return _take_number(session, UPDATES)
        statement = insert(UPDATES).values(
            data=self._path(row.data_uri),
            status=STATUS_NUMBERS[UpdateStatus(row.status)],
            created_on=now(),
            base_aggregate_id=row.base_aggregate_id,
            client_id=row.client_uuid,
            federated_model_id=row.model_id,
        )
        update_id: int = session.execute(statement.returning(UPDATES.c.id)).scalar_one()
        return update_id

    def _insert_theirs_of_artifact(self, session: Session, row: ModelArtifactRow) -> int:
        statement = insert(ARTIFACTS).values(
            # A dictionary: FMA calls a column `values`.
            {
                "values": self._path(row.data_uri),
                "version": row.version,
                "created_on": now(),
                "federated_model_id": row.model_id,
            }
        )
        artifact_id: int = session.execute(statement.returning(ARTIFACTS.c.id)).scalar_one()
        model = update(MODELS).where(MODELS.c.id == row.model_id)
        session.execute(model.values(current_artifact_id=artifact_id, last_modified=now()))
        return artifact_id

    def _path(self, uri: str) -> str:
        """The file's path as FMA's rows have it. Raises: PathNotServed."""
        try:
            path = path_in(self._media, uri)
        except ValueError as error:
            raise PathNotServed(uri, str(self._media), "it does not lie in the media folder") from error
        if len(path) > LONGEST_PATH:
            raise PathNotServed(uri, str(self._media), f"its path there is longer than {LONGEST_PATH} characters")
        return path

    def _mirror(self, update_ids: Iterable[int]) -> None:
        """Have FMA's rows say of these updates what the hub's say."""
        statement = update(UPDATES).where(UPDATES.c.id.in_(list(update_ids)))
        self._changed("a transition", statement.values(status=_STATUS, applied_aggregate_id=_APPLIED))


def _insert_once(session: Session, table: Table, **values: Any) -> None:
    """Insert the row unless there is one: FMA's API may add the same in this moment."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    session.execute(dialect.insert(table).values(**values).on_conflict_do_nothing())


def _insert_score(session: Session, row: ClientAggregateScoreRow) -> int:
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(SCORES).values(
        validation_results=row.validation_results,
        created_on=now(),
        aggregate_id=row.aggregate_id,
        client_id=_uuid_of(session, row.client_id),
    )
    # The client may have sent it by FMA's API meanwhile, which the hub has not taken over yet.
    newer = statement.on_conflict_do_update(
        index_elements=[SCORES.c.aggregate_id, SCORES.c.client_id],
        set_={"validation_results": statement.excluded.validation_results},
    )
    score_id: int = session.execute(newer.returning(SCORES.c.id)).scalar_one()
    return score_id


def _uuid_of(session: Session, client_id: int) -> UUID:
    uuid = session.scalar(select(ClientRow.uuid).where(ClientRow.id == client_id))
    assert uuid is not None, f"client {client_id} has no row: rows of clients are never removed"
    return uuid


def _developer(session: Session, user_id: str | None) -> int:
    """The user of that name, else the deployment's first superuser: every model of FMA's is somebody's."""
    is_named = USERS.c.username == (user_id or "")
    statement = select(USERS.c.id).where(USERS.c.is_active, is_named | USERS.c.is_superuser)
    found: int | None = session.scalar(statement.order_by(is_named.desc(), USERS.c.id).limit(1))
    if found is None:
        raise NoDeveloper(user_id)
    return found


def _take_number(session: Session, table: Table) -> int:
    """An id of FMA's that no row of its will have."""
    if session.get_bind().dialect.name == "postgresql":
        sequence = text("SELECT nextval(pg_get_serial_sequence(:table, 'id'))")
        return int(session.execute(sequence, {"table": f'"{table.name}"'}).scalar_one())
    named = {"table": table.name}
    counted = text("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = :table RETURNING seq")
    taken = session.execute(counted, named).scalar()
    if taken is None:  # no row was ever inserted
        session.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:table, 1)"), named)
        return 1
    return int(taken)
