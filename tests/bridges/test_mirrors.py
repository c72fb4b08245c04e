"""What a hub is told and publishes, in a real MLflow server and in TensorBoard's event files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest

from config.settings import Settings
from fedqueue import Client
from fedqueue.messages.events import FLEvent, MetricPoint
from tests.hubs import ROOT, environment
from tests.servers import free_port
from worker.children import die_with_parent
from worker.supervisor import Supervisor

PROGRAMS = ROOT / ".peers/mirrors/bin"
_NOTIFY = {"FEDQUEUE_NOTIFY_TASK": "fedqueue.mirrors.hear", "FEDQUEUE_NOTIFY_QUEUE": "fedqueue.mirrors"}

pytestmark = [
    pytest.mark.wide,
    pytest.mark.slow,
    pytest.mark.skipif(not (PROGRAMS / "mlflow").exists(), reason=".peers/mirrors is not there: run `make peers`"),
]

_READ_EVENTS = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = {}
events = EventAccumulator(sys.argv[1]); events.Reload()
for tag in events.Tags()["scalars"]:
    found[tag] = [[event.step, event.value] for event in events.Scalars(tag)]
print(json.dumps(found))
"""


def until(holds: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.1)
    return found


@contextmanager
def running(command: list[str], log: Path, variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Tracking:
    """MLflow's server, asked as its own programs ask it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, what: str, **body: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/{what}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def runs_of(self, model: Any) -> list[dict[str, Any]]:
        query = "name = 'fedqueue'"
        experiments = self.ask("experiments/search", max_results=10, filter=query).get("experiments", [])
        wanted = f"tags.`fedqueue.model_id` = '{model}'"
        ids = [experiment["experiment_id"] for experiment in experiments]
        runs: list[dict[str, Any]] = self.ask("runs/search", experiment_ids=ids, filter=wanted).get("runs", [])
        return runs

    def history(self, run: dict[str, Any], key: str) -> list[tuple[int, float]]:
        place = f"{self.url}/api/2.0/mlflow/metrics/get-history?run_id={run['info']['run_id']}&metric_key={key}"
        with urllib.request.urlopen(place, timeout=10) as answer:
            metrics = json.load(answer).get("metrics", [])
        return sorted((int(metric["step"]), float(metric["value"])) for metric in metrics)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [
        *(str(PROGRAMS / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")),
    ]
    variables = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    with running(command, folder / "server.log", variables):
        server = Tracking(f"http://127.0.0.1:{port}")
        until(server.answers, 120)
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    task, queue = _NOTIFY.values()
    with Supervisor(Settings(home=tmp_path / "hub", notify_task=task, notify_queue=queue)) as hub:
        yield hub.settings


@contextmanager
def mirror_running(settings: Settings, tracking: Tracking, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    packages = folder / "packages"
    packages.mkdir(exist_ok=True)
    if not (packages / "fedqueue").exists():
        (packages / "fedqueue").symlink_to(ROOT / "fedqueue")
    variables = environment(
        settings.home,
        PYTHONPATH=str(packages),
        FEDQUEUE_MIRROR_MLFLOW=tracking.url,
        FEDQUEUE_MIRROR_TENSORBOARD=str(folder / "events"),
        FEDQUEUE_MIRROR_SECONDS="0.5",
        MLFLOW_DISABLE_TELEMETRY="true",
        **_NOTIFY,
    )
    with running([str(PROGRAMS / "python"), "-m", "fedqueue.mirrors"], folder / "mirror.log", variables) as process:
        yield process


def tell(hub: Client, model: UUID, number: int, accuracy: float) -> None:
    point = MetricPoint(label="accuracy", result=accuracy)
    hub.send_events([FLEvent(event_id=uuid4(), model_id=model, metric=point, global_round=number)])


def test_metrics_and_published_models_are_shown_once(settings: Settings, tracking: Tracking, tmp_path: Path) -> None:
    """By a mirror that is killed in between, so that it hears again what it has heard, and of what it has missed."""
    with Client(settings.broker_url, settings.result_url, settings.store_url) as hub:
        model = hub.create_model(
            name="digits", initial={"w": np.zeros(2)}, requirement="require_x_updates", requirement_args=[1]
        ).model_id
        sender = hub.register_client(model).client_id
        with mirror_running(settings, tracking, tmp_path):
            hub.submit_update(model, sender, {"w": np.ones(2)}, num_examples=1)
            hub.wait_for_aggregate(model, after=0, timeout=60)
            tell(hub, model, 1, 0.5)
            tell(hub, model, 2, 1.0)
            run = until(lambda: tracking.runs_of(model))[0]
            until(lambda: tracking.history(run, "accuracy") == [(1, 0.5), (2, 1.0)])
        tell(hub, model, 3, 0.25)
        published = hub.publish(model, "1.0", final=True)
        with mirror_running(settings, tracking, tmp_path):
            until(lambda: f"fedqueue.versions.{published.version}" in str(tracking.runs_of(model)))
            until(lambda: tracking.history(run, "accuracy") == [(1, 0.5), (2, 1.0), (3, 0.25)])
    [run] = tracking.runs_of(model)
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert tags["fedqueue.versions.1.0"] == published.digest
    files = tracking_files(tracking, run, "published/1.0")
    assert [Path(file["path"]).name for file in files] == ["model.safetensors"]
    [events] = {path.parent for path in (tmp_path / "events").rglob("events.out.*")}
    assert events.parent.parent.name == f"digits {model}"
    read = [str(PROGRAMS / "python"), "-c", _READ_EVENTS, str(events)]
    shown = subprocess.run(read, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(shown.stdout)["accuracy"] == [[1, 0.5], [2, 1.0], [3, 0.25]]


def tracking_files(tracking: Tracking, run: dict[str, Any], path: str) -> list[dict[str, Any]]:
    place = f"{tracking.url}/api/2.0/mlflow/artifacts/list?run_id={run['info']['run_id']}&path={path}"
    with urllib.request.urlopen(place, timeout=10) as answer:
        files: list[dict[str, Any]] = json.load(answer).get("files", [])
    return files


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "FEDQUEUE_NOTIFY_TASK"),
        (_NOTIFY, "FEDQUEUE_MIRROR_MLFLOW"),
        (_NOTIFY | {"FEDQUEUE_MIRROR_TENSORBOARD": "x", "FEDQUEUE_MIRROR_SECONDS": "0"}, "FEDQUEUE_MIRROR_SECONDS"),
    ],
)
def test_what_is_not_set_is_named(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    done = subprocess.run(
        [str(PROGRAMS / "python"), "-m", "fedqueue.mirrors"],
        cwd=ROOT,
        env=environment(tmp_path, **variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
