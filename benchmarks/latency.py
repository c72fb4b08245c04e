"""How long after its submission an update is in a posted aggregate: `python -m benchmarks.latency`.

A model of 64 parameters whose round needs one update; updates one after another, each from the moment just before
`Client.submit_update` to (a) the aggregate's row being visible in the database, seen by another process with plain
SQL, and (b) the return of `Client.wait_for_aggregate`. Beside them, on the same workers and broker, a task that does
nothing, waited for by its result: what Celery itself takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import numpy as np

import fedqueue
import fedqueue.payload
from benchmarks.breakdown import Span, Stage, read_spans, stages_of
from benchmarks.figures import Distribution, distribution, machine_facts
from benchmarks.production_hub import BrokerName, DatabaseName, ProductionHub, production_hub
from benchmarks.watching import server_version, watching
from fedqueue.messages.names import CONTROL_QUEUE, MAINTENANCE_CANARY

PARAMETERS: Final = 64
GOAL_P50_MS: Final = 100.0
GOAL_P99_MS: Final = 500.0

_WARM_UP: Final = 40
_TRACED: Final = 100


@dataclass(frozen=True)
class Updates:
    """When each update was handed over, seen in the database, and known to its sender."""

    handed: list[float]
    seen: list[float]
    told: list[float]

    @property
    def until_seen(self) -> list[float]:
        """Seconds until the aggregate was visible."""
        return [seen - handed for handed, seen in zip(self.handed, self.seen, strict=True)]

    @property
    def until_told(self) -> list[float]:
        """Seconds until `wait_for_aggregate` returned."""
        return [told - handed for handed, told in zip(self.handed, self.told, strict=True)]


@dataclass(frozen=True)
class Report:
    """One database's figures. The distributions are in milliseconds."""

    database: str
    updates: int
    visible: Distribution
    told: Distribution
    celery: Distribution
    stages: list[Stage]

    @property
    def goal_met(self) -> bool:
        """Whether an update is in a posted aggregate as soon as it should be."""
        return self.visible.p50 <= GOAL_P50_MS and self.visible.p99 <= GOAL_P99_MS


def measure(
    database: DatabaseName, updates: int, folder: Path, broker: BrokerName = "valkey"
) -> tuple[Report, Mapping[str, Sequence[float]]]:
    """The figures on that database, and every duration behind them, in seconds."""
    with production_hub(folder / "hub", database, broker=broker) as hub:
        version = server_version(hub.settings.database_url)
        if broker == "rabbitmq":
            version += " with RabbitMQ"
        # Half of them before and half after: what changes on the machine meanwhile meets both.
        idle = round_trips(hub, max(1, updates // 2))
        run = submit_in_a_row(hub, updates)
        idle += round_trips(hub, max(1, updates // 2))
    durations = {"visible": run.until_seen, "told": run.until_told, "celery": idle}
    report = Report(
        version,
        updates,
        distribution(durations["visible"]),
        distribution(durations["told"]),
        distribution(durations["celery"]),
        trace_stages(database, folder / "traced", broker),
    )
    return report, durations


def round_trips(hub: ProductionHub, count: int) -> list[float]:
    """Seconds of each Celery round trip: a task that does nothing, waited for by its result, as Celery does it."""

    def once() -> float:
        began = time.monotonic()
        hub.app.send_task(MAINTENANCE_CANARY, queue=CONTROL_QUEUE, ignore_result=False).get(timeout=30)
        return time.monotonic() - began

    for _ in range(_WARM_UP):
        once()
    return [once() for _ in range(count)]


def submit_in_a_row(hub: ProductionHub, count: int) -> Updates:
    """Submit `count` updates, each when the aggregate of the one before is known; after a warm-up."""
    settings = hub.settings
    handed, told = [], []
    with fedqueue.Client(settings.broker_url, settings.result_url, settings.store_url) as client:
        model = client.create_model(
            name="latency",
            initial={"w": np.zeros(PARAMETERS, np.float32)},
            requirement="require_x_updates",
            requirement_args=[1],
        ).model_id
        sender = client.register_client(model, name="bench").client_id
        submit = _submitter(client, model, sender)
        for number in range(1, _WARM_UP + 1):
            submit(number)
        with watching(settings.database_url, model) as seen:
            for number in range(_WARM_UP + 1, _WARM_UP + count + 1):
                began, ended = submit(number)
                handed.append(began)
                told.append(ended)
        return Updates(handed, [seen[_WARM_UP + 1 + position] for position in range(count)], told)


def _submitter(client: fedqueue.Client, model: UUID, sender: UUID) -> Callable[[int], tuple[float, float]]:
    base: int | None = None

    def submit(number: int) -> tuple[float, float]:
        nonlocal base
        values = {"w": np.full(PARAMETERS, number, np.float32)}
        began = time.monotonic()
        client.submit_update(model, sender, values, num_examples=10, base_aggregate=base)
        latest = client.wait_for_aggregate(model, after=number - 1, timeout=60)
        ended = time.monotonic()
        assert latest.number == number, f"aggregate {latest.number} where {number} was due"
        base = latest.aggregate_id
        return began, ended

    return submit


def trace_stages(database: DatabaseName, folder: Path, broker: BrokerName = "valkey") -> list[Stage]:
    """Where the time goes, on a hub of its own: writing the trace costs time that must not be in the figures."""
    folder.mkdir(parents=True)
    trace = folder / "trace.jsonl"
    traced = production_hub(
        folder / "hub",
        database,
        broker=broker,
        application="benchmarks.traced_worker",
        variables={"LATENCY_TRACE": str(trace)},
    )
    ours: list[Span] = []
    with traced as hub, _tracing_the_client(ours):
        run = submit_in_a_row(hub, _TRACED)
    spans = sorted([*read_spans(trace), *ours], key=lambda span: float(span["began"]))
    return stages_of(spans, list(zip(run.handed, run.seen, strict=True)))


@contextmanager
def _tracing_the_client(spans: list[Span]) -> Iterator[None]:
    take = fedqueue.payload.Store.take

    def timed(self: fedqueue.payload.Store, data: Any, field: str) -> fedqueue.payload.Payload:
        began = time.monotonic()
        try:
            return take(self, data, field)
        finally:
            span = {"span": "client store", "began": began, "ended": time.monotonic(), "pid": 0}
            spans.append(span | {"statements": 0, "fsyncs": 0, "fsync_seconds": 0.0})

    fedqueue.payload.Store.take = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        fedqueue.payload.Store.take = take  # type: ignore[method-assign]


# --- what is shown --------------------------------------------------------------------------------


def shown(report: Report) -> str:
    """The report for people."""
    rows = (
        ("update visible in a posted aggregate", report.visible),
        ("Client.wait_for_aggregate returned", report.told),
        ("bare Celery round trip", report.celery),
    )
    lines = [
        f"{report.database}: {report.updates} updates in a row, milliseconds",
        f"{'':40}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}",
    ]
    lines += [f"{name:40}{d.p50:9.1f}{d.p90:9.1f}{d.p99:9.1f}{d.max:9.1f}" for name, d in rows]
    ratio = [f"{a / b:8.1f}x" for a, b in _pairs(report.visible, report.celery)]
    lines.append(f"{'update visible / Celery round trip':40}{''.join(ratio)}")
    verdict = "met" if report.goal_met else "MISSED"
    lines += [
        f"goal (visible: p50 <= {GOAL_P50_MS:.0f} ms, p99 <= {GOAL_P99_MS:.0f} ms): {verdict}",
        "",
        f"where it goes (medians of {_TRACED} traced updates)  {'ms':>8}{'SQL':>6}{'fsyncs':>8}{'in fsync':>10}",
    ]
    for stage in report.stages:
        done = f"{stage.statements or '':>6}{stage.fsyncs or '':>8}"
        in_fsync = f"{stage.fsync_milliseconds:10.1f}" if stage.fsyncs else ""
        lines.append(f"{stage.name:47}{stage.milliseconds:12.1f}{done}{in_fsync}")
    return "\n".join(lines)


def _pairs(left: Distribution, right: Distribution) -> list[tuple[float, float]]:
    return [(getattr(left, name), getattr(right, name)) for name in ("p50", "p90", "p99", "max")]


def draw(path: Path, durations: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Write the plot: what share of the updates was there after so many milliseconds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    styles = {"visible": "-", "told": "--", "celery": ":"}
    names = {"visible": "update visible", "told": "sender told", "celery": "Celery round trip"}
    for database, measured in durations.items():
        for kind, seconds in measured.items():
            ordered = np.sort(np.asarray(seconds)) * 1000
            share = np.arange(1, ordered.size + 1) / ordered.size
            axes.step(ordered, share, styles[kind], where="post", label=f"{names[kind]} ({database})")
    axes.axvline(GOAL_P50_MS, color="0.7", lw=0.8)
    axes.axvline(GOAL_P99_MS, color="0.7", lw=0.8)
    axes.set(xscale="log", xlabel="milliseconds", ylabel="share", ylim=(0, 1))
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 if PostgreSQL's figures miss the goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--updates", type=int, default=500, help="how many in a row (default 500)")
    parser.add_argument("--database", choices=("postgresql", "sqlite", "both", "mariadb"), default="postgresql")
    parser.add_argument("--broker", choices=("valkey", "rabbitmq"), default="valkey")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the distributions (needs matplotlib)")
    parser.add_argument("--any-speed", action="store_true", help="exit 0 whatever the figures: for a smoke test")
    chosen = parser.parse_args(arguments)
    databases: list[DatabaseName] = ["postgresql", "sqlite"] if chosen.database == "both" else [chosen.database]
    reports: dict[str, Report] = {}
    durations: dict[str, Mapping[str, Sequence[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="fedqueue-latency-") as place:
        facts = machine_facts(Path(place))
        for name in databases:
            reports[name], durations[name] = measure(name, chosen.updates, Path(place) / name, chosen.broker)
    if chosen.json:
        figures = {name: asdict(report) | {"goal_met": report.goal_met} for name, report in reports.items()}
        print(json.dumps({"machine": facts, "milliseconds": figures}, indent=2))
    else:
        packages = ", ".join(f"{name} {number}" for name, number in facts.pop("packages").items())
        print("; ".join(f"{name} {value}" for name, value in facts.items()) + f"\n{packages}\n")
        print("\n\n".join(shown(report) for report in reports.values()))
    if chosen.plot:
        draw(chosen.plot, durations)
    return 0 if chosen.any_speed or all(report.goal_met for report in reports.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
