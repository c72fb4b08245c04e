"""What a hub is told and publishes, in a real MLflow server and in TensorBoard's event files."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest

from config.settings import Settings
from examples.mirrors.comparing import read_events
from examples.mirrors.peers import NOTIFY, PROGRAMS, mirror, started, tracking_server
from examples.mirrors.tracking import Tracking
from fedqueue import Client
from fedqueue.messages.events import FLEvent, MetricPoint
from tests.debian_servers import rabbitmq_server
from tests.hubs import ROOT, environment
from tests.security.workers import worker_of
from worker.children import Child
from worker.supervisor import Supervisor

pytestmark = [
    pytest.mark.wide,
    pytest.mark.slow,
    pytest.mark.skipif(not (PROGRAMS / "mlflow").exists(), reason=".peers/mirrors is not there: run `make peers`"),
]


def until(holds: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    server, tracking = tracking_server(tmp_path_factory.mktemp("mlflow"))
    with started(server):
        until(tracking.answers, 120)
        yield tracking


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    task, queue = NOTIFY.values()
    with Supervisor(Settings(home=tmp_path / "hub", notify_task=task, notify_queue=queue)) as hub:
        yield hub.settings


def mirror_of(settings: Settings, tracking: Tracking, folder: Path, **variables: str) -> Child:
    named = {"FEDQUEUE_MIRROR_MLFLOW": tracking.url, "FEDQUEUE_MIRROR_TENSORBOARD": str(folder / "events")}
    return mirror(folder / "mirror", settings.home, **named | variables)


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
        with started(mirror_of(settings, tracking, tmp_path)):
            hub.submit_update(model, sender, {"w": np.ones(2)}, num_examples=1)
            hub.wait_for_aggregate(model, after=0, timeout=60)
            tell(hub, model, 1, 0.5)
            tell(hub, model, 2, 1.0)
            run = until(lambda: tracking.runs_of(model))[0]
            until(lambda: tracking.history(run, "accuracy") == [(1, 0.5), (2, 1.0)])
        tell(hub, model, 3, 0.25)
        published = hub.publish(model, "1.0", final=True)
        with started(mirror_of(settings, tracking, tmp_path)):
            until(lambda: f"fedqueue.versions.{published.version}" in str(tracking.runs_of(model)))
            until(lambda: tracking.history(run, "accuracy") == [(1, 0.5), (2, 1.0), (3, 0.25)])
    [run] = tracking.runs_of(model)
    assert tracking.tags(run)["fedqueue.versions.1.0"] == published.digest
    assert tracking.files(run, "published/1.0") == ["published/1.0/model.safetensors"]
    assert tracking.digest(run, "published/1.0/model.safetensors") == published.digest
    [events] = {path.parent for path in (tmp_path / "events").rglob("events.out.*")}
    assert events.parent.parent.name == f"digits {model}"
    wanted = [("accuracy", "", number, value) for number, value in ((1, 0.5), (2, 1.0), (3, 0.25))]
    until(lambda: read_events(tmp_path / "events") == wanted)


def test_what_was_missed_is_shown_without_another_notification(settings: Settings, tmp_path: Path) -> None:
    """The tracking server is away when the mirror starts, then the mirror is; a point calls for no notification."""
    server, tracking = tracking_server(tmp_path / "mlflow")
    with ExitStack() as running:
        hub = running.enter_context(Client(settings.broker_url, settings.result_url, settings.store_url))
        model = hub.create_model(name="digits", initial={"w": np.zeros(2)}).model_id
        hub.register_client(model, name="north")
        with started(mirror_of(settings, tracking, tmp_path)):
            tell(hub, model, 1, 0.5)
            until(lambda: read_events(tmp_path / "events") == [("accuracy", "", 1, 0.5)])
            running.enter_context(started(server))
            until(tracking.answers, 120)
            run = until(lambda: tracking.runs_of(model))[0]
            until(lambda: tracking.history(run, "accuracy") == [(1, 0.5)])
        tell(hub, model, 2, 0.75)
        with started(mirror_of(settings, tracking, tmp_path)):
            until(lambda: tracking.history(run, "accuracy") == [(1, 0.5), (2, 0.75)])
            until(lambda: len(read_events(tmp_path / "events")) == 2)
            hub.delete_model(model)
            until(lambda: tracking.runs_of(model)[0]["info"]["status"] == "KILLED")


def test_two_mirrors_at_once_show_each_point_once(settings: Settings, tracking: Tracking, tmp_path: Path) -> None:
    """As when one is replaced by another that starts before it ends."""
    with Client(settings.broker_url, settings.result_url, settings.store_url) as hub:
        model = hub.create_model(name="digits", initial={"w": np.zeros(2)}).model_id
        both = mirror_of(settings, tracking, tmp_path), mirror_of(settings, tracking, tmp_path)
        with started(both[0]), started(both[1]):
            hub.register_client(model, name="north")
            for number in range(1, 101):
                tell(hub, model, number, number / 100)
                time.sleep(0.05)
            wanted = [(number, number / 100) for number in range(1, 101)]
            until(lambda: len(hub.metrics(model).plots[0].series[0].points) == 100)
            run = until(lambda: tracking.runs_of(model))[0]
            until(lambda: tracking.history(run, "accuracy") == wanted)
            time.sleep(2)
        assert tracking.history(run, "accuracy") == wanted
        assert len(tracking.runs_of(model)) == 1
        assert sorted(step for _, _, step, _ in read_events(tmp_path / "events")) == list(range(1, 101))


def test_it_hears_a_hub_on_rabbitmq(tmp_path: Path) -> None:
    """What is to be heard once more waits in this process, with all behind it; a kill gives it back."""
    home, events = tmp_path / "hub", tmp_path / "events"
    with rabbitmq_server() as broker:
        settings = {"FEDQUEUE_BROKER_URL": broker.url, "FEDQUEUE_SWEEP_SECONDS": "0.5", **NOTIFY}
        named = {
            "FEDQUEUE_BROKER_URL": broker.url,
            "FEDQUEUE_STORE_URL": (home / "store").as_uri(),
            "FEDQUEUE_MIRROR_TENSORBOARD": str(events),
        }
        away = mirror(tmp_path / "mirror", home, **named, FEDQUEUE_MIRROR_MLFLOW="http://127.0.0.1:9")
        with worker_of(home, settings), Client(broker.url, store_url=named["FEDQUEUE_STORE_URL"], timeout=60) as hub:
            with started(away):
                model = hub.create_model(name="digits", data_format="json").model_id
                hub.register_client(model, name="north")
                until(lambda: away.log.read_text().count(f"{model}:0:INITIATED is heard once more") >= 3)
                hub.stop_model(model)
                tell(hub, model, 1, 0.5)
                until(lambda: read_events(events) == [("accuracy", "", 1, 0.5)])
            shutil.rmtree(events)  # as on another machine: of what was heard nothing is known
            with started(mirror(tmp_path / "mirror", home, **named)):
                until(lambda: read_events(events) == [("accuracy", "", 1, 0.5)])
    assert "message refused" not in away.log.read_text()


def test_what_the_mirrors_show(tmp_path: Path) -> None:
    """mirrors_side.py, in the environment that has MLflow and TensorBoard."""
    packages = tmp_path / "packages"
    (packages / "tests").mkdir(parents=True)
    (packages / "fedqueue").symlink_to(ROOT / "fedqueue")
    (packages / "tests/bridges").symlink_to(ROOT / "tests/bridges")
    done = subprocess.run(
        [str(PROGRAMS / "python"), "-P", "-m", "unittest", "tests.bridges.mirrors_side"],
        cwd=tmp_path,
        env=environment(tmp_path, PYTHONPATH=str(packages), MLFLOW_DISABLE_TELEMETRY="true"),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    assert re.search(r"^Ran [1-9]\d* tests", done.stderr, re.M), done.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "FEDQUEUE_NOTIFY_TASK"),
        (NOTIFY, "FEDQUEUE_MIRROR_MLFLOW"),
        (NOTIFY | {"FEDQUEUE_MIRROR_TENSORBOARD": "x", "FEDQUEUE_MIRROR_SECONDS": "0"}, "FEDQUEUE_MIRROR_SECONDS"),
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
