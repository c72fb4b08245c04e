"""Processes that send events, all from one moment on: what a burst of FL servers looks like to a hub."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID, uuid4

import fedqueue
from config.settings import Settings
from fedqueue.messages.events import FLEvent
from fedqueue.messages.names import EVENTS_QUEUE, MAINTENANCE_CANARY
from worker.bootstrap import HubCelery

Way = Literal["no-op", "single", "batched", "endpoint"]

# The FL kit slots that the events name.
SLOTS: Final = ("site-1", "site-2", "site-3", "site-4")

_START_SECONDS: Final = 60.0
_SEND_SECONDS: Final = 600.0


@dataclass(frozen=True)
class Load:
    """What each process sends, and where to. `size`: events a message of the batched way."""

    way: Way
    events: int
    size: int
    model_id: UUID
    broker_url: str
    result_url: str
    home: Path
    port: int = 0
    seed: int = field(default=0)


@dataclass(frozen=True)
class Sending:
    """When the first event was sent and the last was out of the senders' hands, on the monotonic clock."""

    began: float
    ended: float


def send_from(load: Load, processes: int) -> Sending:
    """Send the load from each of so many processes at once. Raises: RuntimeError if one fails."""
    context = multiprocessing.get_context("spawn")
    lines: list[Connection] = []
    senders = []
    for number in range(processes):
        ours, theirs = context.Pipe()
        sender = context.Process(target=_send, args=(load, number, theirs), daemon=True)
        sender.start()
        theirs.close()
        lines.append(ours)
        senders.append(sender)
    try:
        _all_say(lines, "ready", _START_SECONDS)
        for line in lines:
            line.send("go")
        told = _all_say(lines, "sent", _SEND_SECONDS)
    finally:
        for sender in senders:
            sender.join(1)
            sender.terminate()
    return Sending(min(began for began, _ in told), max(ended for _, ended in told))


def _all_say(lines: Sequence[Connection], what: str, seconds: float) -> list[tuple[float, float]]:
    told = []
    for line in lines:
        try:
            if not line.poll(seconds):
                raise RuntimeError(f"a sender did not say {what!r} within {seconds:.0f} s")
            said, *times = line.recv()
        except EOFError:
            raise RuntimeError("a sender died: what it said is above") from None
        assert said == what
        told.append((times[0], times[1]) if times else (0.0, 0.0))
    return told


def _send(load: Load, number: int, line: Connection) -> None:
    send = _WAYS[load.way](load, number)
    line.send(("ready",))
    line.recv()
    began = time.monotonic()
    send()
    line.send(("sent", began, time.monotonic()))


def events_of(load: Load, number: int) -> list[FLEvent]:
    """Half of them points of metrics, three in ten typed events with details, two in ten lines of free text."""
    draw = random.Random(f"{load.seed} {number}")
    return [_event(load.model_id, draw, position) for position in range(load.events)]


def _event(model_id: UUID, draw: random.Random, position: int) -> FLEvent:
    facts: dict[str, Any] = {"event_id": uuid4(), "model_id": model_id, "global_round": 1 + position // 20}
    facts["fl_client_name"] = draw.choice(SLOTS)
    kind = draw.random()
    if kind < 0.5:
        facts["metric"] = {"label": draw.choice(("accuracy", "loss")), "result": draw.random()}
    elif kind < 0.8:
        facts |= {"event_type": "CLIENT_RESULT_RECEIVED", "details": {"size_bytes": draw.randrange(10**8)}}
    else:
        facts["log"] = "epoch finished, validation follows; learning rate halved after a plateau of three rounds"
    return FLEvent.model_validate(facts)


# --- the ways ---------------------------------------------------------------------------------------


def _prepare_noop(load: Load, _: int) -> Callable[[], None]:
    app = HubCelery(Settings(home=load.home, broker_url=load.broker_url, result_url=load.result_url))
    producer = app.amqp.Producer(app.connection_for_write())

    def send(count: int = load.events) -> None:
        for _ in range(count):
            app.send_task(MAINTENANCE_CANARY, queue=EVENTS_QUEUE, ignore_result=True, producer=producer)

    send(1)  # connected, and the queues declared
    return send


def _prepare_single(load: Load, number: int) -> Callable[[], None]:
    client, events = _client(load), events_of(load, number)

    def send() -> None:
        for event in events:
            client.send_events([event])

    return send


def _prepare_batched(load: Load, number: int) -> Callable[[], None]:
    client, events = _client(load), events_of(load, number)

    def send() -> None:
        for start in range(0, len(events), load.size):
            client.send_events(events[start : start + load.size])

    return send


def _client(load: Load) -> fedqueue.Client:
    client = fedqueue.Client(load.broker_url, load.result_url)
    client.get_model(load.model_id)  # connected, and everything imported
    return client


def _prepare_posts(load: Load, number: int) -> Callable[[], None]:
    events = [event.model_dump(mode="json", exclude_defaults=True) for event in events_of(load, number)]
    # Kept alive: one connection for all its requests.
    line = http.client.HTTPConnection("127.0.0.1", load.port)
    line.connect()

    def send() -> None:
        for event in events:
            line.request("POST", "/events", json.dumps(event), {"Content-Type": "application/json"})
            answer = line.getresponse()
            answer.read()
            assert answer.status == 201, answer.status

    return send


_WAYS: Final[dict[Way, Callable[[Load, int], Callable[[], None]]]] = {
    "no-op": _prepare_noop,
    "single": _prepare_single,
    "batched": _prepare_batched,
    "endpoint": _prepare_posts,
}
