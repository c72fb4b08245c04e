"""Redis users of few rights: by the lines in docs/security.md hub and clients run, and with fewer they say so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis

from fedqueue import Client
from fedqueue.errors import HubUnavailable
from tests.hubs import ROOT, run_worker_command
from tests.security.secured_servers import redis_with_users
from tests.security.workers import worker_of

pytestmark = pytest.mark.wide  # long: every right is tried with a whole hub


def documented_rules() -> dict[str, str]:
    """The ACL lines that docs/security.md tells to copy, by user."""
    text = (ROOT / "docs" / "security.md").read_text()
    found = dict(re.findall(r"^\s*(?:user (\w+) )(.*)$", text, re.M))
    return {user: f"user {user} {rest.replace('HUB_PASSWORD', 'h-s3cret').replace('CLIENT_PASSWORD', 'c-s3cret')}"
            for user, rest in found.items()}  # fmt: skip


def test_hub_and_client_run_with_the_documented_rights(tmp_path: Path) -> None:
    """Rounds, answers, events taken many at a time, the canary, remote control, the queues' lengths."""
    rules = documented_rules()
    assert set(rules) == {"hub", "client"}
    with redis_with_users(tmp_path, list(rules.values())) as server:
        place = server.url.partition("//")[2]
        hub_url, client_url = f"redis://hub:h-s3cret@{place}", f"redis://client:c-s3cret@{place}"
        settings = {"FEDQUEUE_BROKER_URL": hub_url, "FEDQUEUE_SWEEP_SECONDS": "0.5"}
        with worker_of(tmp_path / "home", settings) as worker:
            with Client(client_url, store_url=(worker.home / "store").as_uri(), timeout=60) as hub:
                model = hub.create_model(data_format="json", requirement=None)
                sender = hub.register_client(model.model_id, name="north").client_id
                hub.submit_update(model.model_id, sender, [1, 2, 4], num_examples=1)
                assert hub.wait_for_aggregate(model.model_id, after=0, timeout=60).number == 1
                for number in range(50):
                    hub.send_events([{"model_id": model.model_id, "log": f"line {number}"}])
                worker.wait_for(
                    "50 lines",
                    lambda: len([e for e in hub.iter_logs(model.model_id) if e.text.startswith("line")]) == 50,
                )
            healthy = worker.command("health", "--seconds", "20")
            assert healthy.returncode == 0, healthy.stdout + healthy.stderr
            status = worker.command("status", "--json")
            assert status.returncode == 0, status.stdout + status.stderr
            said = worker.log.read_text() + healthy.stdout + status.stdout
            assert "NOPERM" not in said
            assert "no permissions" not in said
            assert "s3cret" not in said
        with redis.Redis.from_url(client_url) as connection:
            for forbidden in (
                ("GET", "somebody:else"),
                ("RPOP", "fedqueue.control"),
                ("LRANGE", "fedqueue.updates", "0", "-1"),
                ("FLUSHALL",),
                ("CONFIG", "GET", "*"),
                ("KEYS", "*"),
                ("EVAL", "return 1", "0"),
                ("PUBLISH", "/0.celery.pidbox", "x"),
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    connection.execute_command(*forbidden)
        with redis.Redis.from_url(hub_url) as connection:
            for forbidden in (("GET", "somebody:else"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*")):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    connection.execute_command(*forbidden)


def test_too_few_rights_are_told(tmp_path: Path) -> None:
    """The right that is missing, and no password."""
    rules = documented_rules()
    lame = "user hub on >h-s3cret ~* &* +@connection"
    with redis_with_users(tmp_path, [lame, rules["client"].replace("~", "~other:")]) as server:
        place = server.url.partition("//")[2]
        home = tmp_path / "home"
        assert run_worker_command(home, "migrate").returncode == 0
        broker = f"redis://hub:h-s3cret@{place}"
        with worker_of(home, is_ready=False, FEDQUEUE_BROKER_URL=broker) as worker:
            worker.wait_for("a word of it", lambda: "has no permissions" in worker.log.read_text())
            assert "h-s3cret" not in worker.log.read_text()
        with Client(f"redis://client:c-s3cret@{place}", timeout=1) as hub, pytest.raises(HubUnavailable) as refused:
            hub.create_model(name="x")
        assert "No permissions" in str(refused.value)
        wrong = run_worker_command(home, "health", FEDQUEUE_BROKER_URL=f"redis://hub:wr0ng@{place}")
        assert wrong.returncode != 0
        assert "WRONGPASS" in wrong.stdout + wrong.stderr or "invalid username-password" in wrong.stdout + wrong.stderr
        assert "wr0ng" not in wrong.stdout + wrong.stderr
