"""What the compose file's overrides promise, read off them: the same care with other servers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from config.loading import load_settings
from tests.production import ROOT, VariableMissing, read_compose, seconds_of

SECRETS = dict.fromkeys(("POSTGRES_PASSWORD", "REDIS_PASSWORD", "MARIADB_PASSWORD", "RABBITMQ_PASSWORD"), "s3")
OURS = ("migrate", "worker", "beat")
VARIANTS = [("mariadb",), ("rabbitmq",), ("mariadb", "rabbitmq")]


@pytest.fixture(params=VARIANTS, ids="+".join)
def compose(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read_compose(SECRETS, *request.param)


def test_each_server_takes_the_place_of_the_one_it_is_for(compose: dict[str, Any]) -> None:
    services = set(compose["services"])
    assert len(services & {"mariadb", "postgres"}) == 1
    assert len(services & {"rabbitmq", "redis"}) == 1
    assert services - {"mariadb", "postgres", "rabbitmq", "redis"} == set(OURS)
    assert set(compose["volumes"]) == (services - set(OURS)) | {"store"}


def test_each_container_runs_with_no_more_rights_than_in_the_first_file(compose: dict[str, Any]) -> None:
    model = read_compose(SECRETS)["services"]["redis"]
    for name, service in compose["services"].items():
        for rule in ("init", "read_only", "cap_drop", "security_opt", "stop_grace_period", "logging"):
            assert service[rule] == model[rule], (name, rule)
        assert service["user"].split(":")[0] not in ("root", "0")
        assert any(place.startswith("/tmp:") for place in service["tmpfs"])
        assert not service.keys() & {"privileged", "ports"}
    assert seconds_of(model["stop_grace_period"]) == 45


def test_what_waits_for_a_server_waits_for_one_that_is_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
    for name in OURS:
        assert services[name]["depends_on"], name
    assert services["migrate"]["depends_on"].keys() & {"mariadb", "postgres"}
    assert services["worker"]["depends_on"].keys() >= {"migrate"}


def test_every_process_of_the_hub_is_told_the_same_addresses_and_takes_them(compose: dict[str, Any]) -> None:
    services = compose["services"]
    told = {
        tuple(services[name]["environment"][f"FEDQUEUE_{which}_URL"] for which in ("DATABASE", "BROKER", "STORE"))
        for name in OURS
    }
    ((database, broker, store),) = told
    settings = load_settings(None, database_url=database, broker_url=broker, store_url=store)
    kinds = (settings.database_url.partition("+")[0], settings.broker_url.partition(":")[0], settings.result_url[:3])
    assert kinds[0] == ("mariadb" if "mariadb" in services else "postgresql")
    assert kinds[1:] == (("amqp", "rpc") if "rabbitmq" in services else ("redis", "red"))


@pytest.mark.parametrize(("override", "password"), [("mariadb", "MARIADB_PASSWORD"), ("rabbitmq", "RABBITMQ_PASSWORD")])
def test_without_its_password_nothing_starts_and_the_variable_is_named(override: str, password: str) -> None:
    with pytest.raises(VariableMissing, match=f"{password}: set it"):
        read_compose(SECRETS | {password: ""}, override)
    text = (ROOT / f"docker-compose.{override}.yml").read_text()
    assert set(re.findall(r"\$\{(\w+_PASSWORD)", text)) == {password}
