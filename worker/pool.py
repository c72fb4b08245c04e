"""Celery's pool of processes, which ends when its processes have done their work.

Told to stop, Celery forgets the tasks whose process has not yet said that it began them, for the broker will deliver
them again, and listens to its processes only as long as it waits for another task. But a process does not end before
its last word was heard, or thirty seconds are over. A worker told to stop at the moment in which a task begins, and one
with many short tasks hardly has others, took that long to stop with nothing to do.
"""

from __future__ import annotations

import time
from typing import Final

from billiard.pool import TERMINATE, WorkersJoined
from celery.concurrency import asynpool, prefork

_LISTEN_SECONDS: Final = 0.02


class ResultHandler(asynpool.ResultHandler):
    """Hears the processes' words, at the end too, whether somebody waits for them or not."""

    def on_stop_not_started(self) -> None:
        """Listen until every process has ended or the pool is terminated. So called for there is no thread to stop."""
        super().on_stop_not_started()
        while self._state != TERMINATE:
            try:
                self.join_exited_workers(shutdown=True)
            except WorkersJoined:
                return
            for pipe, process in list(self.fileno_to_outq.items()):
                reader = process.outq._reader
                # Asked of one that says nothing, it would wait half a second.
                if not reader.closed and reader.poll(0):
                    self._flush_outqueue(pipe, self.fileno_to_outq.pop, self.fileno_to_outq, self.on_state_change)
            time.sleep(_LISTEN_SECONDS)


class AsynPool(asynpool.AsynPool):
    """Celery's, with our ears."""

    ResultHandler = ResultHandler


class TaskPool(prefork.TaskPool):
    """What `--pool prefork` means here: the setting `worker_pool`."""

    Pool = AsynPool
