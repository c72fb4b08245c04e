"""How many events a second reach the database: `python -m benchmarks.events`.

Eight processes send at once, through a broker of its own (append-only file on) to two prefork workers at the default
settings, into PostgreSQL (fsync on): one event a message, and in messages of 500. Beside them a task that does nothing,
through the same broker and workers, and a synchronous FastAPI endpoint that commits one row a request, FLIP's way, on
the same database. A rate counts from the first send until the last row is committed (of the task that does nothing:
until the broker has heard of the last one's end).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
import redis

import fedqueue
from benchmarks.contestants import ROOT, PeerMissing
from benchmarks.event_load import SLOTS, Load, Way, send_from
from benchmarks.figures import machine_facts
from benchmarks.pool_memory import PoolMemory, PoolWatch
from benchmarks.production_hub import ProductionHub, production_hub
from benchmarks.watching import server_version
from fedqueue.messages.names import EVENTS_QUEUE
from tests.servers import free_port
from worker.children import die_with_parent

GOAL_BATCHED: Final = 10.0  # times the endpoint
GOAL_SINGLE: Final = 0.6  # of the task that does nothing

WAYS: Final[tuple[Way, ...]] = ("no-op", "single", "batched", "endpoint")
_SIZE: Final = 500
_DONE_SECONDS: Final = 600.0
_ROWS: Final = """
    SELECT (SELECT count(*) FROM model_log WHERE model_id = m.id AND event_type IS DISTINCT FROM 'INITIATED')
         + (SELECT count(*) FROM model_metric WHERE model_id = m.id)
    FROM federated_model m WHERE uuid = %s
"""


@dataclass(frozen=True)
class Amounts:
    """Events a process and way, how many processes, how often all of it."""

    processes: int = 8
    repeats: int = 3
    events: dict[Way, int] = field(
        default_factory=lambda: {"no-op": 1_000, "single": 1_000, "batched": 5_000, "endpoint": 400}
    )


QUICK: Final = Amounts(repeats=1, events={"no-op": 100, "single": 100, "batched": 500, "endpoint": 50})


@dataclass(frozen=True)
class Report:
    """Rates in events a second, one a repeat; the pool's memory while the events came."""

    database: str
    processes: int
    events: dict[Way, int]
    rates: dict[Way, list[float]]
    memory: PoolMemory
    load_average: float

    def rate(self, way: Way) -> float:
        """The median."""
        return median(self.rates[way])

    @property
    def batched_to_endpoint(self) -> float:
        """How many times the endpoint's rate."""
        return self.rate("batched") / self.rate("endpoint")

    @property
    def single_to_noop(self) -> float:
        """What part of the rate of a task that does nothing."""
        return self.rate("single") / self.rate("no-op")

    @property
    def goals_met(self) -> bool:
        """Whether both are."""
        return self.batched_to_endpoint >= GOAL_BATCHED and self.single_to_noop >= GOAL_SINGLE


def measure(amounts: Amounts, folder: Path) -> Report:
    """All four ways in turn, so many times."""
    rates: dict[Way, list[float]] = {way: [] for way in WAYS}
    with production_hub(folder / "hub", "postgresql") as hub, endpoint_running(hub, folder) as port:
        settings = hub.settings
        with fedqueue.Client(settings.broker_url, settings.result_url) as client:
            approve = _trusts(client)
            load = Load("no-op", 0, _SIZE, uuid4(), settings.broker_url, settings.result_url, folder, port)
            # Every pool process has imported and connected by then.
            for way in WAYS:
                _once(hub, replace(load, way=way, events=50, model_id=approve()), amounts.processes)
            with PoolWatch(hub.pool) as watch:
                for _ in range(amounts.repeats):
                    for way in WAYS:
                        one = replace(load, way=way, events=amounts.events[way], model_id=approve())
                        rates[way].append(_once(hub, one, amounts.processes))
        version = server_version(settings.database_url)
    return Report(version, amounts.processes, amounts.events, rates, watch.memory(), os.getloadavg()[0])


def _trusts(client: fedqueue.Client) -> Callable[[], UUID]:
    """Makes models that know the senders of the events."""
    trusts = []
    for slot in SLOTS:
        trust = client.add_trust(f"Trust of {slot}").trust_id
        client.set_slot(slot, trust)
        trusts.append(trust)

    def model() -> UUID:
        made = client.create_model(name="events").model_id
        client.set_model_trusts(made, trusts)
        return made

    return model


def _once(hub: ProductionHub, load: Load, processes: int) -> float:
    sending = send_from(load, processes)
    total = load.events * processes
    if load.way != "endpoint":
        ended = _when_done(hub, load, total)
    else:
        ended = sending.ended  # each was answered when it was committed
        _wait(lambda: _count(hub, "SELECT count(*) FROM endpoint_event WHERE model_id = %s", load.model_id) == total, 1)
    return total / (ended - sending.began)


def _when_done(hub: ProductionHub, load: Load, total: int) -> float:
    with closing(redis.Redis.from_url(hub.settings.broker_url)) as broker:

        def idle() -> bool:
            return not broker.llen(EVENTS_QUEUE) and not broker.hlen("unacked")

        if load.way == "no-op":
            _wait(idle, _DONE_SECONDS, 0.002)
            return time.monotonic()
        # Counting rows takes a while itself: not before there is little left to come.
        _wait(idle, _DONE_SECONDS, 0.002)
    _wait(lambda: _count(hub, _ROWS, load.model_id) == total, _DONE_SECONDS, 0.01)
    return time.monotonic()


def _count(hub: ProductionHub, query: str, model_id: UUID) -> int:
    with closing(psycopg.connect(hub.settings.database_url.replace("+psycopg", ""))) as server:
        found = server.execute(query, (model_id,)).fetchone()
    assert found is not None
    return int(found[0])


def _wait(holds: Callable[[], bool], seconds: float, pause: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all events were there within {seconds:.0f} s")
        time.sleep(pause)


@contextmanager
def endpoint_running(hub: ProductionHub, folder: Path) -> Iterator[int]:
    """The port of the endpoint, on the hub's database: one uvicorn process a core. Raises: PeerMissing."""
    python = ROOT / ".peers/fastapi/bin/python"
    if not python.exists():
        raise PeerMissing(".peers/fastapi is not there: run `make peers`")
    port = free_port()
    variables = os.environ | {"ENDPOINT_DATABASE_URL": hub.settings.database_url, "PYTHONPATH": str(ROOT)}
    made = "from benchmarks.peers.endpoint import Base, engine; Base.metadata.create_all(engine)"
    subprocess.run([python, "-c", made], cwd=ROOT, env=variables, check=True)
    command = [str(python), "-m", "uvicorn", "benchmarks.peers.endpoint:app", "--port", str(port), "--no-access-log"]
    # A sender that stands still for a while between two requests is not hung up on.
    command += ["--timeout-keep-alive", "600"]
    command += ["--log-level", "warning", "--workers", str(len(os.sched_getaffinity(0)))]
    with (folder / "endpoint.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=log, stderr=log, preexec_fn=die_with_parent()
        )
        try:
            _wait(lambda: _answers(port), 120)
            yield port
        finally:
            server.terminate()
            server.wait()


def _answers(port: int) -> bool:
    import http.client

    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=1)) as line:
            line.request("GET", "/openapi.json")
            return line.getresponse().status == 200
    except OSError:
        return False


# --- what is shown ----------------------------------------------------------------------------------


def shown(report: Report) -> str:
    """The report for people."""
    names: dict[Way, str] = {
        "no-op": "Celery task that does nothing",
        "single": "events, one a message",
        "batched": f"events, {_SIZE} a message",
        "endpoint": "FastAPI, one row a request",
    }
    repeats = len(report.rates["single"])
    lines = [
        f"{report.database}; {report.processes} sending processes, 2 workers, {repeats} repeats; "
        f"load average at the end {report.load_average:.1f}",
        f"{'':32}{'events':>9}{'events/s':>11}{'slowest':>11}{'fastest':>11}",
    ]
    for way in WAYS:
        rates = report.rates[way]
        total = report.events[way] * report.processes
        lines.append(f"{names[way]:32}{total:9,}{report.rate(way):11,.0f}{min(rates):11,.0f}{max(rates):11,.0f}")
    lines += [
        f"batched / endpoint: {report.batched_to_endpoint:.1f} (goal {GOAL_BATCHED:.0f}: "
        f"{_verdict(report.batched_to_endpoint >= GOAL_BATCHED)})",
        f"single / no-op: {report.single_to_noop:.2f} (goal {GOAL_SINGLE}: "
        f"{_verdict(report.single_to_noop >= GOAL_SINGLE)})",
        report.memory.shown(),
    ]
    return "\n".join(lines)


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def as_json(report: Report) -> dict[str, Any]:
    """The report for machines."""
    derived = ("batched_to_endpoint", "single_to_noop", "goals_met")
    return asdict(report) | {name: getattr(report, name) for name in derived}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.events", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little of everything, once: for a smoke test")
    parser.add_argument("--repeats", type=int, help="how often each is measured (default 3)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--any-speed", action="store_true", help="exit 0 whatever the figures")
    chosen = parser.parse_args(arguments)
    amounts = QUICK if chosen.quick else Amounts()
    if chosen.repeats:
        amounts = replace(amounts, repeats=chosen.repeats)
    with tempfile.TemporaryDirectory(prefix="fedqueue-events-") as place:
        facts = machine_facts(Path(place))
        try:
            report = measure(amounts, Path(place))
        except PeerMissing as missing:
            parser.error(str(missing))
    if chosen.json:
        print(json.dumps({"machine": facts, "events": as_json(report)}, indent=2))
    else:
        print(f"{facts['cores']} cores, {facts['processor']}, Python {facts['python']}\n{shown(report)}")
    return 0 if chosen.any_speed or report.goals_met else 1


if __name__ == "__main__":
    sys.exit(main())
