"""Submissions, and all else that a hub is told, from several processes; and what their senders were told."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from config.settings import Settings
from fedqueue import Client
from fedqueue.messages import names
from tests.chaos.facts import Facts, read_facts
from tests.chaos.invariants import Accepted
from tests.chaos.questions import questions_to
from tests.chaos.sending import Plan
from tests.chaos.submitter import JSON_LAYERS
from tests.hubs import ROOT, environment
from worker.bootstrap import HubCelery
from worker.children import die_with_parent

# Rounds of one update, rounds of four and of two: many claims, and claims of many.
_GATES = (1, 4, 2)


@dataclass(frozen=True)
class Load:
    """How much is sent: to how many models, by how many processes of how many threads, each with that pause."""

    models: int = 2
    json_models: int = 0
    parameters: int = 60_000
    processes: int = 2
    submitters: int = 2
    tellers: int = 0
    pause: float = 0.05


@dataclass
class Told:
    """What the senders were told, put together."""

    accepted: list[Accepted] = field(default_factory=list)
    rejected: list[UUID] = field(default_factory=list)
    events: dict[UUID, UUID] = field(default_factory=dict)  # that must be in the feed or a metric, and their models
    refused: dict[UUID, UUID] = field(default_factory=dict)  # that must not
    scored: set[tuple[int, UUID]] = field(default_factory=set)  # (aggregate, client)
    deleted: set[UUID] = field(default_factory=set)  # models, though some perhaps a moment later
    orphans: list[Path] = field(default_factory=list)  # blobs that nobody will name
    unanswered: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, entry: dict[str, Any]) -> None:
        """One line of a journal."""
        match entry:
            case {"accepted": submission, "num_examples": examples}:
                self.accepted.append(Accepted(UUID(submission), examples))
            case {"rejected": submission}:
                self.rejected.append(UUID(submission))
            case {"told": event, "model": model}:
                self.events[UUID(event)] = UUID(model)
            case {"refused": event, "model": model}:
                self.refused[UUID(event)] = UUID(model)
            case {"scored": aggregate, "client": client}:
                self.scored.add((aggregate, UUID(client)))
            case {"deleted": model}:
                self.deleted.add(UUID(model))
            case {"orphan": path}:
                self.orphans.append(Path(path))
            case {"unanswered": _}:
                self.unanswered += 1
            case _:
                self.problems.append(str(entry))


class Traffic:
    """Models, their clients, and processes that send until `finish`."""

    def __init__(self, settings: Settings, folder: Path, seed: int, load: Load) -> None:
        self._settings = settings
        self._folder = folder
        self._clients: list[UUID] = []
        arrays, lists = {"w": np.zeros(load.parameters, np.float32)}, [[0.0] * size for size in JSON_LAYERS]
        with Client(settings.broker_url, settings.result_url, settings.store_url, resend_after=1.0) as hub:
            self.models = [self._make_model(hub, gate, arrays) for gate in islice(cycle(_GATES), load.models)]
            json_models = [self._make_model(hub, gate, lists) for gate in islice(cycle(_GATES), load.json_models)]
        self._plans = [folder / f"sender{number}.json" for number in range(load.processes)]
        for number, path in enumerate(self._plans):
            Plan(
                settings.broker_url,
                settings.result_url,
                settings.store_url,
                [str(model) for model in self.models],
                [str(model) for model in json_models],
                [str(client) for client in self._clients],
                load.parameters,
                load.submitters,
                load.tellers,
                load.pause,
                seed + number,
            ).write(path)
        self.models += json_models
        self._running = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.submitter", str(path)],
                cwd=ROOT,
                env=environment(folder),
                stderr=path.with_suffix(".log").open("w"),
                preexec_fn=die_with_parent(),
            )
            for path in self._plans
        ]

    def _make_model(self, hub: Client, gate: int, initial: Any) -> UUID:
        model = hub.create_model(
            initial=initial, requirement="require_x_updates", requirement_args=[gate], allow_repeats=True
        ).model_id
        if not self._clients:
            self._clients = [hub.register_client(model).client_id for _ in range(4)]
        else:
            for client in self._clients:
                hub.register_client(model, client)
        return model

    def finish(self, seconds: float) -> Told:
        """Let every call under way be answered, and then every update be counted. Raises: AssertionError."""
        deadline = time.monotonic() + seconds
        for path in self._plans:
            path.with_suffix(".stop").touch()
        for process, path in zip(self._running, self._plans, strict=True):
            try:
                code = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"calls stayed unanswered for {seconds} s") from None
            assert code == 0, path.with_suffix(".log").read_text()
        settings = self._settings
        with Client(settings.broker_url, settings.result_url, settings.store_url, resend_after=1.0) as hub:
            for model in self.models:
                hub.edit_model(model, requirement=None, timeout=seconds)
        return self.told()

    def kill(self) -> None:
        """End the processes, if they still run."""
        for process in self._running:
            if process.poll() is None:
                process.kill()
            process.wait()

    def told(self) -> Told:
        """What the journals hold by now."""
        told = Told()
        for path in self._plans:
            for journal in sorted(self._folder.glob(f"{path.stem}.*.journal")):
                # The last line may be half written.
                for line in journal.read_text().splitlines(keepends=True):
                    if line.endswith("\n"):
                        told.add(json.loads(line))
        return told


@contextmanager
def traffic_running(settings: Settings, folder: Path, seed: int, load: Load | None = None) -> Iterator[Traffic]:
    """Calls all the while."""
    traffic = Traffic(settings, folder, seed, load or Load())
    try:
        yield traffic
    finally:
        traffic.kill()


@contextmanager
def reminded(settings: Settings, models: Sequence[UUID], every: float = 0.5) -> Iterator[None]:
    """The hub told, again and again, to collect what no row names, and to look at a round that is mostly not due."""
    ending = threading.Event()

    def tell() -> None:
        with HubCelery(settings) as app:
            for model in cycle(models):
                if ending.wait(every):
                    return
                app.send_task(names.MAINTENANCE_GARBAGE, args=[{}], expires=10, ignore_result=True)
                hint = {"model_id": str(model)}
                app.send_task(names.ROUNDS_AGGREGATE, args=[hint], expires=10, ignore_result=True)

    telling = threading.Thread(target=tell, name="chaos-reminder", daemon=True)
    telling.start()
    try:
        yield
    finally:
        ending.set()
        telling.join()


_UNDER_WAY = {
    "updates": "SELECT id, status FROM model_update WHERE status NOT IN ('COMPLETE', 'INVALID') ORDER BY id LIMIT 20",
    "models held": "SELECT id, lease_until FROM federated_model WHERE lease_until IS NOT NULL",
    "follow-ups": "SELECT id, task FROM outbox WHERE sent_at IS NULL ORDER BY id LIMIT 20",
}


def settled(database_url: str, seconds: float) -> tuple[Facts, float]:
    """The facts once nothing is under way or waiting any more, and how long that took.

    Raises: AssertionError with what still is, after `seconds`.
    """
    began = time.monotonic()
    with questions_to(database_url) as questions:
        while left := {what: rows for what, asked in _UNDER_WAY.items() if (rows := questions.ask(asked))}:
            assert time.monotonic() < began + seconds, f"after {seconds} s: {left}"
            time.sleep(0.1)
    return read_facts(database_url), time.monotonic() - began


def wait_until(what: str, holds: Callable[[], object], seconds: float) -> None:
    """Return once `holds`. Raises: AssertionError."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.02)
