"""Messages of a worker that was killed, given to the others at once instead of after the visibility timeout."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.exceptions import KombuError

from config.celery import celery_settings
from config.settings import Settings
from worker.bootstrap import HubCelery


def give_back_unacknowledged(settings: Settings) -> str:
    """Put every unacknowledged message of the private server back into its queue; why not, or empty.

    Redis does not know whose they were, so those of workers that live are delivered twice. Every task here may be
    carried out twice with one effect; a submission that waited for twenty minutes would be worse.
    """
    options = celery_settings(settings)["broker_transport_options"] | {"visibility_timeout": 0}
    with HubCelery(settings) as app, app.connection_for_write(transport_options=options) as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
            connection.default_channel.qos.restore_visible(num=None, interval=1)
        except (KombuError, OSError, *connection.connection_errors) as error:
            # The server may have died with the worker: its messages come back by the visibility timeout.
            return str(error)
    return ""


def give_back(app: Celery, task_consumer: Any) -> int:
    """Put what this worker took from a Redis broker and has not acknowledged back into its queues; how many.

    For a worker whose main loop can't be trusted to do it: over a connection of its own. Of what fails here, the
    visibility timeout takes care; other brokers give a lost connection's messages back by themselves.
    """
    qos: Any = getattr(task_consumer.channel, "qos", None)
    if qos is None or not hasattr(qos, "restore_by_tag"):
        return 0
    tags = [tag for tag in list(qos._delivered) if tag not in qos._dirty]
    with app.connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
            for tag in tags:
                connection.default_channel.qos.restore_by_tag(tag, leftmost=True)
        except (KombuError, OSError, *connection.connection_errors):
            return 0
    return len(tags)
