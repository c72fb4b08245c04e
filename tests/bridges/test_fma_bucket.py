"""Real workers beside a real FMA deployment whose files lie in a bucket: each process opens the bucket for itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from config.settings import Settings
from examples.fma.peer import PYTHON, FmaDeployment
from fedqueue.buckets import Bucket
from tests.buckets import make_bucket, s3_server
from worker.supervisor import Supervisor

pytestmark = [
    pytest.mark.wide,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason=".peers/fma is not there: run `make peers`"),
]

_SECONDS = 60.0


def test_what_fmas_api_takes_is_aggregated_in_the_bucket_and_served(tmp_path: Path) -> None:
    """By hand: (1 + 5) / 2, (2 + 2) / 2, (4 + 3) / 2; once more after every process of the pools was killed."""
    with s3_server(tmp_path) as server:
        make_bucket(server, "fma")
        fma = FmaDeployment(tmp_path, bucket="s3://fma/media")
        fma.migrate()
        settings = Settings(
            home=tmp_path / "hub",
            metadata_connector="django",
            database_url=f"sqlite:///{tmp_path}/fma.db",
            fma_media="s3://fma/media",
            sweep_seconds=0.5,
        )
        with Supervisor(settings), fma.serving():
            asked = {"name": "digits", "developer": 1, "aggregator": "avg_values_if_data", "allow_aggregation": True}
            gate = {"requirement": "require_x_updates", "requirement_args": [2], "initial_model": [0, 0, 0]}
            model = fma.ask("POST", "models/", asked | gate, token=fma.developer())["id"]
            one, two = (fma.ask("POST", f"models/{model}/register_client/")["uuid"] for _ in range(2))
            first = _round(fma, model, {one: [1, 2, 4], two: [5, 2, 3]}, None)
            assert first["values"] == [3.0, 2.0, 3.5]
            parents = [child for child in psutil.Process().children() if "celery" in child.cmdline()]
            pools = [process for parent in parents for process in parent.children()]
            assert len(pools) >= settings.embedded_workers
            for process in pools:
                process.kill()
            second = _round(fma, model, {one: [1, 1, 1], two: [3, 3, 3]}, first["aggregate"])
            assert second["values"] == [2.0, 2.0, 2.0]
        assert fma.rebuild()["changed"] == []
        bucket = Bucket("s3://fma/media")
        assert (len(list(bucket.list("model_updates"))), len(list(bucket.list("fedqueue/sha256")))) == (4, 7)
        assert not list(fma.media.iterdir()), "nothing of it lies on this machine"


def _round(fma: FmaDeployment, model: int, updates: dict[str, list[int]], base: int | None) -> Any:
    """What FMA's API serves once these updates are used."""
    for client, data in updates.items():
        sent = {"federated_model": model, "data": data, "base_aggregate": base}
        fma.ask("POST", "model_updates/", sent, client=client)
    deadline = time.monotonic() + _SECONDS
    while (latest := fma.ask("GET", f"models/{model}/get_latest_model/", client=client))["aggregate"] in (None, base):
        assert time.monotonic() < deadline, "no aggregate"
        time.sleep(0.2)
    return latest
