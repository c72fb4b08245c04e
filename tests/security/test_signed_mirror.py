"""A hub that signs its messages, mirrored: what it signed is shown, what somebody else made of it is refused."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from examples.mirrors.comparing import read_events
from examples.mirrors.peers import NOTIFY, PROGRAMS, mirror, started
from fedqueue import Client
from fedqueue.signing import Signer
from tests.security.parties import Parties, variables_of
from tests.security.workers import Intruder, worker_of
from tests.servers import valkey_server
from worker.children import Child

pytestmark = [
    pytest.mark.wide,
    pytest.mark.slow,
    pytest.mark.skipif(not (PROGRAMS / "mlflow").exists(), reason=".peers/mirrors is not there: run `make peers`"),
]

TASK, QUEUE = NOTIFY.values()


def until(child: Child, holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90
    while not holds():
        assert child.ended is None, child.last_lines(30)
        assert time.monotonic() < deadline, child.last_lines(30)
        time.sleep(0.1)


def test_a_signed_hub_is_mirrored_and_nobody_else(tmp_path: Path) -> None:
    """MLflow is away all the while: what is to be heard once more is signed by the mirror, and believed by it."""
    parties = Parties(tmp_path / "parties")
    hub_files, site, own = (parties.party(name) for name in ("hub", "site", "mirror"))
    stranger = parties.party("stranger", trusted=False)
    events = tmp_path / "events"
    with valkey_server(tmp_path) as broker:
        home = tmp_path / "hub"
        settings = {"FEDQUEUE_BROKER_URL": broker.url, "FEDQUEUE_SWEEP_SECONDS": "0.5", **NOTIFY}
        store = (home / "store").as_uri()
        shown = mirror(
            tmp_path / "mirror",
            tmp_path / "nowhere",
            FEDQUEUE_BROKER_URL=broker.url,
            FEDQUEUE_STORE_URL=store,
            FEDQUEUE_MIRROR_MLFLOW="http://127.0.0.1:9",
            FEDQUEUE_MIRROR_TENSORBOARD=str(events),
            **variables_of(own),
        )
        signing: dict[str, Any] = {
            "signing_key": site.key,
            "signing_certificate": site.certificate,
            "trusted_certificates": site.trusted,
        }
        with (
            worker_of(home, {**settings, **variables_of(hub_files)}),
            started(shown),
            Client(broker.url, store_url=store, timeout=60, **signing) as client,
        ):
            model = client.create_model(name="digits", data_format="json").model_id
            client.register_client(model, name="north")
            client.log_metric(model, "loss", 0.5, global_round=1)
            until(shown, lambda: read_events(events) == [("loss", "", 1, 0.5)])

            def said(words: str) -> int:
                return shown.log.read_text().count(words)

            # Its first notification, heard at least three times.
            until(shown, lambda: said(f"model.status_changed:{model}:0:INITIATED is heard once more") >= 3)
            assert said("message refused") == 0
            fact = {"event": "model.deleted", "key": "forged", "model_id": str(model), "sequence": 99}
            call = [[fact], {}, {"signed": {"task": TASK, "id": "1"}}]
            forged: list[dict[str, Any]] = [
                {"body": base64.b64encode(json.dumps(call).encode()).decode()},
                {"body": base64.b64encode(json.dumps(call).encode()).decode(), "content_type": "application/data"},
                {"body": call, "content_type": "application/text", "properties__body_encoding": None},
                {"body": signed(Signer(stranger), call), "content_type": "application/data"},
                {"body": signed(Signer(site), call), "content_type": "application/data", "headers__id": "2"},
                {"body": call, "content_type": None, "properties__body_encoding": None},
            ]
            with redis.Redis.from_url(broker.url) as connection:
                for number, changes in enumerate(forged, 1):
                    Intruder(connection).put(QUEUE, **{"headers__task": TASK, **changes})
                    until(shown, lambda: said("message refused") == number)  # noqa: B023  # called in this turn
                # Well signed, and no notification.
                identity = str(uuid4())
                call = [[{"no": "fact"}], {}, {"signed": {"task": TASK, "id": identity}}]
                changes = {"body": signed(Signer(site), call), "content_type": "application/data"}
                Intruder(connection).put(QUEUE, headers__task=TASK, headers__id=identity, **changes)
                until(shown, lambda: said("not a notification") == 1)
            client.log_metric(model, "loss", 0.25, global_round=2)
            until(shown, lambda: read_events(events) == [("loss", "", 1, 0.5), ("loss", "", 2, 0.25)])
            assert said("message refused") == len(forged)


def signed(signer: Signer, call: Any) -> str:
    return base64.b64encode(signer.sign(call).encode()).decode()
