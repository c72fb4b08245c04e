"""Take over the aggregation of a real FMA deployment: `python -m examples.fma`, or `make example-fma`.

fma-django serves its API on SQLite; the hub works on the same database and media folder, and has made FMA's tables by
the deployment's own migrate command. The participants are processes with fma-connect that know nothing of a hub: they
register, fetch the newest model, train on their digits, send updates and what they measure of each aggregate. At the
end the last aggregate is published by FMA's API, and the published model is tested on digits that nobody has seen.
`--kill`: with the hub's processes killed all the while.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil
from rich.console import Console

from examples.fma.judging import Verdict, judge
from examples.fma.layers import from_layers, to_layers
from examples.fma.peer import PYTHON, ROOT, FmaDeployment, PeerFailed
from worker.children import die_with_parent
from worker.demo.digits import load_digits, split_unevenly
from worker.demo.learning import accuracy, new_parameters

# Split less unevenly than in the demo: FMA knows no weights, every update counts the same.
_CONCENTRATION: Final = 1.0
_FEWEST_RIGHT: Final = 0.9
_START_SECONDS: Final = 120.0
_KILL_PAUSE: Final = (0.3, 2.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it all, and say what came of it; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m examples.fma", description=__doc__)
    parser.add_argument("--rounds", type=int, help="by default 5, or 20 with --kill")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kill", action="store_true", help="kill the hub's processes all the while")
    given = parser.parse_args(arguments)
    if not PYTHON.exists():
        parser.error("FMA's environment is missing: run `make .peers/fma/installed`")
    with tempfile.TemporaryDirectory(prefix="fedqueue-fma-") as home:
        return _run(Path(home), given.rounds or (20 if given.kill else 5), given.clients, given.seed, given.kill)


def _run(home: Path, rounds: int, clients: int, seed: int, kill: bool) -> int:
    training, testing = load_digits(seed)
    initial = new_parameters(training.features.shape[1], 10, seed)
    parts = split_unevenly(training, clients, seed, concentration=_CONCENTRATION)
    fma = FmaDeployment(home)
    console = Console(stderr=True)
    with ExitStack() as running:
        console.print("starting the hub, which has FMA's tables made, and FMA's API")
        hub = running.enter_context(_hub(fma))
        token = fma.developer()
        running.enter_context(fma.serving())
        asked = {
            "name": "digits",
            "developer": 1,
            "aggregator": "average_layers",
            "requirement": "require_x_updates",
            "requirement_args": [clients],
            "furthest_base_agg": 1,
            "allow_aggregation": True,
            "initial_model": to_layers(initial),
        }
        model_id = fma.ask("POST", "models/", asked, token=token)["id"]
        journals = []
        processes = []
        for number, part in enumerate(parts):
            part.save(home / f"examples-{number}.npz")
            journals.append(home / f"journal-{number}.jsonl")
            command = _participant(fma, model_id, home, number, rounds, seed)
            processes.append(running.enter_context(_process(command, fma.environment, home / f"client-{number}.log")))
        console.print(f"{clients} participants with fma-connect, {rounds} rounds")
        killed = _kill_until_done(processes, hub, seed) if kill else 0
        for number, process in enumerate(processes):
            if process.wait() != 0:
                raise PeerFailed(f"participant {number}: {(home / f'client-{number}.log').read_text()[-2000:]}")
        newest = fma.ask("GET", f"model_aggregates/?federated_model={model_id}&ordering=-created_on", token=token)[0]
        fma.ask("POST", f"model_aggregates/{newest['id']}/publish_aggregate/", {"version": "2.0.0"}, token=token)
        artifact = fma.ask("GET", f"models/{model_id}/", token=token)["current_artifact"]
        published = json.loads((fma.media / newest["result"].partition("/media/")[2]).read_text())
    right = accuracy(from_layers(published), testing.features, testing.labels)
    verdict = judge(home, journals)
    problems = [*verdict.problems, *_shortcomings(verdict, right, rounds, clients)]
    changed = fma.rebuild()["changed"]
    if changed:
        problems.append(f"django-mptt's rebuild changed the places of {len(changed)} aggregates")
    if kill and killed < rounds // 2:
        problems.append(f"{killed} kills are too few to show anything: {rounds // 2} are needed")
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    sys.stdout.write(
        f"fma: accuracy {right:.4f} of artifact {artifact}, {verdict.aggregates} rounds, {verdict.updates} updates, "
        f"{verdict.scores} validation results, {verdict.lost} lost, {verdict.counted_twice} counted twice, "
        f"{len(changed)} of the tree's rows changed by a rebuild" + (f", {killed} workers killed\n" if kill else "\n")
    )
    return 1 if problems else 0


def _kill_until_done(clients: Sequence[subprocess.Popen[bytes]], hub: subprocess.Popen[bytes], seed: int) -> int:
    """SIGKILL one of the hub's workers or a process of its pool every now and then; how many."""
    draw = random.Random(seed)  # noqa: S311  # whom it meets is no secret
    killed = 0
    while any(client.poll() is None for client in clients):
        time.sleep(draw.uniform(*_KILL_PAUSE))
        with suppress(psutil.NoSuchProcess):
            workers = [each for each in psutil.Process(hub.pid).children(recursive=True) if "celery" in each.cmdline()]
            if workers:
                draw.choice(workers).kill()
                killed += 1
    return killed


def _shortcomings(verdict: Verdict, right: float, rounds: int, clients: int) -> list[str]:
    found = []
    if right < _FEWEST_RIGHT:
        found.append(f"accuracy {right:.4f} is below {_FEWEST_RIGHT:g}")
    if (verdict.aggregates, verdict.updates, verdict.scores) != (rounds, rounds * clients, rounds * clients):
        found.append(f"not every round, update and result is there: {verdict}")
    return found


# --- processes ------------------------------------------------------------------------------------


@contextmanager
def _hub(fma: FmaDeployment) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m worker up` beside the deployment, ready."""
    settings = {
        "FEDQUEUE_HOME": str(fma.home / "hub"),
        "FEDQUEUE_METADATA_CONNECTOR": "django",
        "FEDQUEUE_DATABASE_URL": f"sqlite:///{fma.home / 'fma.db'}",
        "FEDQUEUE_FMA_MEDIA": str(fma.media),
        "FEDQUEUE_FMA_MIGRATE_COMMAND": fma.migrate_command,
        "FEDQUEUE_SWEEP_SECONDS": "1",
        "FEDQUEUE_LEASE_SECONDS": "5",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FEDQUEUE_", "CELERY_"))}
    log = fma.home / "hub.log"
    command = [sys.executable, "-m", "worker", "up", "--json"]
    with _process(command, kept | {"PYTHONPATH": str(ROOT)} | settings, log, cwd=ROOT) as process:
        deadline = time.monotonic() + _START_SECONDS
        while '"ready"' not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise PeerFailed(f"the hub did not start: {log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield process


def _participant(fma: FmaDeployment, model_id: int, home: Path, number: int, rounds: int, seed: int) -> list[str]:
    named = {
        "--url": fma.url,
        "--model": str(model_id),
        "--examples": str(home / f"examples-{number}.npz"),
        "--journal": str(home / f"journal-{number}.jsonl"),
        "--rounds": str(rounds),
        "--seed": str(seed * 1000 + number),
    }
    return [str(PYTHON), "-m", "examples.fma.participant", *(word for pair in named.items() for word in pair)]


@contextmanager
def _process(
    command: Sequence[str], environment: Mapping[str, str], log: Path, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            cwd=cwd or log.parent,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(),
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(45)
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
