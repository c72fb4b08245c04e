"""While the database is away, what is sent waits at the broker, not in workers' memory, and nothing of it is lost."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import redis

from config.settings import Settings
from fedqueue import Client
from tests.chaos.evidence import Evidence
from tests.chaos.fleet import fleet_running
from tests.chaos.gauges import gauged
from tests.chaos.grounds import broker_on, database_on
from tests.chaos.invariants import Accepted, unaccounted, violations
from tests.chaos.questions import questions_to
from tests.chaos.traffic import settled, wait_until

_WAITING = 12
# Each comes round five times: by then, what waits by an ETA waits long, all of it in the worker's memory.
_POSTPONED = 60
_PROCESSES = 2


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(480)
def test_what_waits_for_the_database_waits_at_the_broker(
    tmp_path: Path, request: pytest.FixtureRequest, evidence: Evidence
) -> None:
    with (
        database_on("postgresql", tmp_path, request, own_server=True) as (url, database),
        broker_on("valkey", tmp_path) as broker,
        redis.Redis.from_url(broker.url) as line,
    ):
        settings = Settings(
            home=tmp_path / "home", database_url=url, broker_url=broker.url, worker_concurrency=_PROCESSES
        )
        with fleet_running(settings, tmp_path / "logs", workers=1) as fleet:
            with Client(settings.broker_url, settings.result_url, timeout=60) as hub:
                model = hub.create_model(initial=[0.0] * 2_000, requirement=None, allow_repeats=True).model_id
                client = hub.register_client(model).client_id
                database.kill()
                sent = [_post(hub, model, client) for _ in range(_WAITING)]
            held, away_since, deadline = 0, time.monotonic(), time.monotonic() + 240
            with gauged(fleet, broker.pid) as gauges:
                while fleet.said().count('"task.postponed"') < _POSTPONED or len(gauges.readings) < 6:
                    assert time.monotonic() < deadline, fleet.said()[-2000:]
                    held = max(held, line.hlen("unacked"))
                    time.sleep(0.1)
            away = time.monotonic() - away_since
            database.start()
            with questions_to(url) as questions:
                rows = "SELECT COUNT(*) FROM model_update"
                wait_until("row of every update", lambda: questions.count(rows) == len(sent), 120)
            facts, took = settled(url, 60)
            restarts = fleet.restarts
    found = violations(facts, quiet=True) + unaccounted(facts, [Accepted(each, 1.0) for each in sent])
    first, last = gauges.workers_mib()
    evidence(
        "flood",
        "a database away, submissions waiting",
        waiting=len(sent),
        away_seconds=away,
        most_held_by_workers=held,
        memory_first_mib=first,
        memory_last_mib=last,
        updates=len(facts.updates),
        quiet_after_seconds=took,
        workers_restarted=restarts,
        violations=len(found),
    )
    assert found == []
    assert len(facts.updates) == len(sent)
    # One in each process, and one that waits for it; a sweep's beside them.
    assert held <= 2 * _PROCESSES + 2
    assert restarts == 0


def _post(hub: Client, model: UUID, client: UUID) -> UUID:
    data = [1.0] * 2_000
    return hub.submit_update(model, client, data, num_examples=1, submission_id=uuid4(), wait=False)
