"""How long a round stays away when its worker's whole tree is killed in the middle of it."""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from pathlib import Path
from uuid import UUID

import numpy as np
import psutil
import pytest

from config.settings import Settings
from fedqueue import Client
from tests.chaos import held
from tests.chaos.evidence import SEED, Evidence
from tests.chaos.facts import Row, read_facts
from tests.chaos.fleet import fleet_running
from tests.chaos.invariants import violations
from tests.chaos.traffic import wait_until
from tests.servers import valkey_server
from worker.supervisor import Supervisor

_draw = random.Random(f"recovery {SEED}")

# What the figures are held against: lease and sweep, and the time that a busy machine takes for the round itself: more
# where other tests run beside it. Other ways for the round to come back take a minute at least.
_BUSY = 20.0 if "PYTEST_XDIST_WORKER" in os.environ else 3.0


def test_an_embedded_hub_posts_a_killed_worker_s_round_within_lease_and_sweep(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evidence: Evidence
) -> None:
    hold = tmp_path / "hold"
    monkeypatch.setenv(held.VARIABLE, str(hold))
    with Supervisor(Settings(home=home, plugins=(held.PLUGIN,))) as hub:
        settings = hub.settings
        with Client(settings.broker_url, settings.result_url, settings.store_url) as client:
            took = [_seconds_to_recover(client, settings, hold) for _ in range(3)]
            wait_until("end of the last round", lambda: _is_quiet(settings), 60)
    _judge("embedded settings", settings, took, evidence)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_hub_posts_a_killed_worker_s_round_within_thirty_five_seconds(
    home: Path, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch, evidence: Evidence
) -> None:
    hold = tmp_path / "hold"
    monkeypatch.setenv(held.VARIABLE, str(hold))
    with valkey_server(tmp_path) as broker:
        settings = Settings(
            home=home, database_url=postgres_url, broker_url=broker.url, plugins=(held.PLUGIN,)
        ).model_copy(update={"worker_concurrency": 2})
        with (
            fleet_running(settings, tmp_path / "logs"),
            Client(settings.broker_url, settings.result_url, settings.store_url) as client,
        ):
            took = [_seconds_to_recover(client, settings, hold) for _ in range(3)]
            wait_until("end of the last round", lambda: _is_quiet(settings), 60)
    _judge("default settings", settings, took, evidence)


def _judge(case: str, settings: Settings, took: list[float], evidence: Evidence) -> None:
    facts = read_facts(settings.database_url)
    allowed = settings.lease_seconds + settings.sweep_seconds
    evidence(
        "recovery",
        f"{case}, {settings.database_url.partition(':')[0].partition('+')[0]}",
        kills=len(took),
        lease_seconds=settings.lease_seconds,
        sweep_seconds=settings.sweep_seconds,
        median_seconds=statistics.median(took),
        longest_seconds=max(took),
        violations=len(violations(facts, quiet=True)),
    )
    assert violations(facts, quiet=True) == []
    # More where a lease was over before the kill: the other worker's round, which it then met, is one besides.
    assert sum(row["state"] == "RESCUED" for row in facts.rounds) >= len(took), "each kill met a round"
    assert max(took) <= allowed + _BUSY


def _seconds_to_recover(client: Client, settings: Settings, hold: Path) -> float:
    """From SIGKILL of the worker that has the round, and of its pool, to the aggregate of another."""
    model = client.create_model(
        initial={"w": np.zeros(1000, np.float32)}, requirement=None, aggregator=held.AGGREGATOR
    ).model_id
    participant = client.register_client(model).client_id
    hold.touch()
    client.submit_update(model, participant, {"w": np.ones(1000, np.float32)}, num_examples=1)
    wait_until("round under way", lambda: list(hold.parent.glob("*.holding")), 30)
    mark, *_ = hold.parent.glob("*.holding")
    # Anywhere between two renewals: the lease that is left differs by as much.
    time.sleep(_draw.uniform(0, settings.lease_seconds / 3))
    holder = int(mark.name.partition(".")[0])
    worker = psutil.Process(holder).parent()
    # An orphan's parent is process 1, and a signal to group 1 would reach every process of the machine.
    assert worker is not None
    assert worker.pid == os.getpgid(holder), "whoever left the mark is no process of a living worker's"
    dead = {worker.pid, *(process.pid for process in worker.children(recursive=True))}
    os.killpg(worker.pid, signal.SIGKILL)
    killed = time.monotonic()
    hold.unlink()
    wait_until("round of another", lambda: _posted(settings, model), settings.lease_seconds + 60)
    took = time.monotonic() - killed
    # Only now is nobody in a round: a mark that stayed would be taken for the next one's.
    for mark in hold.parent.glob("*.holding"):
        mark.unlink()
    [posted] = _posted(settings, model)
    assert int(posted["worker"].partition("@")[0]) not in dead
    return took


def _posted(settings: Settings, model: UUID) -> list[Row]:
    facts = read_facts(settings.database_url)
    ids = {row["id"] for row in facts.models if row["uuid"] == model}
    return [row for row in facts.rounds if row["model_id"] in ids and row["state"] == "POSTED"]


def _is_quiet(settings: Settings) -> bool:
    return all(model["lease_until"] is None for model in read_facts(settings.database_url).models)
