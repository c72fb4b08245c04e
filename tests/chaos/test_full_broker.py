"""A broker without memory left: senders hear so, workers go on with what it has, and all is well when there is room.

Redis then takes nothing new from anybody: no submission, no hint, no sweep, no answer. It still gives out what waits,
and hears that it is done.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import redis
from kombu.exceptions import OperationalError

from config.settings import Settings
from fedqueue import Client, HubBusy
from fedqueue.messages.names import UPDATES_QUEUE, UPDATES_SUBMIT
from tests.chaos.evidence import Evidence
from tests.chaos.fleet import Fleet, fleet_running
from tests.chaos.grounds import broker_on
from tests.chaos.invariants import Accepted, unaccounted, violations
from tests.chaos.questions import questions_to
from tests.chaos.traffic import settled, wait_until
from worker.bootstrap import HubCelery

_WAITING = 60
_FULL_SECONDS = 4.0


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_a_full_broker_is_worked_off_and_loses_nothing(kind: str, tmp_path: Path, evidence: Evidence) -> None:
    with broker_on(kind, tmp_path) as broker, redis.Redis.from_url(broker.url) as line:
        settings = Settings(
            home=tmp_path / "home",
            broker_url=broker.url,
            sweep_seconds=0.5,
            worker_concurrency=2,
            soft_shutdown_seconds=1.0,
        )
        with fleet_running(settings, tmp_path / "logs", workers=1) as fleet:
            with Client(settings.broker_url, settings.result_url, timeout=60) as hub:
                model = hub.create_model(initial=[0.0] * 4, requirement=None, allow_repeats=True).model_id
                client = hub.register_client(model).client_id
            with _nothing_taken(fleet):
                sent = _send_plainly(settings, model, client, _WAITING)
                line.config_set("maxmemory", 1)
                assert line.llen(UPDATES_QUEUE) > 0, "all was done before: this run has shown nothing"
            full_since = time.monotonic()
            with pytest.raises(OperationalError, match="maxmemory"):
                _send_plainly(settings, model, client, 1)
            with Client(settings.broker_url, settings.result_url) as hub:
                with pytest.raises(HubBusy, match="maxmemory"):
                    hub.submit_update(model, client, [1.0] * 4, num_examples=1, timeout=1)
                with pytest.raises(HubBusy, match="maxmemory"):
                    hub.get_model(model, timeout=1)
            with questions_to(settings.database_url) as questions:
                wait_until(
                    "row of every update that waited",
                    lambda: questions.count("SELECT COUNT(*) FROM model_update") == len(sent),
                    60,
                )
            # With nothing left to take a worker waits, which Redis refuses as well.
            wait_until("empty queue", lambda: not line.llen(UPDATES_QUEUE) and not line.hlen("unacked"), 30)
            time.sleep(max(0.0, full_since + _FULL_SECONDS - time.monotonic()))
            line.config_set("maxmemory", 0)
            began = time.monotonic()
            with Client(settings.broker_url, settings.result_url, timeout=60) as hub:
                late = hub.submit_update(model, client, [1.0] * 4, num_examples=1)
            facts, _ = settled(settings.database_url, 60)
            took, restarts, said = time.monotonic() - began, fleet.restarts, fleet.said()
    accepted = [*(Accepted(each, 1.0) for each in sent), Accepted(late.submission_id, 1.0)]
    found = violations(facts, quiet=True) + unaccounted(facts, accepted)
    evidence(
        "flood",
        f"a full {kind}",
        waiting=len(sent),
        updates=len(facts.updates),
        aggregates=len(facts.aggregates),
        workers_restarted=restarts,
        quiet_after_seconds=took,
        violations=len(found),
    )
    assert found == []
    assert len(facts.updates) == len(accepted)
    assert restarts == 0, said[-4000:]


@contextmanager
def _nothing_taken(fleet: Fleet) -> Iterator[None]:
    """The workers stopped, so that all that is sent waits when the broker is full, however long the sending takes."""
    workers = fleet.parents()
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGCONT)


def _send_plainly(settings: Settings, model: UUID, client: UUID, count: int) -> list[UUID]:
    """Submissions by Celery alone, which looks at no queue's length."""
    sent = [uuid4() for _ in range(count)]
    with HubCelery(settings) as app, app.producer_pool.acquire(block=True) as producer:
        for submission_id in sent:
            message = {"submission_id": str(submission_id), "model_id": str(model), "client_id": str(client)}
            app.send_task(
                UPDATES_SUBMIT,
                args=[message | {"data": [1.0] * 4}],
                ignore_result=True,
                producer=producer,
                retry=False,
            )
    return sent
