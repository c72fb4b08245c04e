"""Submissions from several processes, and what their senders were told."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from config.settings import Settings
from fedqueue import Client
from tests.chaos.facts import Facts, read_facts
from tests.chaos.invariants import Accepted
from tests.chaos.submitter import Plan
from tests.hubs import ROOT, environment
from worker.children import die_with_parent

PARAMETERS = 60_000

# Rounds of one update, and rounds of four: many claims, and claims of many.
_GATES = (1, 4)


@dataclass
class Told:
    """What the senders were told, put together."""

    accepted: list[Accepted] = field(default_factory=list)
    rejected: list[UUID] = field(default_factory=list)
    unanswered: int = 0
    problems: list[str] = field(default_factory=list)


class Traffic:
    """Two models, their clients, and processes that submit to them until `finish`."""

    def __init__(self, settings: Settings, folder: Path, seed: int, processes: int, threads: int, pause: float) -> None:
        self._settings = settings
        self._folder = folder
        self.models = self._make_models()
        self._plans = [folder / f"submitter{number}.json" for number in range(processes)]
        clients = [str(client) for client in self._clients]
        for number, path in enumerate(self._plans):
            Plan(
                settings.broker_url,
                settings.result_url,
                settings.store_url,
                [str(model) for model in self.models],
                clients,
                PARAMETERS,
                threads,
                pause,
                seed + number,
            ).write(path)
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

    def _make_models(self) -> list[UUID]:
        settings = self._settings
        with Client(settings.broker_url, settings.result_url, settings.store_url) as hub:
            models = [
                hub.create_model(
                    initial={"w": np.zeros(PARAMETERS, np.float32)},
                    requirement="require_x_updates",
                    requirement_args=[gate],
                    allow_repeats=True,
                ).model_id
                for gate in _GATES
            ]
            self._clients = [hub.register_client(models[0]).client_id for _ in range(4)]
            for client in self._clients:
                for model in models[1:]:
                    hub.register_client(model, client)
        return models

    def finish(self, seconds: float) -> Told:
        """Let every submission under way be answered, and then every update be counted. Raises: AssertionError."""
        deadline = time.monotonic() + seconds
        for path in self._plans:
            path.with_suffix(".stop").touch()
        for process, path in zip(self._running, self._plans, strict=True):
            try:
                code = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"submissions stayed unanswered for {seconds} s: {self.told()}") from None
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
                for line in journal.read_text().splitlines():
                    _add(told, json.loads(line))
        return told


def _add(told: Told, entry: dict[str, Any]) -> None:
    if "accepted" in entry:
        told.accepted.append(Accepted(UUID(entry["accepted"]), entry["num_examples"]))
    elif "rejected" in entry:
        told.rejected.append(UUID(entry["rejected"]))
    elif "unanswered" in entry:
        told.unanswered += 1
    else:
        told.problems.append(entry["problem"])


@contextmanager
def traffic_running(
    settings: Settings, folder: Path, seed: int, *, processes: int = 2, threads: int = 2, pause: float = 0.05
) -> Iterator[Traffic]:
    """Submissions all the while."""
    traffic = Traffic(settings, folder, seed, processes, threads, pause)
    try:
        yield traffic
    finally:
        traffic.kill()


def settled(database_url: str, seconds: float) -> tuple[Facts, float]:
    """The facts once nothing is under way or waiting any more, and how long that took.

    Raises: AssertionError with what still is, after `seconds`.
    """
    began = time.monotonic()
    while True:
        facts = read_facts(database_url)
        waiting = [f"{u['id']} {u['status']}" for u in facts.updates if u["status"] not in ("COMPLETE", "INVALID")]
        held = [model["id"] for model in facts.models if model["lease_until"] is not None]
        if not waiting and not held:
            return facts, time.monotonic() - began
        assert time.monotonic() < began + seconds, f"after {seconds} s: updates {waiting}, models held {held}"
        time.sleep(0.1)


def wait_until(what: str, holds: Callable[[], object], seconds: float) -> None:
    """Return once `holds`. Raises: AssertionError."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.02)
