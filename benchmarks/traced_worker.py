"""The real worker, saying when it does what: `celery --app benchmarks.traced_worker worker`.

Each span goes as one line of JSON into the file that LATENCY_TRACE names, with the SQL statements and fsyncs inside
it. Times are the monotonic clock's, which all processes of a machine share.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import signals
from sqlalchemy import Engine, event

import connectors.storage.safetensors_files
import tasks.domain.rounds
import tasks.domain.submission
from connectors.sql.database import Database
from worker.celery import app

__all__ = ["app"]

_counts = {"statements": 0, "fsyncs": 0, "fsync_seconds": 0.0}
_begun: dict[str, tuple[float, dict[str, float]]] = {}


@contextmanager
def _span(name: str) -> Iterator[None]:
    began, before = time.monotonic(), dict(_counts)
    try:
        yield
    finally:
        _write(name, began, before)


def _write(name: str, began: float, before: dict[str, float]) -> None:
    span = {"span": name, "began": began, "ended": time.monotonic(), "pid": os.getpid()}
    span |= {key: _counts[key] - before[key] for key in _counts}
    handle = os.open(os.environ["LATENCY_TRACE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, json.dumps(span).encode() + b"\n")
    os.close(handle)


def _timed(owner: Any, name: str, called: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def timed(*arguments: Any, **named: Any) -> Any:
        with _span(called):
            return original(*arguments, **named)

    setattr(owner, name, timed)


def _count_fsyncs() -> None:
    fsync = os.fsync

    def counted(handle: int) -> None:
        began = time.monotonic()
        fsync(handle)
        _counts["fsyncs"] += 1
        _counts["fsync_seconds"] += time.monotonic() - began

    os.fsync = counted  # type: ignore[assignment]


def _task_begins(task_id: str, **_: Any) -> None:
    _begun[task_id] = time.monotonic(), dict(_counts)


def _task_ends(task_id: str, task: Any, **_: Any) -> None:
    _write(f"task {task.name}", *_begun.pop(task_id))


def _statement(*_: Any) -> None:
    _counts["statements"] += 1


_count_fsyncs()
_timed(Database, "transact", "transaction")
_timed(tasks.domain.submission, "_take_in", "take in")
_timed(tasks.domain.rounds, "combine_round", "combine")
_timed(connectors.storage.safetensors_files, "keep_blob", "store")
_timed(type(app), "send_task", "send")
event.listen(Engine, "before_cursor_execute", _statement)
signals.task_prerun.connect(_task_begins, weak=False)
signals.task_postrun.connect(_task_ends, weak=False)
