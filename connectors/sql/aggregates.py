"""Aggregates, published artifacts and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, select, update

from connectors.errors import AlreadyExists, ClaimLost
from connectors.records import (
    AggregateResult,
    Claim,
    Client,
    ClientAggregateScore,
    FederatedModel,
    ModelAggregate,
    ModelArtifact,
)
from connectors.sql.claims import Claims
from connectors.sql.mapping import to_aggregate, to_artifact, to_score
from connectors.sql.rows import (
    ClientAggregateScoreRow,
    ModelAggregateRow,
    ModelArtifactRow,
    ModelUpdateRow,
)


class Aggregates(Claims):
    """The connector's part for what rounds bring forth."""

    def pull_latest_model_aggregate(self, model: FederatedModel) -> ModelAggregate | None:
        statement = select(ModelAggregateRow).where(ModelAggregateRow.model_id == model.id)
        row = self._first(statement.order_by(ModelAggregateRow.number.desc()).limit(1))
        return None if row is None else to_aggregate(row)

    def pull_model_aggregate(self, aggregate_id: int) -> ModelAggregate | None:
        row = self._first(select(ModelAggregateRow).where(ModelAggregateRow.id == aggregate_id))
        return None if row is None else to_aggregate(row)

    def pull_model_aggregates(
        self, model: FederatedModel, *, after_number: int = 0, limit: int = 100
    ) -> list[ModelAggregate]:
        statement = select(ModelAggregateRow).where(
            ModelAggregateRow.model_id == model.id, ModelAggregateRow.number > after_number
        )
        return [to_aggregate(row) for row in self._all(statement.order_by(ModelAggregateRow.number).limit(limit))]

    def post_new_model_aggregate(
        self,
        model: FederatedModel,
        parent_agg: ModelAggregate | None,
        results: AggregateResult,
        *,
        claim: Claim | None = None,
    ) -> ModelAggregate:
        self._session("post_new_model_aggregate")
        claim = claim or self._claim_of(model.id)
        head = 0 if parent_agg is None else parent_agg.number
        # Whoever holds an older fence, or expects another head, posts nothing; nor does anybody under a deleted model.
        self._fenced(claim, "the post", expected_head=head, head=head + 1, lease_until=None)
        row = ModelAggregateRow(
            model_id=model.id,
            number=head + 1,
            parent_id=None if parent_agg is None else parent_agg.id,
            data_uri=results.data.uri,
            data_digest=results.data.digest,
            data_size=results.data.size_bytes,
            num_updates=results.num_updates,
            num_examples=results.num_examples,
            manifest=dict(results.manifest),
            state_uri=None if results.state is None else results.state.uri,
            state_digest=None if results.state is None else results.state.digest,
            state_size=None if results.state is None else results.state.size_bytes,
        )
        if self._added("post_new_model_aggregate", row) is None:
            raise ClaimLost(claim, "the post: the chain has that link already")
        return to_aggregate(row)

    def add_model_artifact(self, artifact: ModelArtifact) -> ModelArtifact:
        row = ModelArtifactRow(
            model_id=artifact.model_id,
            version=artifact.version,
            aggregate_id=artifact.aggregate_id,
            data_uri=artifact.data.uri,
            data_digest=artifact.data.digest,
            data_size=artifact.data.size_bytes,
        )
        if self._added("add_model_artifact", row) is None:
            raise AlreadyExists("version", artifact.version)
        return to_artifact(row)

    def pull_model_artifacts(self, model: FederatedModel) -> list[ModelArtifact]:
        statement = select(ModelArtifactRow).where(ModelArtifactRow.model_id == model.id)
        return [to_artifact(row) for row in self._all(statement.order_by(ModelArtifactRow.id))]

    def pull_model_artifact(self, model: FederatedModel, version: str | None = None) -> ModelArtifact | None:
        statement = select(ModelArtifactRow).where(ModelArtifactRow.model_id == model.id)
        if version is not None:
            statement = statement.where(ModelArtifactRow.version == version)
        row = self._first(statement.order_by(ModelArtifactRow.id.desc()).limit(1))
        return None if row is None else to_artifact(row)

    def post_client_aggregate_score(
        self,
        aggregate: ModelAggregate,
        client: Client,
        validation_results: Mapping[str, Any],
        num_examples: float = 1.0,
    ) -> ClientAggregateScore:
        session = self._session("post_client_aggregate_score")
        found = self._first(
            select(ClientAggregateScoreRow).where(
                ClientAggregateScoreRow.aggregate_id == aggregate.id,
                ClientAggregateScoreRow.client_id == client.id,
            )
        )
        if found is not None:
            found.validation_results = dict(validation_results)
            found.num_examples = num_examples
            session.flush()
            return to_score(found)
        row = ClientAggregateScoreRow(
            aggregate_id=aggregate.id,
            client_id=client.id,
            validation_results=dict(validation_results),
            num_examples=num_examples,
        )
        if self._added("post_client_aggregate_score", row) is None:
            return self.post_client_aggregate_score(aggregate, client, validation_results, num_examples)
        return to_score(row)

    def pull_client_aggregate_scores(self, aggregate: ModelAggregate) -> list[ClientAggregateScore]:
        statement = select(ClientAggregateScoreRow).where(ClientAggregateScoreRow.aggregate_id == aggregate.id)
        return [to_score(row) for row in self._all(statement.order_by(ClientAggregateScoreRow.id))]

    def pull_named_digests(self, digests: Sequence[str]) -> set[str]:
        wanted = list(digests)
        updates, aggregates, artifacts = ModelUpdateRow, ModelAggregateRow, ModelArtifactRow
        named: set[str] = set()
        with self._reading() as session:
            for statement in (
                select(updates.data_digest).where(updates.data_digest.in_(wanted), updates.is_data_dropped.is_(False)),
                select(aggregates.data_digest).where(aggregates.data_digest.in_(wanted)),
                select(aggregates.state_digest).where(aggregates.state_digest.in_(wanted)),
                select(artifacts.data_digest).where(artifacts.data_digest.in_(wanted)),
            ):
                named.update(digest for digest in session.scalars(statement) if digest is not None)
        return named

    def pull_newest_digests(self, count: int = 5) -> list[str]:
        updates, aggregates, artifacts = ModelUpdateRow, ModelAggregateRow, ModelArtifactRow
        is_kept = and_(updates.data_digest.is_not(None), updates.is_data_dropped.is_(False))
        with self._reading() as session:
            return [
                digest
                for statement in (
                    select(updates.data_digest).where(is_kept).order_by(updates.id.desc()),
                    select(aggregates.data_digest).order_by(aggregates.id.desc()),
                    select(artifacts.data_digest).order_by(artifacts.id.desc()),
                )
                for digest in session.scalars(statement.limit(count))
                if digest is not None
            ]

    def register_validation_score(self, aggregate: ModelAggregate, validation_score: float | None) -> None:
        self._changed(
            "register_validation_score",
            update(ModelAggregateRow)
            .where(ModelAggregateRow.id == aggregate.id)
            .values(validation_score=validation_score),
        )
