"""Run the job to its end on a hub of its own: `python -m examples.nvflare [--kill]`.

Three sites learn the digits in FLARE's simulator; the hub aggregates. With `--kill` the simulator, server and sites, is
killed (SIGKILL) in the middle of a round and the job submitted again: it goes on where it was, and the accuracy is
compared with that of a job that nothing disturbed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

from config.loading import load_settings
from examples.flower.digits_app.learning import accuracy, test_examples
from fedqueue import Client, Rejected
from worker.children import die_with_parent
from worker.supervisor import Supervisor

ROOT: Final = Path(__file__).resolve().parents[2]
_SECONDS: Final = 600.0
_NOISE: Final = 0.03  # of the final accuracy: updates are added up in the order in which they come


class JobFailed(Exception):
    """FLARE did not do what it was asked to; what it said lies in the file named."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and end with a line of what came of it."""
    parser = argparse.ArgumentParser(prog="python -m examples.nvflare", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--params-type", choices=("FULL", "DIFF"), default="FULL", help="what the sites send")
    parser.add_argument("--kill", action="store_true", help="kill server and sites in the middle of a round")
    parser.add_argument("--python", type=Path, default=ROOT / ".peers/nvflare/bin/python", help="that has `nvflare`")
    given = parser.parse_args(arguments)
    if not given.python.exists():
        parser.error(f"{given.python} is not there: run `make peers`")
    with tempfile.TemporaryDirectory(prefix="fedqueue-nvflare-") as place:
        try:
            sys.stdout.write(_train(given, Path(place)) + "\n")
        except JobFailed as error:
            sys.stderr.write(f"{error}\n")
            return 1
    return 0


def _train(given: argparse.Namespace, folder: Path) -> str:
    with (
        Supervisor(load_settings(None, home=folder / "hub")) as hub,
        Client(hub.settings.broker_url, hub.settings.result_url, hub.settings.store_url) as client,
    ):
        model = uuid.uuid4()
        if not given.kill:
            _end(*_submit(given, folder, model))
            return f"{_facts(client, model, given)}, accuracy {_accuracy(client, model):.4f}"
        undisturbed = uuid.uuid4()
        _end(*_submit(given, folder, undisturbed))
        process, log = _submit(given, folder, model)
        amid = max(1, given.rounds // 2)
        _wait_until("round in the middle", log, lambda: process.poll() is not None or _is_amid(client, model, amid))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _end(*_submit(given, folder, model))
        judged, wanted = _accuracy(client, model), _accuracy(client, undisturbed)
        if abs(judged - wanted) > _NOISE:
            raise JobFailed(f"accuracy {judged:.4f} after the kill, {wanted:.4f} undisturbed")
        facts = _facts(client, model, given)
        return f"{facts}, killed in round {amid + 1}, accuracy {judged:.4f} (undisturbed {wanted:.4f})"


def _submit(given: argparse.Namespace, folder: Path, model: UUID) -> tuple[subprocess.Popen[bytes], Path]:
    """The job under way, and where its words go."""
    # Of this repository FLARE sees what others install, and the app. No links: FLARE refuses what they lead to.
    packages = folder / "packages"
    if not packages.exists():
        for source in (ROOT / "fedqueue", ROOT / "examples/flower/digits_app"):
            shutil.copytree(source, packages / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    run = folder / uuid.uuid4().hex
    run.mkdir()
    log = run / "flare.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(str(given.python), str(Path(__file__).with_name("job.py"))),
                *("--model-id", str(model), "--rounds", str(given.rounds), "--sites", str(given.sites)),
                *("--params-type", given.params_type, "--workspace", str(run)),
            ],
            cwd=run,
            env={
                "PATH": f"{given.python.parent}:{os.environ.get('PATH', '')}",
                "HOME": str(run),
                "PYTHONPATH": str(packages),
                "FEDQUEUE_HOME": str(folder / "hub"),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
    return process, log


def _end(process: subprocess.Popen[bytes], log: Path) -> None:
    try:
        code = process.wait(_SECONDS)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        raise JobFailed(f"the job was not over in {_SECONDS:g} s\n{_last(log)}") from error
    if code:
        raise JobFailed(f"the job failed\n{_last(log)}")


def _is_amid(client: Client, model: UUID, number: int) -> bool:
    """Whether so many rounds are posted: the sites are at the next."""
    try:
        return client.get_model(model).aggregates >= number
    except Rejected:
        return False  # not created yet


def _facts(client: Client, model: UUID, given: argparse.Namespace) -> str:
    view = client.get_model(model)
    counted = view.updates.get("COMPLETE", 0)
    if (view.aggregates, counted) != (given.rounds, given.rounds * given.sites):
        raise JobFailed(f"{view.aggregates} of {given.rounds} rounds, {counted} updates: not each was counted once")
    return f"nvflare: {view.aggregates} rounds, {counted} updates counted once each, {view.status}"


def _accuracy(client: Client, model: UUID) -> float:
    return accuracy(dict(client.fetch_latest(model).arrays), *test_examples())


def _wait_until(what: str, log: Path, holds: Callable[[], bool]) -> None:
    until = time.monotonic() + _SECONDS
    while not holds():
        if time.monotonic() > until:
            raise JobFailed(f"no {what} within {_SECONDS:g} s\n{_last(log)}")
        time.sleep(0.05)


def _last(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]


if __name__ == "__main__":
    sys.exit(main())
