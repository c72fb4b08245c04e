"""What happens at a worker's start and end, hung on Celery's signals."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from importlib import import_module
from typing import Any, Final

import structlog
from celery import signals
from celery.concurrency import prefork, solo

from connectors.errors import SchemaTooNew
from worker.bootstrap import HubCelery
from worker.logs import set_up_logging
from worker.lost_tasks import LostTasks
from worker.readiness import wait_for_database
from worker.store import look_at_store
from worker.sweeper import Sweeper
from worker.watchdog import Watchdog

log = structlog.get_logger(__name__)

# The exit code of a worker that is too old for the database; sysexits.h: a matter of configuration.
EXIT_TOO_OLD: Final = 78


def connect_signals(app: HubCelery) -> None:
    """Give the process its logging, and a worker its readiness check, its sweeper, its watchdog and its orderly end."""
    app.steps["worker"].add(LostTasks)
    threads: list[Sweeper | Watchdog] = []

    def set_up(logfile: str | None = None, **_: Any) -> None:
        # By our own settings: Celery's --loglevel defaults to WARNING and can't be told from a wish.
        set_up_logging(app.settings, logfile)

    def before_pool(sender: Any = None, **_: Any) -> None:
        _check_pool(sender)
        # Once, before the fork: not again in every pool process, at its first task.
        import_module("connectors.storage.file_connector")
        try:
            wait_for_database(app.settings)
        except SchemaTooNew as error:
            log.critical("this version may not work on the database", reason=str(error))
            raise SystemExit(EXIT_TOO_OLD) from None
        look_at_store(app.settings)

    def ready(sender: Any = None, **_: Any) -> None:
        sweeper = Sweeper(app, app.settings.sweep_seconds)
        signals.task_received.connect(lambda request=None, **_: sweeper.received(request.name), weak=False)
        threads.append(sweeper)
        # A solo worker's pool is its main loop: at a long task it takes nothing, and nothing limits the task's time.
        if isinstance(getattr(sender, "pool", None), prefork.TaskPool):
            watchdog = Watchdog(app, sender, app.settings.watchdog_seconds)
            signals.task_received.connect(lambda request=None, **_: watchdog.received(request), weak=False)
            threads.append(watchdog)
        # All is imported. Celery collects garbage before every fork, which held up the worker for 0.13 s each time.
        gc.collect()
        gc.freeze()
        for thread in threads:
            thread.start()
        log.info("ready", worker=str(getattr(sender, "hostname", "")))

    def ending(how: str = "", **_: Any) -> None:
        for thread in threads:
            thread.stop()
        if how == "Warm":
            _limit_patience(app)

    def in_pool_process(**_: Any) -> None:
        # What the parent had open stays the parent's; this process opens its own when a task needs it.
        app.close_hub()

    def pool_process_ends(**_: Any) -> None:
        app.close_hub()

    for event, receiver in (
        (signals.setup_logging, set_up),
        (signals.worker_init, before_pool),
        (signals.worker_ready, ready),
        (signals.worker_shutting_down, ending),
        (signals.worker_shutdown, ending),
        (signals.worker_process_init, in_pool_process),
        (signals.worker_process_shutdown, pool_process_ends),
    ):
        event.connect(receiver, weak=False)


def _limit_patience(app: HubCelery) -> None:
    """Let a warm shutdown turn cold after a while: long tasks are cancelled, and their messages given back.

    Celery's soft shutdown does the like, but sleeps its whole time even when the last task ends at once, and
    needs REMAP_SIGTERM in the environment; this one ends as soon as the tasks do.
    """

    def turn_cold() -> None:
        time.sleep(app.settings.soft_shutdown_seconds)
        app.conf.worker_soft_shutdown_timeout = 0.0
        os.kill(os.getpid(), signal.SIGQUIT)

    threading.Thread(target=turn_cold, name="fedqueue-patience", daemon=True).start()


def _check_pool(worker: Any) -> None:
    """Refuse a pool whose tasks can be neither timed out nor killed one by one."""
    if not issubclass(worker.pool_cls, prefork.TaskPool | solo.TaskPool):
        raise SystemExit(
            f"pool {worker.pool_cls.__module__} is not supported: time limits and the memory bound need processes, "
            "--pool prefork"
        )
    if issubclass(worker.pool_cls, solo.TaskPool):
        # Its main loop is its pool: at a long task it could not say that it lives.
        worker.app.conf.broker_transport_options.pop("held_seconds", None)
