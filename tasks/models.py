"""Tasks about models."""

from __future__ import annotations

from celery import current_task

from connectors.records import ModelStatus
from fedqueue.messages import (
    ArtifactView,
    ClientView,
    CreateModel,
    EditModel,
    LatestModel,
    LatestView,
    ModelRef,
    ModelView,
    PublishModel,
    RegisterClient,
    names,
)
from fedqueue.messages.feed import DeletedView, DeleteProject, StatusView, UpdateStatus
from tasks.base import hint, hub_task, tell_others
from tasks.domain import deletion, models, runs
from tasks.domain.errors import RunNotBegun
from tasks.domain.views import view_artifact, view_latest, view_model
from tasks.hub import Hub

_TRIES = 6  # of a status that comes before its run


@hub_task(names.MODELS_CREATE, CreateModel)
def create(hub: Hub, message: CreateModel) -> ModelView:
    """A new model; the same message again answers the same model."""
    model = models.create_model(hub, message)
    tell_others(hub)
    return view_model(hub, model)


@hub_task(names.MODELS_EDIT, EditModel)
def edit(hub: Hub, message: EditModel) -> ModelView:
    """The model with the named fields changed; a round that is due by the new policy is looked for at once."""
    model = models.edit_model(hub, message)
    hint(hub, names.ROUNDS_AGGREGATE, {"model_id": model.id})
    return view_model(hub, model)


@hub_task(names.MODELS_PAUSE, ModelRef)
def pause(hub: Hub, message: ModelRef) -> ModelView:
    """The model, claiming no more rounds."""
    return view_model(hub, models.set_paused(hub, message.model_id, True, message.user_id))


@hub_task(names.MODELS_RESUME, ModelRef)
def resume(hub: Hub, message: ModelRef) -> ModelView:
    """The model, claiming rounds again; one that is due is looked for at once."""
    model = models.set_paused(hub, message.model_id, False, message.user_id)
    hint(hub, names.ROUNDS_AGGREGATE, {"model_id": model.id})
    return view_model(hub, model)


@hub_task(names.MODELS_REGISTER_CLIENT, RegisterClient)
def register_client(hub: Hub, message: RegisterClient) -> ClientView:
    """The client, registered with the model."""
    client_id, name = models.register_client(hub, message)
    tell_others(hub)
    return ClientView(client_id=client_id, name=name)


@hub_task(names.MODELS_PUBLISH, PublishModel)
def publish(hub: Hub, message: PublishModel) -> ArtifactView:
    """An aggregate as a version of the model."""
    artifact = models.publish_model(hub, message)
    tell_others(hub)
    return view_artifact(message.model_id, artifact)


@hub_task(names.MODELS_GET, ModelRef)
def get(hub: Hub, message: ModelRef) -> ModelView:
    """The model with its counts."""
    return view_model(hub, models.find_model(hub, message.model_id))


@hub_task(names.MODELS_LATEST, LatestModel)
def latest(hub: Hub, message: LatestModel) -> LatestView:
    """The newest model to train from."""
    return view_latest(hub, message.model_id, message.include_data)


@hub_task(names.MODELS_UPDATE_STATUS, UpdateStatus)
def update_status(hub: Hub, message: UpdateStatus) -> StatusView:
    """The status that stands, moved on if it may be; a new run's waiting updates are looked at at once."""
    change = runs.update_status(hub, message)
    if message.run_id and runs.is_of_a_run_to_come(hub, message, change) and _has_time():
        raise RunNotBegun(message.run_id, str(message.status))
    if change.changed:
        tell_others(hub)
        if change.model.status is ModelStatus.INITIATED:
            hint(hub, names.ROUNDS_AGGREGATE, {"model_id": change.model.id})
    return StatusView(
        model_id=change.model.uuid,
        status=change.model.status,
        run_id=change.model.run_id,
        changed=change.changed,
        reason=change.reason,
    )


@hub_task(names.MODELS_DELETE, ModelRef)
def delete(hub: Hub, message: ModelRef) -> DeletedView:
    """The model deleted for good; one that had been before is not counted."""
    deleted = deletion.delete_model(hub, message)
    tell_others(hub)
    return DeletedView(deleted=deleted)


@hub_task(names.MODELS_DELETE_FOR_PROJECT, DeleteProject)
def delete_for_project(hub: Hub, message: DeleteProject) -> DeletedView:
    """All of the project's models deleted that had not been before, or none."""
    deleted = deletion.delete_project(hub, message)
    tell_others(hub)
    return DeletedView(deleted=deleted)


def _has_time() -> bool:
    """Whether nobody waits for this task's answer and it has come back a few times at most, some ten seconds in all."""
    request = current_task.request
    return request.ignore_result is True and request.retries < _TRIES
