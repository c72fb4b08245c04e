"""A run as an FL server tells it, replayed event by event through a hub, and what a person then reads of it.

transcripts/NAME.jsonl is what the server sends, in its order: a start, three rounds with two trusts, metrics, a client
that crashes, a stop, and callbacks that come too late. NAME.txt is what is to be read, written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from fedqueue import Client
from fedqueue.messages import LogView, MetricsView, ProgressView
from tests.hubs import RunningHub, hub_running

TRANSCRIPTS = Path(__file__).parent / "transcripts"
SLOTS = {
    "flower": {"supernode-1": "King's College Hospital", "supernode-2": "University College London Hospitals"},
    "flare": {"site-1": "Guy's and St Thomas'", "site-2": "University College London Hospitals"},
}
CODES = {"King's College Hospital": "KCH", "University College London Hospitals": "UCLH"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    # One process, so that an order can be waited for: what is read then is the transcript's doing, not the machine's.
    one_after_another = {"FEDQUEUE_EMBEDDED_WORKERS": "1", "FEDQUEUE_WORKER_CONCURRENCY": "1"}
    with hub_running(tmp_path_factory.mktemp("transcripts") / "home", one_after_another) as started:
        yield started


@pytest.fixture(scope="module")
def client(hub: RunningHub) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDQUEUE_HOME", str(hub.home))
        with Client() as made:
            yield made


@pytest.fixture(scope="module")
def trusts(client: Client) -> dict[str, UUID]:
    names = dict.fromkeys(name for slots in SLOTS.values() for name in slots.values())
    return {name: client.add_trust(name, code=CODES.get(name)).trust_id for name in names}


@pytest.mark.parametrize("name", ["flower", "flare"])
def test_a_run_reads_as_a_person_expects(name: str, client: Client, trusts: dict[str, UUID]) -> None:
    events = [json.loads(line) for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines()]
    model_id = UUID(events[0]["model_id"])
    client.create_model(model_id=model_id, name=name)
    for slot, trust in SLOTS[name].items():
        client.set_slot(slot, trusts[trust])
    client.set_model_trusts(model_id, [trusts[trust] for trust in SLOTS[name].values()])

    refused = replay(client, events)
    last_run = events[-1]["run_id"]
    read = "\n".join(
        [
            "FEED",
            *map(feed_line, client.iter_logs(model_id, page=7)),
            "",
            "PROGRESS",
            *progress_lines(client.progress(model_id)),
            "",
            "METRICS",
            *metrics_lines(client.metrics(model_id, run_id=last_run)),
            "",
            "REFUSED",
            *(refused or ["nothing"]),
            "",
        ]
    )
    assert read == (TRANSCRIPTS / f"{name}.txt").read_text()


def test_each_run_s_feed_is_read_by_itself(client: Client, trusts: dict[str, UUID]) -> None:
    """What FLARE's first attempt told, late parts included, is none of the second's."""
    events = [json.loads(line) for line in (TRANSCRIPTS / "flare.jsonl").read_text().splitlines()]
    first, second = (UUID(run) for run in dict.fromkeys(event["run_id"] for event in events))
    model_id = UUID(events[0]["model_id"])
    texts = [entry.text for entry in client.iter_logs(model_id, run_id=first)]
    assert texts == [
        "Run initiated",
        "Training started",
        "Round 1 of 9 started",
        "Run ended with an error",
        "Round 8 of 9 started",
    ]
    assert {entry.run_id for entry in client.iter_logs(model_id, run_id=second)} == {second}


# --- replaying and reading ------------------------------------------------------------------------


def replay(client: Client, events: list[dict[str, Any]]) -> list[str]:
    """Send one event after another, each once all that came of the one before is done; what was refused, and where.

    A run takes minutes and this takes a second: without the pauses that there are in a run, what goes through the queue
    of events and what goes through the queue of control might overtake one another.
    """
    behind = client.create_model(name="behind it all").model_id
    refused = []
    for event in events:
        view = client.send_events([event], wait=True)
        refused += [f"{refusal.kind} ({(refusal.field or '').split('.')[-1]})" for refusal in view.refused]
        # The one process takes each queue in its order: what is answered now stands behind what the event led to.
        client.send_event(behind, log="done?", wait=True)
        client.get_model(behind)
    return refused


def feed_line(entry: LogView) -> str:
    return f"{entry.sender or '-'} {'|' if entry.success else '!'} {entry.text}"


def progress_lines(progress: ProgressView) -> list[str]:
    rounds = f"round {progress.current_round} of {progress.total_rounds}, {progress.completed_rounds} completed"
    return [
        f"{progress.status}, {rounds}",
        *(f"{each.name}: {each.state}, last in round {each.last_round}" for each in progress.participants),
    ]


def metrics_lines(metrics: MetricsView) -> list[str]:
    lines = []
    for plot in metrics.plots:
        lines.append(f"{plot.label} over {plot.x_label}")
        for series in plot.series:
            points = ", ".join(f"{point.x_value:g} → {point.result:g}" for point in series.points)
            lines.append(f"{series.sender or '-'}: {points}")
    return lines
