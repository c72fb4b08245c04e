"""Run the app to its end on a hub of its own: `python -m examples.flower [--kill]`.

Ten participants learn the digits in Flower's simulation, which is started as its users start it; the hub aggregates.
With `--kill` the ServerApp is killed (SIGKILL) in the middle of a round and started again: it goes on where it was, and
the accuracy is compared with that of a training that nothing disturbed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

from config.loading import load_settings
from examples.flower.runtime import ROOT, Flower, FlowerFailed, flower_running
from fedqueue import Client, Rejected
from worker.supervisor import Supervisor

_SECONDS = 600.0
_NOISE = 0.03  # of the final accuracy: updates are added up in the order in which they come


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and end with a line of what came of it."""
    parser = argparse.ArgumentParser(prog="python -m examples.flower", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--aggregator", default="fedavg", help="any of the hub's")
    parser.add_argument("--kill", action="store_true", help="kill the ServerApp in the middle of a round")
    parser.add_argument("--observe-only", action="store_true", help="Flower aggregates, and tells the hub")
    parser.add_argument("--programs", type=Path, default=ROOT / ".peers/flower/bin", help="where `flwr` is installed")
    given = parser.parse_args(arguments)
    if not (given.programs / "flwr").exists():
        parser.error(f"{given.programs}/flwr is not there: run `make peers`")
    with tempfile.TemporaryDirectory(prefix="fedqueue-flower-") as place:
        folder = Path(place)
        try:
            sys.stdout.write(_train(given, folder) + "\n")
        except FlowerFailed as error:
            sys.stderr.write(f"{error}\n")
            return 1
    return 0


def _train(given: argparse.Namespace, folder: Path) -> str:
    with (
        Supervisor(load_settings(None, home=folder / "hub")) as hub,
        Client(hub.settings.broker_url, hub.settings.result_url, hub.settings.store_url) as client,
        flower_running(given.programs, folder / "flower", folder / "hub", given.clients) as flower,
    ):
        config = {"num_server_rounds": given.rounds, "aggregator": given.aggregator}
        model = uuid.uuid4()
        if not given.kill:
            accuracy = _run(flower, model, bridge="observe" if given.observe_only else "hub", **config)
            return f"{_facts(client, model, given)}, accuracy {accuracy:.4f}"
        undisturbed = _run(flower, uuid.uuid4(), **config)
        training = flower.start(model_id=str(model), **config)
        amid = max(1, given.rounds // 2)
        _wait_until("round in the middle", lambda: _is_amid(client, model, amid))
        training.kill_server_app()
        accuracy = _run(flower, model, **config)
        if abs(accuracy - undisturbed) > _NOISE:
            raise FlowerFailed(f"accuracy {accuracy:.4f} after the kill, {undisturbed:.4f} undisturbed")
        return (
            f"{_facts(client, model, given)}, ServerApp killed in round {amid + 1}, accuracy {accuracy:.4f} "
            f"(undisturbed {undisturbed:.4f})"
        )


def _run(flower: Flower, model: UUID, **config: str | int | bool) -> float:
    out = flower.folder / f"{model}.json"
    flower.start(model_id=str(model), out=str(out), **config).wait(_SECONDS)
    judged = json.loads(out.read_text(encoding="utf-8"))
    return float(judged[max(judged, key=int)]["accuracy"])


def _is_amid(client: Client, model: UUID, number: int) -> bool:
    """Whether so many rounds are posted: the participants are at the next."""
    try:
        return client.get_model(model).aggregates >= number
    except Rejected:
        return False  # not created yet


def _facts(client: Client, model: UUID, given: argparse.Namespace) -> str:
    view = client.get_model(model)
    counted = view.updates.get("COMPLETE", 0)
    if given.observe_only:
        return f"flower: observed {given.rounds} rounds of {given.clients} participants, {view.status}"
    if (view.aggregates, counted) != (given.rounds, given.rounds * given.clients):
        raise FlowerFailed(f"{view.aggregates} of {given.rounds} rounds, {counted} updates: not each was counted once")
    return f"flower: {view.aggregates} rounds, {counted} updates counted once each, {view.status}"


def _wait_until(what: str, holds: Callable[[], bool]) -> None:
    until = time.monotonic() + _SECONDS
    while not holds():
        if time.monotonic() > until:
            raise FlowerFailed(f"no {what} within {_SECONDS:g} s")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
