"""`python -m worker fma import`: a real FMA deployment, copied into a hub's own database and compared."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from connectors.records import ReasonCode, UpdateStatus
from connectors.sql.connector import SqlAlchemyMetadataConnector
from examples.fma.peer import PYTHON
from tests.buckets import make_bucket, s3_server
from tests.chaos.facts import read_facts
from tests.chaos.invariants import violations
from tests.fma_places import Place, beside
from tests.hubs import run_worker_command

pytestmark = [
    pytest.mark.wide,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason=".peers/fma is not there: run `make peers`"),
]


@pytest.fixture(scope="module", params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A deployment that has aggregated by itself: two rounds of one model, an update that waits; another model."""
    home = tmp_path_factory.mktemp("fma")
    with ExitStack() as running:
        bucket = None
        if request.param == "bucket":
            make_bucket(running.enter_context(s3_server(home)), "fma")
            bucket = "s3://fma/media"
        made = running.enter_context(beside(home, f"sqlite:///{home}/fma.db", bucket=bucket))
        model_id, (one, two) = made.model(initial_model=[0, 0], requirement="require_x_updates", requirement_args=[1])
        base = None
        for value in range(2):
            made.send(model_id, one, [value, 1], base)
            made.send(model_id, two, [value + 2, 1], base)
            base = int(made.fma.aggregate(model_id))
        results = {"validation_results": {"f1": 0.5}, "aggregate": base, "client": one}
        made.fma.ask("POST", "client_aggregate_scores/", results, client=one)
        made.fma.ask("POST", f"model_aggregates/{base}/publish_aggregate/", {"version": "2.0"}, token=made.token)
        made.send(model_id, two, [9, 9], base)
        made.send(model_id, two, [9, 9, 9], base)  # of another shape
        made.model(clients=1)
        yield made


@pytest.fixture
def hub_home(tmp_path: Path) -> Path:
    home = tmp_path / "hub"
    assert run_worker_command(home, "migrate").returncode == 0
    return home


def run_import(place: Place, home: Path, *options: str) -> Any:
    return run_worker_command(
        home,
        "fma",
        "import",
        "--database",
        f"sqlite:///{place.fma.home}/fma.db",
        "--media",
        place.media,
        *options,
    )


def test_everything_is_here_under_the_hubs_ids_and_keeps_its_invariants(place: Place, hub_home: Path) -> None:
    done = run_import(place, hub_home, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    first, second = json.loads(done.stdout)
    assert (first["differences"], second["differences"]) == ([], [])
    assert (len(first["aggregates"]), len(first["updates"]), len(first["artifacts"]), first["scores"]) == (2, 6, 2, 1)
    url = f"sqlite:///{hub_home}/fedqueue.db"
    assert violations(read_facts(url), quiet=True) == []
    hub = SqlAlchemyMetadataConnector(url)
    model = hub.pull_federated_model_w_id(first["model_id"])
    assert model is not None
    assert (model.name, model.requirement, model.requirement_args) == ("digits", "require_x_updates", [1])
    chain = hub.pull_model_aggregates(model)
    assert [(a.number, a.num_updates, a.id) for a in chain] == [
        (1, 2, first["aggregates"]["1"]),
        (2, 2, first["aggregates"]["2"]),
    ]
    latest = place.fma.ask("GET", "models/1/get_latest_model/", token=place.token)
    served = (hub_home / "store" / "sha256" / chain[1].data.digest[:2] / chain[1].data.digest).read_text()
    assert json.loads(served) == latest["values"] == [2.0, 1.0]
    waiting = {u.status: u.reason_code for u in hub.pull_model_updates(model) if u.applied_aggregate_id is None}
    assert waiting == {UpdateStatus.PENDING: None, UpdateStatus.INVALID: ReasonCode.SHAPE}
    # FMA's own mean, made again by the hub from what was imported: the very bytes.
    verified = run_worker_command(hub_home, "verify", str(chain[1].id))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    published = hub.pull_model_artifact(model, "2.0")
    assert published is not None
    assert published.aggregate_id == chain[1].id
    hub.close()


def test_once_more_changes_nothing_and_leaves_the_deployment_alone(place: Place, hub_home: Path) -> None:
    before = (place.fma.home / "fma.db").read_bytes()
    assert run_import(place, hub_home).returncode == 0
    facts = read_facts(f"sqlite:///{hub_home}/fedqueue.db")
    again = run_import(place, hub_home)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "2 models, 0 differences")
    assert "here already" in again.stdout
    assert read_facts(f"sqlite:///{hub_home}/fedqueue.db") == facts
    assert (place.fma.home / "fma.db").read_bytes() == before


def test_what_differs_is_told(place: Place, hub_home: Path) -> None:
    """The comparison can fail: an aggregate that is another one here, an update that went into another."""
    assert run_import(place, hub_home).returncode == 0
    with closing(sqlite3.connect(hub_home / "fedqueue.db")) as file:
        file.execute("UPDATE model_aggregate SET data_digest = ?, num_updates = 3 WHERE number = 1", ("0" * 64,))
        file.commit()
    done = run_import(place, hub_home)
    assert done.returncode == 1
    assert "DIFFERS: aggregate 1: its bytes are not those of 1" in done.stdout
    assert "DIFFERS: aggregate 1: 2 updates there, 3 here" in done.stdout


def test_a_file_that_is_gone_refuses_its_model_and_names_it(place: Place, hub_home: Path) -> None:
    with closing(sqlite3.connect(place.fma.home / "fma.db")) as file:
        [(path,)] = file.execute("SELECT result FROM fma_django_modelaggregate WHERE id = 1")
    with place.without(path):
        done = run_import(place, hub_home)
    assert done.returncode == 2
    assert "model 1: aggregate 1: file: nothing is stored at" in done.stderr
    assert read_facts(f"sqlite:///{hub_home}/fedqueue.db").models == []


def test_a_database_without_fma_is_said_to_be_none(place: Place, hub_home: Path) -> None:
    done = run_worker_command(
        hub_home, "fma", "import", "--database", f"sqlite:///{hub_home}/fedqueue.db", "--media", place.media
    )
    assert done.returncode == 2
    assert "lacks auth_user" in done.stderr
