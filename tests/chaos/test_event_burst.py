"""A burst of events from eight processes, with repeats and in disorder, while workers are killed: each counts once.

The short form is for every run of the tests; the full one, of 100,000 events, is part of the wider matrix.
BURST_SEED repeats what was sent (the moments are the machine's).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from benchmarks.pool_memory import PoolWatch
from config.settings import Settings
from fedqueue import Client
from fedqueue.messages.names import QUEUES
from tests.chaos.event_facts import count_entries, faults, read_event_facts
from tests.chaos.event_sender import SLOTS, Burst
from tests.chaos.fleet import Fleet, fleet_running
from tests.chaos.traffic import wait_until
from tests.hubs import ROOT, environment
from tests.servers import valkey_server
from worker.children import die_with_parent
from worker.redelivery import give_back_unacknowledged

SEED = int(os.environ.get("BURST_SEED", str(time.time_ns() % 1_000_000)))
PROCESSES = 8
MODELS = 6

# Of anonymous memory, in MiB: what a pool process may have at all, and gain from the first fifth to the last.
_MOST_MEMORY = 220
_MOST_GROWTH = 40


class Strikes(threading.Thread):
    """Kills pool processes, and now and then a whole worker, until stopped."""

    def __init__(self, fleet: Fleet, pause: float) -> None:
        super().__init__(name="strikes", daemon=True)
        self.struck: Counter[str] = Counter()
        self._fleet = fleet
        self._pause = pause
        self._draw = random.Random(f"strikes {SEED}")
        self._ending = threading.Event()

    def run(self) -> None:
        """Wait, strike, and again."""
        while not self._ending.wait(self._draw.uniform(0.5, 1.5) * self._pause):
            kind = "worker" if sum(self.struck.values()) % 4 == 3 else "process"
            # One that is still coming up would take its worker along, again and again.
            up = self._fleet.ready()
            targets = up if kind == "worker" else self._fleet.pool(up)
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(self._draw.choice(targets), signal.SIGKILL)
                self.struck[kind] += 1
            if kind == "worker":
                time.sleep(0.1)
                # As the supervisor of an embedded hub does; elsewhere they come back by the visibility timeout.
                assert give_back_unacknowledged(self._fleet.settings) == ""

    def are_enough(self) -> bool:
        """Whether a run with so many has shown something."""
        return self.struck["process"] >= 3 and self.struck["worker"] >= 1

    def stop(self) -> None:
        """No more."""
        self._ending.set()
        self.join()


@pytest.mark.timeout(420)
def test_a_burst_counts_each_event_once(tmp_path: Path, postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    _burst(tmp_path, postgres_url, 5_000, strike_every=0.25, seconds=150, capsys=capsys)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_burst_of_a_hundred_thousand_counts_each_event_once(
    tmp_path: Path, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    growth = _burst(tmp_path, postgres_url, 100_000, strike_every=0.7, seconds=600, capsys=capsys)
    assert growth < _MOST_GROWTH


def _burst(
    folder: Path, url: str, events: int, *, strike_every: float, seconds: float, capsys: pytest.CaptureFixture[str]
) -> float:
    """Send, strike, wait and judge; what the largest pool process gained, in MiB."""
    with valkey_server(folder) as broker:
        settings = Settings(
            home=folder / "home",
            database_url=url,
            broker_url=broker.url,
            sweep_seconds=1.0,
            worker_concurrency=2,
            soft_shutdown_seconds=1.0,
        )
        with fleet_running(settings, folder / "logs") as fleet:
            burst = _prepared(settings, events)
            strikes = Strikes(fleet, strike_every)
            began = time.monotonic()
            with PoolWatch(fleet.pool) as watch, _senders_running(burst, folder) as senders:
                strikes.start()
                _wait_for_the_end(senders, seconds)
                sent = time.monotonic() - began
                # A machine that stood still for a while has struck less than it should: what was sent waits for it.
                wait_until("blows enough", strikes.are_enough, seconds)
                strikes.stop()
                _wait_for_the_rows(settings, events, seconds, fleet)
                took = time.monotonic() - began
            _wait_for_quiet(settings, 150)
            facts = read_event_facts(url)
    memory = watch.memory()
    with capsys.disabled():
        sys.stdout.write(
            f"\nburst of {events} events, seed {SEED}: sent in {sent:.1f} s, written in {took:.1f} s "
            f"({events / took:,.0f} a second); killed {dict(strikes.struck)}; {memory.shown()}\n"
        )
    assert faults(burst, facts) == []
    assert strikes.are_enough(), "too few kills: this run has shown nothing"
    assert memory.peak_anonymous < _MOST_MEMORY
    return memory.growth


def _prepared(settings: Settings, events: int) -> Burst:
    """Models that approve of the senders; half of them under runs with a name."""
    burst = Burst(settings.broker_url, settings.result_url, [], [], events, PROCESSES, SEED)
    with Client(settings.broker_url, settings.result_url) as client:
        trusts = [client.add_trust(f"Trust {slot}").trust_id for slot in SLOTS]
        for slot, trust in zip(SLOTS, trusts, strict=True):
            client.set_slot(slot, trust)
        models = [client.create_model().model_id for _ in range(MODELS)]
        for model in models:
            client.set_model_trusts(model, trusts)
    runs = [str(uuid4()) if number % 2 else None for number in range(MODELS)]
    return replace(burst, models=[str(model) for model in models], runs=runs)


@contextmanager
def _senders_running(burst: Burst, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    path = folder / "burst.json"
    burst.write(path)
    senders = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.event_sender", str(path), str(number)],
            cwd=ROOT,
            env=environment(folder),
            preexec_fn=die_with_parent(),
        )
        for number in range(burst.processes)
    ]
    try:
        yield senders
    finally:
        for sender in senders:
            sender.kill()
            sender.wait()


def _wait_for_the_end(senders: list[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for sender in senders:
        assert sender.wait(max(0.1, deadline - time.monotonic())) == 0


def _wait_for_the_rows(settings: Settings, events: int, seconds: float, fleet: Fleet) -> None:
    deadline = time.monotonic() + seconds
    while (found := count_entries(settings.database_url)) != events:
        assert time.monotonic() < deadline, f"{found} of {events} after {seconds} s:\n{fleet.said()[-3000:]}"
        time.sleep(0.1)


def _wait_for_quiet(settings: Settings, seconds: float) -> None:
    """Repeats and statuses may still be on their way when the last new entry is there.

    What an orphan of a killed worker took along after the blow comes back a minute after its death.
    """
    deadline = time.monotonic() + seconds
    quiet_since = time.monotonic()
    with redis.Redis.from_url(settings.broker_url) as broker:
        while time.monotonic() < quiet_since + 1.0:
            if broker.hlen("unacked") or any(broker.llen(queue) for queue in QUEUES):
                quiet_since = time.monotonic()
            assert time.monotonic() < deadline, "messages are still under way"
            time.sleep(0.02)
