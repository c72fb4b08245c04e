"""A task that is cancelled because its broker is gone is not acknowledged, begun or not."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from billiard.einfo import ExceptionInfo
from celery.exceptions import Terminated
from celery.worker.request import Request
from kombu.message import Message

from config.loading import load_settings
from fedqueue.messages import names
from worker.bootstrap import HubCelery
from worker.cancelling import KeptRequest


class Pool:
    """What a request asks of its pool."""

    def __init__(self) -> None:
        self.terminated: list[int] = []

    def terminate_job(self, pid: int, _signal: object) -> None:
        self.terminated.append(pid)


@pytest.fixture
def app(tmp_path: Any) -> HubCelery:
    made = HubCelery(load_settings(env_file=None, home=tmp_path, broker_url="memory://"))
    made.loader.import_default_modules()
    return made


def request_for(app: HubCelery, kind: type[Request], acknowledged: list[str]) -> Request:
    task_id = str(uuid4())
    headers = {"id": task_id, "task": names.EVENTS_INGEST, "lang": "py", "ignore_result": True}
    message = Message(  # type: ignore[no-untyped-call]
        body="[[{}], {}, null]",
        delivery_tag=task_id,
        content_type="application/json",
        content_encoding="utf-8",
        delivery_info={},
        properties={},
        headers=headers,
    )
    return kind(
        message,
        app=app,
        task=app.tasks[names.EVENTS_INGEST],
        on_ack=lambda *_: acknowledged.append(task_id),
        hostname="worker@here",
        decoded=True,
        headers=headers,
        body=[[{}], {}, None],
    )


def end(request: Request) -> None:
    """As the pool does when the process has been terminated."""
    try:
        raise Terminated(15)
    except Terminated:
        request.on_failure(ExceptionInfo())


def test_every_task_of_the_hub_is_run_by_such_a_request(app: HubCelery) -> None:
    hubs = [task for name, task in app.tasks.items() if name.startswith("fedqueue.")]
    assert len(hubs) > 20
    assert {task.Request for task in hubs} == {"worker.cancelling:KeptRequest"}


@pytest.mark.parametrize("begun", [False, True], ids=["not begun", "begun"])
def test_a_cancelled_task_is_left_to_the_broker(app: HubCelery, begun: bool) -> None:
    acknowledged: list[str] = []
    request = request_for(app, KeptRequest, acknowledged)
    pool = Pool()
    if begun:
        request.on_accepted(4711, 0.0)
        request.time_start, request.worker_pid = 1.0, 4711
    request.cancel(pool, "TERM")
    end(request)
    assert acknowledged == []
    assert pool.terminated == ([4711] if begun else [])


def test_a_result_store_that_went_away_as_well_changes_nothing(app: HubCelery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery notes there that the task was cancelled, before anything else; the process is ended by then."""
    acknowledged: list[str] = []
    request = request_for(app, KeptRequest, acknowledged)
    request.time_start, request.worker_pid = 1.0, 4711

    def away(*_: object, **__: object) -> None:
        raise ConnectionError("closed by server")

    monkeypatch.setattr(app.backend, "mark_as_retry", away)
    with pytest.raises(ConnectionError):
        request.cancel(Pool(), "TERM")
    end(request)
    assert acknowledged == []


def test_celerys_own_request_would_lose_it(app: HubCelery) -> None:
    """Should this fail some day, Celery has been mended, and worker/cancelling.py may go."""
    acknowledged: list[str] = []
    request = request_for(app, Request, acknowledged)
    request.cancel(Pool(), "TERM")
    end(request)
    assert len(acknowledged) == 1


def test_what_somebody_revokes_is_acknowledged_as_ever(app: HubCelery) -> None:
    acknowledged: list[str] = []
    request = request_for(app, KeptRequest, acknowledged)
    request.time_start, request.worker_pid = 1.0, 4711
    request.terminate(Pool(), "TERM")
    assert len(acknowledged) == 1
