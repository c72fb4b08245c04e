"""What callers are shown: records turned into the wire's answers."""

from __future__ import annotations

import json
from uuid import UUID

from connectors.errors import ModelDataError
from connectors.records import DataFormat, FederatedModel, ModelArtifact, UpdateStatus
from fedqueue.messages import ArtifactView, LatestModel, LatestView, ModelView, UpdateView
from fedqueue.messages.names import INLINE_DATA_LIMIT
from tasks.domain.models import find_model
from tasks.domain.requirements import check_requirement
from tasks.domain.submission import Submission
from tasks.domain.uploads import sign_download
from tasks.hub import Hub


def view_model(hub: Hub, model: FederatedModel) -> ModelView:
    """The model with its counts."""
    name, arguments = check_requirement(*hub.metadata.pull_model_requirements(model))
    counts = hub.metadata.count_model_updates(model)
    return ModelView(
        model_id=model.uuid,
        name=model.name,
        description=model.description,
        aggregator=model.aggregator,
        aggregator_params=dict(model.aggregator_params),
        requirement=name,
        requirement_args=arguments,
        furthest_base_agg=model.furthest_base_agg,
        allow_repeats=model.allow_repeats,
        max_rounds=model.max_rounds,
        score_metric=model.score_metric,
        score_mode=model.score_mode,
        patience=model.patience,
        silence_timeout=model.silence_timeout,
        best_aggregate=model.best_aggregate_id,
        data_format=model.data_format,
        status=model.status,
        allow_aggregation=model.allow_aggregation,
        aggregates=model.head,
        clients=len(hub.metadata.pull_model_clients(model)),
        updates={str(status): counts[status] for status in UpdateStatus},
        # The initial model is an artifact, too, and none that anybody has published.
        published=[
            view_artifact(model.uuid, artifact)
            for artifact in hub.metadata.pull_model_artifacts(model)
            if artifact.aggregate_id is not None
        ],
        created_at=model.created_at,
    )


def view_update(submission: Submission) -> UpdateView:
    """What became of the submission, as it stands now."""
    update = submission.update
    return UpdateView(
        update_id=update.id,
        submission_id=update.submission_id,
        status=update.status,
        reason_code=update.reason_code,
        reason=update.reason,
        repeated=submission.repeated,
    )


def view_artifact(model_id: UUID, artifact: ModelArtifact) -> ArtifactView:
    """A published version."""
    return ArtifactView(
        model_id=model_id,
        version=artifact.version,
        aggregate_id=artifact.aggregate_id,
        uri=artifact.data.uri,
        digest=artifact.data.digest,
    )


def view_latest(hub: Hub, message: LatestModel) -> LatestView:
    """The newest aggregate, else the initial artifact, else where the model stands without either.

    Raises: UnknownModel, NoSignedUrls.
    """
    model = find_model(hub, message.model_id)
    aggregate = hub.metadata.pull_latest_model_aggregate(model)
    artifact = None if aggregate is not None else hub.metadata.pull_model_artifact(model, "initial")
    source = aggregate or artifact
    view = LatestView(model_id=model.uuid, number=0, data_format=model.data_format, status=model.status)
    if source is None:
        return view
    data = None
    if message.include_data and model.data_format is DataFormat.JSON:
        try:
            data = json.loads(hub.model_data.pull_bytes(source.data, INLINE_DATA_LIMIT))
        except ModelDataError:
            data = None  # too large to travel: the uri tells where it is
    found = {"uri": source.data.uri, "digest": source.data.digest, "data": data}
    if message.include_download_url:
        found["download_url"] = sign_download(hub, source.data)
    if aggregate is not None:
        found |= {
            "number": aggregate.number,
            "aggregate_id": aggregate.id,
            "parent_id": aggregate.parent_id,
            "num_updates": aggregate.num_updates,
            "num_examples": aggregate.num_examples,
        }
    return view.model_copy(update=found)
