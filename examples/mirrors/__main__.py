"""Mirror a training in MLflow and TensorBoard: `python -m examples.mirrors`, or `make example-mirrors`.

Four participants learn the digits on a hub of their own and tell it their losses; each round's model is judged. A real
MLflow tracking server runs beside it, and the mirror, which is killed (SIGKILL) in the middle of a round, missed until
a version was published, and started anew. At the end the two are read back, MLflow by its API and TensorBoard's event
files by its own reader, and held against the hub: every point once, every published version byte for byte.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from config.loading import load_settings
from examples.mirrors.comparing import Comparison, compare
from examples.mirrors.peers import NOTIFY, PROGRAMS, mirror, started, tracking_server
from examples.mirrors.training import Training
from fedqueue import Client
from worker.supervisor import Supervisor

_START_SECONDS: Final = 120.0
_SHOWN_SECONDS: Final = 60.0
_MORE_SECONDS: Final = 2.0
_FEWEST_RIGHT: Final = 0.9


class NotShown(Exception):
    """Something beside the hub did not come up; what it said is in the message."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and end with a line of what came of it; 1 if anything is missing or twice."""
    parser = argparse.ArgumentParser(prog="python -m examples.mirrors", description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="at least 4")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if not (PROGRAMS / "mlflow").exists():
        parser.error("MLflow and TensorBoard are not there: run `make .peers/mirrors/installed`")
    with tempfile.TemporaryDirectory(prefix="fedqueue-mirrors-") as place:
        try:
            return _run(Path(place), max(4, given.rounds), given.clients, given.seed)
        except NotShown as error:
            sys.stderr.write(f"{error}\n")
            return 1


def _run(folder: Path, rounds: int, clients: int, seed: int) -> int:
    server, tracking = tracking_server(folder / "mlflow")
    task, queue = NOTIFY.values()
    settings = load_settings(None, home=folder / "hub", notify_task=task, notify_queue=queue)
    shown = mirror(
        folder / "mirror",
        folder / "hub",
        FEDQUEUE_MIRROR_MLFLOW=tracking.url,
        FEDQUEUE_MIRROR_TENSORBOARD=str(folder / "events"),
    )
    with (
        Supervisor(settings) as hub,
        Client(hub.settings.broker_url, hub.settings.result_url, hub.settings.store_url) as client,
        started(server),
        started(shown),
    ):
        _wait("tracking server", tracking.answers, lambda: server.last_lines(20))
        training = Training(client, clients, seed)
        model, middle = training.model, rounds // 2
        for number in range(1, rounds + 1):
            if number == middle:
                # It must have shown something, or there would be nothing that it could show twice.
                _wait("point in MLflow", lambda: any(map(tracking.keys, tracking.runs_of(model))), shown.last_lines)
            training.round(number, between=shown.kill_family if number == middle else None)
            if number == middle + 1:
                client.publish(model, "0.5")
                shown.start()
        training.end()
        right = training.accuracies[-1]
        found = _in_the_end(
            lambda: compare(client.get_model(model), client.metrics(model), tracking, folder / "events"),
            training.points,
        )
        is_finished = [run["info"]["status"] for run in tracking.runs_of(model)] == ["FINISHED"]
        shown.tell(signal.SIGTERM)
        shown.wait(30)
    problems = list(found.problems)
    if found.on_hub != training.points:
        problems.append(f"{training.points} points were told")
    if right < _FEWEST_RIGHT:
        problems.append(f"accuracy {right:.4f} is below {_FEWEST_RIGHT:g}")
    if not is_finished:
        problems.append("the run in MLflow is not finished")
    if shown.ended != "exit code 0":
        problems.append(f"the mirror ended with {shown.ended}: {shown.last_lines()}")
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    sys.stdout.write(
        f"mirrors: accuracy {right:.4f}, {rounds} rounds, mirror killed in round {middle}, {found.on_hub} points on "
        f"the hub, {found.in_mlflow} in MLflow, {found.in_tensorboard} in TensorBoard, {found.missing} missing, "
        f"{found.twice} twice, {found.artifacts} of {found.published} artifacts with the right digest\n"
    )
    return 1 if problems else 0


def _in_the_end(look: Callable[[], Comparison], points: int) -> Comparison:
    """What is shown once it is whole, and still is a while later; or else when time is over."""
    until = time.monotonic() + _SHOWN_SECONDS
    while True:
        found = look()
        if found.is_whole and found.on_hub == points:
            time.sleep(_MORE_SECONDS)  # nothing may come on top
            return look()
        if time.monotonic() > until:
            return found
        time.sleep(0.5)


def _wait(what: str, holds: Callable[[], object], said: Callable[[], str]) -> None:
    until = time.monotonic() + _START_SECONDS
    while not holds():
        if time.monotonic() > until:
            raise NotShown(f"no {what} within {_START_SECONDS:g} s: {said()}")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
