"""Celery's settings, each chosen for what a crash would otherwise cost.

Wire names are spelt here once more because this layer imports nothing of the application; a test holds them to
`fedqueue.messages.names`.
"""

from __future__ import annotations

from typing import Any, Final

from celery.schedules import crontab
from kombu.entity import Exchange, Queue

from config.settings import Settings
from fedqueue.tls import read_address

CONTROL_QUEUE: Final = "fedqueue.control"
UPDATES_QUEUE: Final = "fedqueue.updates"
AGGREGATE_QUEUE: Final = "fedqueue.aggregate"
EVENTS_QUEUE: Final = "fedqueue.events"
_QUEUES: Final = (CONTROL_QUEUE, UPDATES_QUEUE, AGGREGATE_QUEUE, EVENTS_QUEUE)

UPDATES_SUBMIT: Final = "fedqueue.updates.submit"
ROUNDS_POLL: Final = "fedqueue.rounds.poll"
ROUNDS_AGGREGATE: Final = "fedqueue.rounds.aggregate"
EVENTS_INGEST: Final = "fedqueue.events.ingest"
LOGS_ADD: Final = "fedqueue.logs.add"
METRICS_ADD: Final = "fedqueue.metrics.add"
MAINTENANCE_OUTBOX: Final = "fedqueue.maintenance.outbox"
MAINTENANCE_GARBAGE: Final = "fedqueue.maintenance.garbage"

# A quorum queue is on several disks and gives a dead worker's messages back within a second. Since RabbitMQ 4 it drops
# a message that was given back twenty times, which an outage of the database comes to in a minute: the limit is set
# out of reach.
_ON_RABBITMQ: Final = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}

# Far longer than a worker's main loop is ever busy, waiting for its broker included.
HELD_SECONDS: Final = 60.0

# A sweep that was not carried out by then is stale: the next one does the same.
SWEEP_EXPIRES_SECONDS: Final = 5.0


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Everything that Celery is configured with, for workers, beat and whoever only sends."""
    return {
        **_addresses(settings),
        **_content(settings),
        **_queues(settings),
        **_delivery(settings),
        **_connections(settings),
        **_processes(settings),
        **_schedule(settings),
    }


def _addresses(settings: Settings) -> dict[str, Any]:
    broker, results = read_address(settings.broker_url), read_address(settings.result_url)
    found: dict[str, Any] = {"broker_url": broker.url, "result_backend": results.url}
    if broker.tls is not None:
        found["broker_use_ssl"] = broker.tls
    if results.tls is not None:
        found["redis_backend_use_ssl"] = results.tls
    return found


def _content(settings: Settings) -> dict[str, Any]:
    # JSON alone, both ways: unpickling a message would run whatever its sender wrote into it. "auth" is JSON, signed.
    content = "json" if settings.signing_key is None else "auth"
    return {
        "task_serializer": content,
        "result_serializer": content,
        "accept_content": [content],
        "result_accept_content": [content],
        # Nobody reads most answers, and those would pile up on the broker. Who wants one asks for it.
        "task_ignore_result": True,
        "result_expires": settings.result_expires_seconds,
        "enable_utc": True,
        "timezone": "UTC",
    }


def _queues(settings: Settings) -> dict[str, Any]:
    # Queues and no priorities: a worker takes from each in turn, so a small message never waits behind a long
    # aggregation's, an update behind a burst of events, or a question behind a flood of updates, on any broker.
    amqp = settings.broker_url.startswith("amqp")
    arguments = _ON_RABBITMQ if amqp else None
    return {
        "task_queues": [_queue(name, arguments) for name in _QUEUES],
        "task_default_queue": CONTROL_QUEUE,
        "task_default_exchange": CONTROL_QUEUE,
        "task_default_routing_key": CONTROL_QUEUE,
        "task_default_queue_type": "quorum" if amqp else "classic",
        "task_create_missing_queue_type": "quorum" if amqp else "classic",
        "task_routes": {
            UPDATES_SUBMIT: {"queue": UPDATES_QUEUE},
            ROUNDS_AGGREGATE: {"queue": AGGREGATE_QUEUE},
            **{task: {"queue": EVENTS_QUEUE} for task in (EVENTS_INGEST, LOGS_ADD, METRICS_ADD)},
        },
        # A queue of its own for every worker, so that a canary reaches that worker's pool and no other.
        "worker_direct": True,
    }


def _queue(name: str, arguments: dict[str, Any] | None) -> Queue:
    exchange = Exchange(name, "direct")  # type: ignore[no-untyped-call]
    return Queue(name, exchange, routing_key=name, queue_arguments=arguments)  # type: ignore[no-untyped-call]


def _delivery(settings: Settings) -> dict[str, Any]:
    return {
        # Acknowledged when done, and given back when its process died: without both, a kill loses messages.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # Nothing is taken that can't be begun: another worker may have a process free for it.
        "worker_prefetch_multiplier": 1,
        # How long a dead process's task is left in doubt; the default of 10 s only delays its return.
        "worker_lost_wait": 2.0,
        "task_soft_time_limit": settings.task_soft_time_limit_seconds,
        "task_time_limit": settings.task_time_limit_seconds,
        # The broker redelivers what it believes lost, so two may run; the fence makes that harmless.
        "worker_cancel_long_running_tasks_on_connection_loss": True,
    }


def _connections(settings: Settings) -> dict[str, Any]:
    common: dict[str, Any] = {
        # Under compose a worker may start before its broker, and outlive any outage of it.
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
    }
    if settings.broker_url.startswith(("redis", "rediss")):
        common["broker_transport_options"] = {
            # Shorter than a task, and it would run again and again.
            "visibility_timeout": settings.visibility_timeout_seconds,
            # After so long what a killed worker had taken comes back, and what a broken connection had brought.
            "held_seconds": HELD_SECONDS,
            # By default lost messages are looked for every 100 s, and not for 300 s if the looker dies.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 30,
            # A broker that vanished without closing its connections is noticed, not waited for.
            "socket_timeout": 15,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 15,
        }
    elif settings.broker_url.startswith("amqp"):
        # A publish returns when the broker has the message, not when it has left this machine.
        common["broker_transport_options"] = {"confirm_publish": True}
        # A worker whose connection is half open hears of it within twice that time, not within four minutes; and what
        # it had taken goes to another one.
        common["broker_heartbeat"] = 20.0
    if settings.result_url.startswith(("redis", "rediss")):
        common["redis_socket_timeout"] = 15.0
        common["redis_socket_connect_timeout"] = 5.0
        common["redis_backend_health_check_interval"] = 15
        # A Unix socket has no keep-alive, and its connection class refuses the option.
        common["redis_socket_keepalive"] = "+socket" not in settings.result_url
    return common


def _processes(settings: Settings) -> dict[str, Any]:
    memory = settings.worker_max_memory_bytes
    return {
        "worker_concurrency": settings.worker_concurrency,
        # Processes are replaced now and then: a slow leak stays a small one. But rarely: a task that is handed to a
        # process about to be replaced waits three seconds (one for its exit, two of worker_lost_wait) for another.
        "worker_max_tasks_per_child": 10_000,
        "worker_max_memory_per_child": None if memory is None else max(1, int(memory) // 1024),  # Celery: KiB
        # On a busy machine a new process needs longer than the default 4 s, and would be killed at birth.
        "worker_proc_alive_timeout": 20.0,
        "worker_soft_shutdown_timeout": settings.soft_shutdown_seconds,
        # It would make an idle worker wait too, for messages with an ETA, of which none are sent here.
        "worker_enable_soft_shutdown_on_idle": False,
        # structlog does the logging (worker.signals); standard output stays what it is.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # It ends when its processes have done their work.
        "worker_pool": "worker.pool:TaskPool",
        # It looks at every message before Celery does.
        "worker_consumer": "worker.gate:GatedConsumer",
    }


def _schedule(settings: Settings) -> dict[str, Any]:
    sweep = {"expires": SWEEP_EXPIRES_SECONDS}
    return {
        # The default scheduler remembers its last runs in a shelve, which is pickle. Nothing here needs that.
        "beat_scheduler": "worker.scheduler:Scheduler",
        "beat_schedule": {
            "poll": {
                "task": ROUNDS_POLL,
                "schedule": settings.sweep_seconds,
                "args": ({},),
                "options": sweep,
            },
            "outbox": {
                "task": MAINTENANCE_OUTBOX,
                "schedule": settings.sweep_seconds,
                "args": ({},),
                "options": sweep,
            },
            # By the clock, not hourly from the start: a beat that is restarted often would never come to it.
            "garbage": {
                "task": MAINTENANCE_GARBAGE,
                "schedule": crontab(minute="17"),
                "args": ({},),
                "options": {"expires": 3600.0},
            },
        },
    }
