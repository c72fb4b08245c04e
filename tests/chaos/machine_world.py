"""A hub whose workers may die at any failpoint: the real tasks, rules, connectors and files, over a broker of a list.

A delivery is a task's whole run in a worker's short `Life`: parsed, carried out, answered, acknowledged. A worker that
dies leaves its message in the list, as a broker keeps what is not acknowledged; one that sleeps is a thread that goes
on later, however much has happened meanwhile. What clients were told and what they may expect is remembered here.

Its length is that of the hub's trade: a way to send each kind of message, and what must come of each.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import numpy as np
from celery import Celery
from safetensors.numpy import save

from config.settings import Settings
from connectors.errors import ModelDataError, StoreUnavailable, Unavailable
from connectors.records import ReasonCode
from connectors.storage import FileModelDataConnector
from fedqueue.messages import names
from tasks.aggregation import TooFewUpdates
from tasks.domain.errors import RunNotBegun
from tasks.hub import Hub
from tests.chaos.domain_hub import add_model
from tests.chaos.failpoints import Died, Failpoint, Life, acting, reach
from tests.chaos.machine_grounds import Ground
from tests.chaos.machine_workers import Fate, Sleeper, Tally
from worker.bootstrap import TASK_MODULES

CLIENTS: Final = 3
LEASE_MS: Final = 30_000
DAY_MS: Final = 25 * 3600 * 1000


@dataclass(eq=False)
class Message:
    """One that the broker has."""

    task: str
    payload: Mapping[str, Any]


class World:
    """One hub, its broker, one model, its clients, and any number of workers."""

    def __init__(self, ground: Ground, folder: Path, tally: Tally, **settings: Any) -> None:
        self.ground = ground
        self.folder = folder
        self.tally = tally
        self.corrupted = 0  # updates that the store gave back as other bytes
        self.luck = random.Random(0)
        self.waiting: list[Message] = []  # delivered and acknowledged in any order
        self.acknowledged: list[Message] = []
        self.asleep: list[Sleeper] = []
        self.told: list[tuple[str, Mapping[str, Any]]] = []  # to the service that is notified
        self.submissions: dict[str, Mapping[str, Any]] = {}
        self.answers: dict[str, tuple[int, str]] = {}  # by submission: its update, the status it was first told
        self.events: dict[UUID, bool] = {}  # by event id: is it a point of a metric; those that must show up
        self.hub = Hub(
            settings=Settings(
                home=folder,
                notify_task="theirs.hear",
                notify_queue="theirs",
                lease_seconds=LEASE_MS / 1000,
                **settings,
            ),
            metadata=ground.metadata,
            model_data=FileModelDataConnector(folder / "store"),
            send=self._take,
            worker="machine",
        )

    def create(self, **policy: Any) -> None:
        """The model and its clients, before anything goes wrong."""
        self.model, self.clients = add_model(self.hub, CLIENTS, **policy)

    # --- what others send -------------------------------------------------------------------------

    def submit(self, client: int, value: int, examples: int, behind: int, fate: Fate | str) -> None:
        """An update trained from one of the newest aggregates, or from none while there is none; taken at once by
        a worker of that fate, unless it "waits"."""
        aggregates = self.hub.metadata.pull_model_aggregates(self.model)
        base = aggregates[-1 - min(behind, len(aggregates) - 1)].id if aggregates else None
        numbers = np.arange(6, dtype=np.float32).reshape(2, 3) + np.float32(value)
        message: dict[str, Any] = {
            "submission_id": str(uuid4()),
            "model_id": str(self.model.uuid),
            "client_id": str(self.clients[client]),
            "num_examples": float(examples),
            "base_aggregate": base,
        }
        if self.model.data_format == "json":
            message["data"] = [numbers.tolist()]
        else:
            blob = self.hub.model_data.push_model_data_to_storage(self.model, save({"w": numbers}))
            message |= {"data_uri": blob.uri, "digest": blob.digest}
        self.submissions[message["submission_id"]] = message
        self.send(names.UPDATES_SUBMIT, message)
        if fate != "waits":
            self.deliver(-1, fate)

    def submit_again(self, which: int) -> None:
        """A submission that its sender has no answer to, or forgot that it has."""
        if self.submissions:
            submissions = list(self.submissions.values())
            self.send(names.UPDATES_SUBMIT, submissions[which % len(submissions)])

    def tell(self, kinds: list[str]) -> None:
        """A message of events: lines and points, one of nobody's, a status."""
        told = []
        for kind in kinds:
            event: dict[str, Any] = {"event_id": str(uuid4()), "model_id": str(self.model.uuid)}
            if kind == "point":
                event |= {"metric": {"label": "loss", "result": 0.5}, "global_round": len(self.events)}
            elif kind == "status":
                event["event_type"] = "PREPARED"
            else:
                event["log"] = f"line {len(self.events)}"
            if kind == "stranger":
                event["model_id"] = str(uuid4())
            elif kind in ("line", "point"):
                self.events[UUID(event["event_id"])] = kind == "point"
            told.append(event)
        self.send(names.EVENTS_INGEST, {"events": told})

    def score(self, client: int, value: int) -> None:
        """What a client measured of the newest aggregate, if there is one."""
        newest = self.hub.metadata.pull_latest_model_aggregate(self.model)
        if newest is not None:
            message = {"model_id": str(self.model.uuid), "aggregate_id": newest.id}
            results = {"client_id": str(self.clients[client]), "validation_results": {"loss": value}}
            self.send(names.SCORES_ADD, message | results)

    def edit(self, needed: int) -> None:
        """A new requirement."""
        changes = {"requirement": "require_x_updates", "requirement_args": [needed]}
        self.send(names.MODELS_EDIT, {"model_id": str(self.model.uuid), "changes": changes})

    def litter(self) -> None:
        """Bytes that a client stores and never submits."""
        self.hub.model_data.push_model_data_to_storage(self.model, uuid4().bytes)

    def register(self, client: int) -> None:
        """A client that is registered already."""
        message = {"model_id": str(self.model.uuid), "client_id": str(self.clients[client])}
        self.send(names.MODELS_REGISTER_CLIENT, message)

    def stand(self, status: str) -> None:
        """A callback's status."""
        message = {"model_id": str(self.model.uuid), "status": status, "event_id": str(uuid4())}
        self.send(names.MODELS_UPDATE_STATUS, message)

    def then(self, sending: tuple[Any, ...], how: str) -> None:
        """One of the above, taken at once by a worker of that fate, unless it "waits"."""
        what, *details = sending
        getattr(self, what)(*details)
        if how != "waits":
            self.deliver(-1, how)

    def look(self, fate: Fate | str) -> None:
        """A hint, taken at once."""
        self.send(names.ROUNDS_AGGREGATE, {"model_id": self.model.id})
        self.deliver(-1, fate)

    def sleep(self) -> None:
        """A worker falls asleep amid a round for longer than its lease, and another takes the round up."""
        self.look("sleeps")
        self.turn(LEASE_MS + 1)
        self.look(Fate())

    def doze(self) -> None:
        """The whole machine sleeps for a day amid a round; garbage is collected before anything else is done."""
        self.look("sleeps")
        self._doze("lives")

    def doze_at(self, message: Message, point: Failpoint) -> None:
        """The same with that message, at that point."""
        self.deliver(self.waiting.index(message), Fate(sleeps_at=point))
        assert self.asleep, f"its worker did not come by {point}"
        self._doze(Fate())

    def _doze(self, fate: Fate | str) -> None:
        self.turn(DAY_MS)
        self.collect()
        self.deliver(-1, Fate())
        self.wake(-1, fate)

    def serve(self, count: int) -> None:
        """So many messages are delivered to workers that live, the oldest first."""
        for _ in range(count):
            self.deliver(0, Fate())

    def sweep(self) -> None:
        """What every worker's sweeper asks for."""
        self.send(names.ROUNDS_POLL, {})
        self.send(names.MAINTENANCE_OUTBOX, {})

    def collect(self) -> None:
        """What beat asks for once an hour."""
        self.send(names.MAINTENANCE_GARBAGE, {})

    def send(self, task: str, payload: Mapping[str, Any]) -> None:
        """Put a message to the others."""
        self.waiting.append(Message(task, payload))

    # --- what the broker and time do ----------------------------------------------------------------

    def flush(self) -> None:
        """The broker loses every hint. What clients and FL servers sent is theirs to send again."""
        self.waiting = [m for m in self.waiting if m.task not in (names.ROUNDS_AGGREGATE, names.ROUNDS_POLL)]

    def redeliver(self, which: int) -> None:
        """One that was acknowledged long ago comes once more."""
        if self.acknowledged:
            self.waiting.append(self.acknowledged[which % len(self.acknowledged)])

    def turn(self, milliseconds: int) -> None:
        """Time goes by, for leases, rests and (if it is days) blobs."""
        self.ground.turn(milliseconds)
        if milliseconds >= DAY_MS:
            then = time.time() - milliseconds / 1000
            for folder, _, files in os.walk(self.folder / "store"):
                for name in files:
                    os.utime(os.path.join(folder, name), (then, then))  # noqa: PTH118  # ten thousand times

    # --- what workers do ----------------------------------------------------------------------------

    def deliver(self, which: int, fate: Fate | str) -> None:
        """One of the waiting messages goes to a worker."""
        if not self.waiting:
            return
        message = self.waiting[which % len(self.waiting)]
        if isinstance(fate, str):
            fate = self._fate(fate, message.task)
        if fate.sleeps_after is None and fate.sleeps_at is None:
            self.work(message, self._life(fate))
            return
        sleeper = Sleeper(partial(self.work, message), self.tally.points, fate)
        sleeper.go_on()
        if not sleeper.is_done:
            self.asleep.append(sleeper)

    def wake(self, which: int, fate: Fate | str) -> None:
        """A worker that slept goes on, for good or to its death."""
        if not self.asleep:
            return
        sleeper = self.asleep.pop(which % len(self.asleep))
        before = self.tally.outcomes["overtaken"]
        sleeper.fate = self._fate(fate, names.ROUNDS_AGGREGATE) if isinstance(fate, str) else fate
        sleeper.count = 0
        sleeper.go_on()
        assert sleeper.is_done
        self.tally.outcomes["fenced"] += self.tally.outcomes["overtaken"] - before

    def work(self, message: Message, life: Life) -> None:
        """A task's whole run."""
        with acting(life):
            try:
                try:
                    answer = self._carry_out(message)
                except (Unavailable, RunNotBegun):
                    self.tally.outcomes["came back"] += 1
                    return  # it comes again
                reach(Failpoint.MESSAGE_DONE)
                self._hear(message, answer)
                reach(Failpoint.BEFORE_ACK)
            except Died as died:
                self.tally.deaths[died.point] += 1
                return
        if message in self.waiting:
            self.waiting.remove(message)
        self.acknowledged = [*self.acknowledged[-9:], message]

    def _carry_out(self, message: Message) -> dict[str, Any]:
        app = application()
        app.hub = self.hub
        answer: dict[str, Any] = app.tasks[message.task](dict(message.payload))
        return answer

    def _hear(self, message: Message, answer: Mapping[str, Any]) -> None:
        value = answer["value"]
        if message.task == names.ROUNDS_AGGREGATE:
            self.tally.outcomes[value["outcome"]] += 1
        if message.task != names.UPDATES_SUBMIT:
            return
        if value is None:
            assert answer["rejection"]["kind"] == "ModelIsOver", answer
            return
        told = self.answers.setdefault(value["submission_id"], (value["update_id"], value["status"]))
        assert told[0] == value["update_id"], f"one submission was answered {told}, and then {value}"

    def _fate(self, how: str, task: str) -> Fate:
        """What it comes to: a round has some 24 failpoints on its way, most other tasks two to nine."""
        luck, length = self.luck, 25 if task == names.ROUNDS_AGGREGATE else 9
        if how == "dies":
            return Fate(dies_after=luck.randrange(length))
        if how == "sleeps":
            return Fate(sleeps_after=luck.randrange(12))
        if how == "fails":
            return Fate(fault=luck.choice(list(_FAULTS)), dies_after=luck.choice([None, 5, 6, 7, 8, 9, 10]))
        return Fate()

    def _life(self, fate: Fate, sleeps: Callable[[Failpoint], None] = lambda point: None) -> Life:
        count = 0

        def dies(point: Failpoint) -> bool:
            nonlocal count
            count += 1
            return point is fate.dies_at or (fate.dies_after is not None and count > fate.dies_after)

        def fails(point: Failpoint) -> None:
            sleeps(point)
            if point is Failpoint.OPENED and fate.fault is not None:
                self.tally.outcomes[f"fault: {fate.fault}"] += 1
                self.corrupted += fate.fault == "corrupt"
                raise _FAULTS[fate.fault]()

        return Life(self.tally.points, dies, sleeps=fails)

    def _take(self, task: str, message: Mapping[str, Any], queue: str | None) -> None:
        if queue is None:
            self.waiting.append(Message(task, dict(message)))
        else:
            self.told.append((message["key"], dict(message)))


@cache
def application() -> Celery:
    """An application with the hub's tasks, that sends nothing and asks nobody."""
    for module in TASK_MODULES:
        import_module(module)
    app = Celery("machine", set_as_current=False, fixups=[])
    app.finalize()
    return app


_FAULTS: Final[dict[str, Callable[[], Exception]]] = {
    "away": lambda: StoreUnavailable("a fault that the machine has made"),
    "corrupt": lambda: ModelDataError(ReasonCode.CORRUPT, "a fault that the machine has made"),
    "few": lambda: TooFewUpdates("fedavg", 1, 2, "a fault that the machine has made"),
}
