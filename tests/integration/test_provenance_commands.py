"""verify, lineage, requeue and discard, as an operator types them, on a hub's own folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from connectors.records import ReasonCode, UpdateStatus
from fedqueue.blobs import path_of
from tests.unit.domain.conftest import Bench
from worker.bootstrap import build_metadata

ROOT = Path(__file__).parents[2]


class OnDisk(Bench):
    """The bench on a real database and store, where the commands look for them."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        settings = Settings(home=home)
        self.metadata = build_metadata(settings)  # type: ignore[assignment]
        self.metadata.update_database()
        self.hub = type(self.hub)(settings, self.metadata, self.store, self.hub.send)


@pytest.fixture
def hub(home: Path) -> OnDisk:
    """A hub that nobody runs: its folder is all that the commands need."""
    home.mkdir()
    return OnDisk(home)


def _worker(hub: OnDisk, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FEDQUEUE_HOME": str(hub.hub.settings.home), "COLUMNS": "200"}
    command = [sys.executable, "-m", "worker", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def _one_round(hub: OnDisk) -> tuple[Any, Any]:
    model, (one, two) = hub.model(requirement="require_x_clients", requirement_args=[2])
    hub.submit(model, one, [1.0], num_examples=1)
    hub.submit(model, two, [4.0], num_examples=3)
    return model, hub.post(model)


def test_verify_says_identical_and_exits_with_0(hub: OnDisk) -> None:
    _model, aggregate = _one_round(hub)
    done = _worker(hub, "verify", str(aggregate.id))
    assert (done.returncode, done.stdout) == (0, "aggregate 1 (number 1, 2 updates): identical\n")
    facts = json.loads(_worker(hub, "verify", str(aggregate.id), "--json").stdout)
    assert (facts["verdict"], facts["digest"]) == ("identical", aggregate.data.digest)


def test_verify_says_what_differs_and_exits_with_1(hub: OnDisk) -> None:
    _model, aggregate = _one_round(hub)
    path_of(aggregate.manifest["inputs"][0]["uri"]).write_text("[2.0]")
    done = _worker(hub, "verify", str(aggregate.id))
    assert done.returncode == 1
    assert "different: the input of update 1" in done.stdout


def test_verify_of_no_aggregate_is_a_readable_line(hub: OnDisk) -> None:
    done = _worker(hub, "verify", "4711")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no aggregate 4711")


def test_lineage_names_the_contributors(hub: OnDisk) -> None:
    _model, aggregate = _one_round(hub)
    rows = json.loads(_worker(hub, "lineage", str(aggregate.id), "--json").stdout)
    assert [(row["number"], row["client"], row["num_examples"]) for row in rows] == [
        (1, "client 0", 1.0),
        (1, "client 1", 3.0),
    ]
    assert "client 1" in _worker(hub, "lineage", str(aggregate.id)).stdout


def test_requeue_and_discard_decide_over_what_was_set_aside(hub: OnDisk) -> None:
    model, (one, two) = hub.model(max_norm=1, requirement="all_clients")
    aside, gone = hub.submit(model, one, [3.0]), hub.submit(model, two, [4.0])
    assert aside.reason_code is gone.reason_code is ReasonCode.NORM
    assert _worker(hub, "requeue", str(aside.id)).returncode == 0
    assert hub.update(aside).status is UpdateStatus.PENDING
    assert _worker(hub, "discard", str(gone.id)).returncode == 0
    assert hub.update(gone).is_data_dropped
    again = _worker(hub, "requeue", str(gone.id))
    assert (again.returncode, "0 of 1 updates were in the state" in again.stderr) == (2, True)
    refused = _worker(hub, "discard", str(aside.id))
    assert (refused.returncode, f"update {aside.id} is PENDING" in refused.stderr) == (2, True)
