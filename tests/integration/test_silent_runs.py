"""A run that falls silent, on real databases and by the sweep that every worker sends: no beat, and once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from connectors.records import ModelStatus
from connectors.sql.connector import SqlAlchemyMetadataConnector
from fedqueue import Client
from tasks.domain.silence import end_silent_runs
from tests.chaos.domain_hub import add_model, domain_hub
from tests.contract.conftest import migrated_url
from tests.hubs import hub_running

_SWEEPS = 6


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.wide)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return migrated_url(request, tmp_path)


def test_sweeps_at_the_same_moment_end_a_run_once(url: str, tmp_path: Path) -> None:
    metadata = SqlAlchemyMetadataConnector(url, pool_size=_SWEEPS)
    hub = domain_hub(metadata, tmp_path)
    models = [add_model(hub, 1, silence_timeout=60)[0] for _ in range(5)]
    now = datetime.now(UTC) + timedelta(seconds=61)
    with ThreadPoolExecutor(_SWEEPS) as sweeps:
        ended = list(sweeps.map(lambda _: end_silent_runs(hub, now), range(_SWEEPS)))
    assert sum(ended) == len(models)
    for model in models:
        found = metadata.pull_federated_model_w_id(model.id)
        assert found is not None
        assert found.status is ModelStatus.ERROR
        told = [entry.event_type for entry in metadata.pull_logs(model)]
        assert told[-2:] == ["RUN_SILENT", "ERROR"]
        assert (told.count("RUN_SILENT"), told.count("ERROR")) == (1, 1)
    metadata.close()


def test_a_silent_run_is_ended_by_a_worker_s_own_sweep(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"FEDQUEUE_EMBEDDED_WORKERS": "1", "FEDQUEUE_SWEEP_SECONDS": "0.3"}
    with hub_running(home, variables):
        monkeypatch.setenv("FEDQUEUE_HOME", str(home))
        with Client() as client:
            model_id = client.create_model(requirement=None, silence_timeout=1.0).model_id
            client.register_client(model_id)
            deadline = time.monotonic() + 30
            while (status := client.get_model(model_id).status) != "ERROR":
                assert status == "INITIATED"
                assert time.monotonic() < deadline, "the sweep left the run as it was"
                time.sleep(0.1)
            texts = [entry.text for entry in client.iter_logs(model_id)]
    assert texts[0] == "Run initiated"
    assert texts[1].startswith("Given up: nothing was heard of the run since ")
    assert texts[1].endswith(" UTC (it may be silent for 1 s)")
    assert texts[2:] == ["Run ended with an error"]
