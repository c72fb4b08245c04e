"""A round's bytes depend on its updates alone, in ascending id, not on the worker's pool."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import numpy as np
from safetensors.numpy import save

from fedqueue import Client
from fedqueue.messages import LatestView
from tasks.aggregation import UpdateArrays, combine
from tests.hubs import ROOT, environment, run_worker_command
from worker.children import die_with_parent

CLIENTS = [UUID(int=number) for number in range(1, 8)]
_RNG = np.random.default_rng(5)
# Of such different sizes that another order of additions gives other bytes.
UPDATES = {client: {"w": _RNG.normal(size=2000) * 10.0 ** _RNG.integers(-9, 9, 2000)} for client in CLIENTS}


@contextmanager
def worker_with(home: Path, broker_url: str, *options: str) -> Iterator[None]:
    """`celery -A worker worker OPTIONS` on a migrated home."""
    assert run_worker_command(home, "migrate").returncode == 0
    with (home / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker", "worker", *options],
            cwd=ROOT,
            env=environment(home, FEDQUEUE_BROKER_URL=broker_url),
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(),
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def one_round(home: Path, broker_url: str, order: Sequence[UUID]) -> LatestView:
    """The aggregate of every client's update, sent in that order."""
    with Client(broker_url, store_url=f"file://{home}/store", timeout=60) as hub:
        model = hub.create_model(requirement="require_x_clients", requirement_args=[len(CLIENTS)], clients=CLIENTS)
        for client in order:
            hub.submit_update(model.model_id, client, UPDATES[client], num_examples=client.int)
        return hub.wait_for_aggregate(model.model_id, after=0)


def in_order(order: Sequence[UUID]) -> bytes:
    """What the engine makes of them, in that order."""
    given = [UpdateArrays(UPDATES[client], num_examples=client.int) for client in order]
    return save({name: np.asarray(array) for name, array in combine("fedavg", {}, given).arrays.items()})


def test_prefork_and_solo_post_the_same_bytes(home: Path, valkey_url: str) -> None:
    order, digests = CLIENTS[::-1], []
    for pool in (("--pool", "prefork", "-c", "2"), ("--pool", "solo")):
        place = home / pool[1]
        with worker_with(place, valkey_url, *pool):
            posted = one_round(place, valkey_url, order)
            digests.append(posted.digest)
            assert posted.uri is not None
            stored = Path(posted.uri.removeprefix("file://")).read_bytes()
            assert stored == in_order(order), "ascending update id, whatever the workers"
    assert digests[0] == digests[1]
    assert in_order(order) != in_order([*order[1:], order[0]]), "else this could not fail"
