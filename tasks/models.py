"""Tasks about models."""

from __future__ import annotations

from collections.abc import Sequence

from celery import current_task

from connectors.records import ModelStatus, StatusChange
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
    SignUpload,
    UploadView,
    names,
)
from fedqueue.messages.feed import DeletedView, DeleteProject, StatusesView, StatusView, UpdateStatus, UpdateStatuses
from tasks.base import hint, hub_task, tell_others
from tasks.domain import deletion, models, runs, uploads
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


@hub_task(names.MODELS_GET, ModelRef, asks=True)
def get(hub: Hub, message: ModelRef) -> ModelView:
    """The model with its counts."""
    return view_model(hub, models.find_model(hub, message.model_id))


@hub_task(names.MODELS_LATEST, LatestModel, asks=True)
def latest(hub: Hub, message: LatestModel) -> LatestView:
    """The newest model to train from."""
    return view_latest(hub, message)


@hub_task(names.MODELS_UPLOAD_URL, SignUpload, asks=True)
def upload_url(hub: Hub, message: SignUpload) -> UploadView:
    """Where a client without credentials may put model data."""
    return uploads.sign_upload(hub, message)


@hub_task(names.MODELS_UPDATE_STATUS, UpdateStatus)
def update_status(hub: Hub, message: UpdateStatus) -> StatusView:
    """The status that stands, moved on if it may be; a new run's waiting updates are looked at at once."""
    change = runs.update_status(hub, message)
    if runs.is_of_a_run_to_come(hub, message, change) and _has_time():
        raise _not_begun(message)
    _follow_up(hub, [change])
    return _view_status(change)


@hub_task(names.MODELS_UPDATE_STATUSES, UpdateStatuses)
def update_statuses(hub: Hub, message: UpdateStatuses) -> StatusesView:
    """Several statuses, in their order and in one transaction; one that is refused spoils no other."""
    carried = runs.update_statuses(hub, message, may_wait=_has_time())
    _follow_up(hub, [change for change in carried.changes if change is not None])
    if carried.awaits is not None:
        raise _not_begun(carried.awaits)
    views = [None if change is None else _view_status(change) for change in carried.changes]
    return StatusesView(statuses=views, refused=carried.refused)


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


def _follow_up(hub: Hub, changes: Sequence[StatusChange]) -> None:
    """Send what the changes led to, now that they are committed."""
    if any(change.changed for change in changes):
        tell_others(hub)
    for model_id in {c.model.id: None for c in changes if c.changed and c.model.status is ModelStatus.INITIATED}:
        hint(hub, names.ROUNDS_AGGREGATE, {"model_id": model_id})


def _view_status(change: StatusChange) -> StatusView:
    return StatusView(
        model_id=change.model.uuid,
        status=change.model.status,
        run_id=change.model.run_id,
        changed=change.changed,
        reason=change.reason,
    )


def _not_begun(message: UpdateStatus) -> RunNotBegun:
    assert message.run_id is not None
    return RunNotBegun(message.run_id, str(message.status))


def _has_time() -> bool:
    """Whether nobody waits for this task's answer and it has come back a few times at most, some ten seconds in all."""
    request = current_task.request
    return request.ignore_result is True and request.retries < _TRIES
