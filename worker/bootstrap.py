"""The composition root: which connectors and which Celery application the settings ask for."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from celery import Celery

from config.celery import CONTROL_QUEUE, EVENTS_QUEUE, celery_settings
from config.errors import ConfigurationError
from config.settings import Settings
from connectors.broker.redis_transport import take_safely_from_redis
from connectors.metadata import BaseMetadataConnector
from connectors.model_data import BaseModelDataConnector
from fedqueue.buckets import is_bucket
from fedqueue.gate import close_side_doors
from fedqueue.signing import BindingAMQP, Signer, SigningFailed, SigningFiles
from tasks.draining import Drain
from tasks.hub import Hub

if TYPE_CHECKING:
    from connectors.sql.connector import SqlAlchemyMetadataConnector

TASK_MODULES: Final = (
    "tasks.models",
    "tasks.updates",
    "tasks.rounds",
    "tasks.scores",
    "tasks.trusts",
    "tasks.events",
    "tasks.feed",
    "tasks.feed_reading",
    "tasks.maintenance",
    "worker.canary",
)


class HubCelery(Celery):
    """The application, with this process's hub."""

    task_cls = "worker.cancelling:HubTask"

    def __init__(self, settings: Settings, *, current: bool = False) -> None:
        """Raises: ConfigurationError for a signing key or certificate that can't be used."""
        take_safely_from_redis()
        self.signer = build_signer(settings)
        close_side_doors(is_signed=self.signer is not None)
        if self.signer is not None:
            self.signer.register()
        super().__init__(
            "fedqueue",
            set_as_current=current,
            include=TASK_MODULES,
            fixups=[],
            amqp=None if self.signer is None else BindingAMQP,
        )
        self.config_from_object(celery_settings(settings))
        self.settings = settings
        self._hub: Hub | None = None
        self._hub_pid = 0

    @property
    def hub(self) -> Hub:
        """This process's hub, built when first asked for: a connection must never cross a fork."""
        if self._hub is None or self._hub_pid != os.getpid():
            inherited, self._hub, self._hub_pid = self._hub, None, os.getpid()
            if inherited is not None:
                inherited.metadata.forget_connections()
            self._hub = build_hub(self.settings, self)
        return self._hub

    def close_hub(self) -> None:
        """Let go of this process's connections; the next use of `hub` opens new ones."""
        hub, self._hub = self._hub, None
        if hub is None:
            return
        if self._hub_pid == os.getpid():
            hub.metadata.close()
            if hub.events is not None:
                hub.events.close()
        else:
            hub.metadata.forget_connections()


def build_signer(settings: Settings) -> Signer | None:
    """What signs and opens the hub's messages; None if they are not signed. Raises: ConfigurationError."""
    key, certificate = settings.signing_key, settings.signing_certificate
    if key is None or certificate is None or settings.signing_trusted_certificates is None:
        return None
    files = SigningFiles(key, certificate, settings.signing_trusted_certificates)
    try:
        return Signer(files, believes_itself=True)
    except SigningFailed as error:
        raise ConfigurationError([f"FEDQUEUE_SIGNING_*: {error}"]) from error


def build_hub(settings: Settings, app: HubCelery) -> Hub:
    """The connectors that the settings name, and a way to send follow-ups through `app`."""

    def send(task: str, message: Mapping[str, Any], queue: str | None) -> None:
        app.send_task(
            task,
            args=[dict(message)],
            ignore_result=True,
            **({} if queue is None else {"queue": queue}),
        )

    metadata = build_metadata(settings)
    return Hub(
        settings=settings,
        metadata=metadata,
        model_data=build_model_data(settings, metadata),
        send=send,
        worker=f"{os.getpid()}@{socket.gethostname()}",
        events=Drain(app.connection_for_write, EVENTS_QUEUE, CONTROL_QUEUE, signer=app.signer),
    )


def build_metadata(settings: Settings) -> SqlAlchemyMetadataConnector:
    """The metadata connector, connected lazily."""
    if settings.fma_media is not None:
        from connectors.django.connector import DjangoMetadataConnector

        return DjangoMetadataConnector(
            settings.database_url,
            media=settings.fma_media,
            migrate_command=settings.fma_migrate_command,
            pool_size=settings.database_pool_size,
        )
    from connectors.sql.connector import SqlAlchemyMetadataConnector

    if settings.database_url.startswith("sqlite"):
        settings.home.mkdir(parents=True, exist_ok=True)
    return SqlAlchemyMetadataConnector(settings.database_url, pool_size=settings.database_pool_size)


def build_model_data(
    settings: Settings, metadata: BaseMetadataConnector, *, outside: Sequence[str | Path] = ()
) -> BaseModelDataConnector:
    """The model data connector; `outside`: more folders and buckets that data is taken in from.

    What the metadata connector knows of tells a store that is away from a new one.
    """
    from connectors.storage.limits import Limits

    limits = Limits(
        max_bytes=int(settings.max_update_bytes),
        max_tensors=settings.max_tensors,
        max_header_bytes=int(settings.max_header_bytes),
        max_json_bytes=int(settings.max_json_bytes),
        max_unpacked_ratio=settings.max_unpacked_ratio,
        ratio_free_bytes=int(settings.ratio_free_bytes),
    )
    # What FMA's API has stored is read there, and copied into the store like any other submission.
    media = () if settings.fma_media is None else (settings.fma_media,)
    outside_roots = (*settings.store_outside_roots, *settings.store_outside_urls, *media, *outside)
    if is_bucket(settings.store_url):
        from connectors.storage.object_connector import ObjectModelDataConnector

        return ObjectModelDataConnector(
            settings.store_url,
            cache=settings.cache_folder,
            cache_bytes=int(settings.cache_bytes),
            outside_roots=outside_roots,
            limits=limits,
            named=metadata.pull_newest_digests,
        )
    from connectors.storage.file_connector import FileModelDataConnector

    return FileModelDataConnector(
        settings.store_url,
        outside_roots=outside_roots,
        limits=limits,
        named=metadata.pull_newest_digests,
    )
