"""The command line's edge: what people can put right is one readable line and exit code 2, never a traceback."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from config.errors import ConfigurationError
from config.loading import load_settings
from config.secrets import masked
from config.settings import Settings

if TYPE_CHECKING:
    from connectors.metadata import BaseMetadataConnector
    from connectors.records import FederatedModel
    from tasks.hub import Hub

EXIT_USAGE = 2


@contextmanager
def readable_errors() -> Iterator[None]:
    """End the process with code 2 and the reason for every error that its user can put right."""
    from connectors.errors import ConnectorError
    from worker.errors import ProcessError

    try:
        yield
    except ConfigurationError as error:
        fail("the configuration can't be used:\n" + "\n".join(f"  {problem}" for problem in error.problems))
    except (ConnectorError, ProcessError) as error:
        fail(str(error))


def fail(reason: str) -> NoReturn:
    """Say why, and end with code 2."""
    sys.stderr.write(f"error: {masked(reason)}\n")
    raise SystemExit(EXIT_USAGE)


def settings_or_exit() -> Settings:
    """The settings, or the end with what is wrong with them."""
    with readable_errors():
        return load_settings()


@contextmanager
def hub_metadata(*, with_plugins: bool = False) -> Iterator[BaseMetadataConnector]:
    """The hub's metadata, looked at first; an error that can be put right ends the process with its reason.

    `with_plugins`: for commands that judge by the policies of models, which may name what only a plugin knows.
    """
    settings = settings_or_exit()
    from worker.bootstrap import build_metadata
    from worker.plugins import load_plugins

    with readable_errors():
        if with_plugins:
            load_plugins(settings)
        metadata = build_metadata(settings)
        try:
            metadata.check()
            yield metadata
        finally:
            metadata.close()


def model_named(metadata: BaseMetadataConnector, named: str) -> FederatedModel:
    """The model of that id or UUID, deleted ones included; the end of the process with the reason if there is none."""
    from connectors.model_ids import read_model_id

    wanted = read_model_id(named)
    if wanted is None:
        fail(f"{named!r} is neither a model's id nor a UUID")
    model = metadata.pull_federated_model_w_id(wanted)
    if model is None:
        fail(f"there is no model {named}: `python -m worker models` lists them")
    return model


@contextmanager
def command_hub(*, outside: Sequence[str | Path] = ()) -> Iterator[Hub]:
    """The whole hub, for commands that change something. What it refuses ends the process with the reason.

    `outside`: more folders and buckets that data is taken in from.

    It sends nothing: what a command has noted for others is sent by the next sweep.
    """
    settings = settings_or_exit()
    from tasks.domain.errors import Refused
    from tasks.hub import Hub
    from worker.bootstrap import build_metadata, build_model_data
    from worker.plugins import load_plugins

    with readable_errors(), _only_warnings_logged():
        load_plugins(settings)
        metadata = build_metadata(settings)
        try:
            metadata.check()
            model_data = build_model_data(settings, metadata, outside=outside)
            yield Hub(settings, metadata, model_data, send=lambda *_: None, worker="command line")
        except Refused as refused:
            fail(refused.reason)
        finally:
            metadata.close()


@contextmanager
def sending_hub() -> Iterator[Hub]:
    """The whole hub, for commands that send. A broker that is away ends the process with the reason."""
    settings = settings_or_exit()
    from kombu.exceptions import OperationalError

    from worker.bootstrap import HubCelery
    from worker.health import broker_trouble

    with readable_errors(), _only_warnings_logged(), HubCelery(settings) as app:
        try:
            app.hub.metadata.check()
            trouble = broker_trouble(app)
            if trouble:
                fail(trouble)
            yield app.hub
        except OperationalError as error:
            fail(f"the broker took no more: {error}")
        finally:
            app.close_hub()


@contextmanager
def _only_warnings_logged() -> Iterator[None]:
    """What the rules log of themselves would stand amid the answer: a command says itself what came of it."""
    import structlog

    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.configure(**before)
