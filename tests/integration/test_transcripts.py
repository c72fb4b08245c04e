"""A run as an FL server tells it, replayed event by event through a hub, and what a person then reads of it.

transcripts/NAME.jsonl is what the server sends, in its order: a start, three rounds with two trusts, metrics, a client
that crashes, a stop, and callbacks that come too late. NAME.txt is what is to be read, written by hand.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest

from config.loading import load_settings
from config.places import database_url_in
from connectors.metadata import BaseMetadataConnector as Metadata
from connectors.records import FederatedModel
from fedqueue import Client
from fedqueue.messages import LogView, MetricsView, ProgressView
from fedqueue.messages.events import STATUS_EVENTS
from tests.hubs import RunningHub, hub_running
from worker.bootstrap import build_metadata

TRANSCRIPTS = Path(__file__).parent / "transcripts"
SLOTS = {
    "flower": {"supernode-1": "King's College Hospital", "supernode-2": "University College London Hospitals"},
    "flare": {"site-1": "Guy's and St Thomas'", "site-2": "University College London Hospitals"},
}
# Of each transcript, those that change something, as its .txt tells them.
STATUSES = {
    "flower": ["INITIATED", "PREPARED", "RUNNING", "STOPPED"],
    "flare": ["INITIATED", "RUNNING", "ERROR", "INITIATED", "PREPARED", "RUNNING", "STOPPED"],
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


@pytest.fixture
def several_workers(tmp_path: Path) -> Iterator[tuple[Client, Metadata]]:
    """A client of a hub with as many workers as anybody's has, and a look at its database."""
    with hub_running(tmp_path / "home") as hub, pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("FEDQUEUE_HOME", str(hub.home))
        metadata = build_metadata(load_settings(None, home=hub.home, database_url=database_url_in(hub.home)))
        stack.callback(metadata.close)
        yield stack.enter_context(Client()), metadata


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


@pytest.mark.parametrize("name", ["flower", "flare"])
def test_statuses_of_one_batch_are_all_told_in_their_order(name: str, several_workers: tuple[Client, Metadata]) -> None:
    """By two workers of two processes each: one that overtook another would make it one too late, told to nobody."""
    client, metadata = several_workers
    lines = (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines()
    models = [client.create_model(name=name) for _ in range(10)]
    for model in models:
        client.send_events(as_if_new([json.loads(line) for line in lines], model.model_id))
    for model in models:
        found = metadata.pull_federated_model_w_id(model.model_id)
        assert found is not None
        expected = STATUSES[name]
        deadline = time.monotonic() + 30
        while (told := told_statuses(metadata, found)) != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        assert told == expected
        audited = [str(action) for action, _ in metadata.pull_audit(found)]
        assert [action for action in audited if action in STATUS_EVENTS] == expected


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


def as_if_new(events: list[dict[str, Any]], model_id: UUID) -> list[dict[str, Any]]:
    """The same of another model: every id of its own, repeats repeated."""

    def own(old: str) -> str:
        return str(uuid5(model_id, old))

    return [
        event | {"event_id": own(event["event_id"]), "model_id": str(model_id), "run_id": own(event["run_id"])}
        for event in events
    ]


def told_statuses(metadata: Metadata, model: FederatedModel) -> list[str | None]:
    return [entry.event_type for entry in metadata.pull_logs(model) if entry.event_type in STATUS_EVENTS]


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
