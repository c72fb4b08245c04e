"""Run participants in Node.js on a hub of their own: `python -m examples.node`.

Two institutions each send an update, as a safetensors file in the store, and an event; one of them sends both twice, as
a program does that was restarted. What came of it is read back from the hub: every update and event counts once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from config.loading import load_settings
from fedqueue import Client
from worker.supervisor import Supervisor

FOLDER = Path(__file__).parent
_WHEELS_NODE = FOLDER.parent.parent / ".peers/node/bin/node"
_SECONDS = 60.0


@dataclass(frozen=True)
class Participant:
    """Who sends what, and the ids that make a repeat of it a repeat."""

    name: str
    values: Sequence[float]
    num_examples: int
    client_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    submission_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    event_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def arguments(self, model_id: object) -> list[str]:
        """Of participant.mjs."""
        given = {
            "model": model_id,
            "client": self.client_id,
            "submission": self.submission_id,
            "event": self.event_id,
            "name": self.name,
            "values": ",".join(map(str, self.values)),
            "num-examples": self.num_examples,
        }
        return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def find_node() -> str | None:
    """The Node.js that `make peers` installs, else the one of this machine."""
    return str(_WHEELS_NODE) if _WHEELS_NODE.exists() else shutil.which("node")


def run_participant(node: str, arguments: Sequence[str], variables: dict[str, str]) -> dict[str, Any]:
    """What participant.mjs says in its line of JSON. Raises: CalledProcessError."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("FEDQUEUE_")}
    command = [node, str(FOLDER / "participant.mjs"), *arguments]
    done = subprocess.run(command, env=outside | variables, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them, and end with a line of what came of it."""
    parser = argparse.ArgumentParser(prog="python -m examples.node", description=__doc__)
    parser.add_argument("--node", default=find_node(), help="the program; by default the one that is found")
    given = parser.parse_args(arguments)
    if given.node is None or not (FOLDER / "node_modules").exists():
        parser.error("Node.js or its packages are not there: run `make example-node`")
    north, south = Participant("north", [1, 2, 4], 10), Participant("south", [5, 2, 3], 30)
    with (
        tempfile.TemporaryDirectory(prefix="fedqueue-node-") as place,
        Supervisor(load_settings(None, home=Path(place))) as hub,
        Client(hub.settings.broker_url, hub.settings.result_url, hub.settings.store_url) as client,
    ):
        model = client.create_model(
            initial={"w": np.zeros(3, np.float32)}, requirement="require_x_clients", requirement_args={"x": 2}
        ).model_id
        for participant, options in ((north, []), (north, []), (south, ["--aggregate", "1"])):
            words = [*participant.arguments(model), "--tensor", *options]
            said = run_participant(given.node, words, {"FEDQUEUE_HOME": place})
            again = " again" if said["update"]["repeated"] else ""
            sys.stdout.write(f"{participant.name}: update {said['update']['update_id']}{again}\n")
        told = _entries_told(client, model, [north, south])
        counted = client.get_model(model).updates.get("COMPLETE", 0)
        newest = client.fetch_latest(model)
    mean = newest.arrays["w"].tolist()
    sys.stdout.write(
        f"node: 3 runs of 2 participants, {counted} updates counted once each, aggregate {newest.number}: {mean}, "
        f"{told} events in the feed\n"
    )
    return 0 if (newest.number, mean, counted, told) == (1, [4.0, 2.0, 3.25], 2, 2) else 1


def _entries_told(client: Client, model: uuid.UUID, participants: Sequence[Participant]) -> int:
    """How many entries of theirs the feed has once each of them has one."""
    wanted = {f"{each.name} has sent its update" for each in participants}
    until = time.monotonic() + _SECONDS
    while True:
        told = [entry.text for entry in client.iter_logs(model) if entry.text in wanted]
        if set(told) == wanted or time.monotonic() > until:
            return len(told)
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
