"""TLS to every server, with certificates made on the spot: a real worker and a client served, a stranger refused.

Debian's servers are needed: the wheels that `make test` uses are built without TLS.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from fedqueue import Client
from fedqueue.errors import HubUnavailable, InvalidArgument
from fedqueue.tls import read_address
from tests.hubs import run_worker_command
from tests.security.parties import Authority, Pair, Parties, variables_of
from tests.security.secured_servers import mariadb_over_tls, postgres_over_tls, rabbitmq_over_tls, redis_over_tls
from tests.security.workers import worker_of
from tests.servers import Server

SECRET = "s3cret"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder / "ours")


@pytest.fixture(scope="module")
def stranger(folder: Path) -> Authority:
    """An authority that nobody here trusts."""
    return Authority(folder / "theirs")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.pair("server", "localhost")


@pytest.fixture(scope="module")
def caller(authority: Authority) -> Pair:
    return authority.pair("caller", "caller.invalid")


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory, authority: Authority, pair: Pair) -> Iterator[Server]:
    with redis_over_tls(tmp_path_factory.mktemp("redis"), authority, pair) as server:
        yield server


@pytest.fixture(scope="module")
def rabbitmq(authority: Authority, pair: Pair) -> Iterator[Server]:
    with rabbitmq_over_tls(authority, pair) as server:
        yield server


def trusted(url: str, authority: Authority, caller: Pair | None) -> str:
    own = f"&ssl_certfile={caller.certificate}&ssl_keyfile={caller.key}" if caller else ""
    return f"{url}?ssl_ca_certs={authority.file}{own}"


@pytest.mark.wide
@pytest.mark.parametrize(
    ("kind", "is_signed"), [("redis_server", False), ("rabbitmq", False), ("rabbitmq", True)], ids=str
)
def test_a_round_over_tls(
    request: pytest.FixtureRequest, tmp_path: Path, authority: Authority, caller: Pair, kind: str, is_signed: bool
) -> None:
    """Broker and answers, worker and client, the sweep and the canary: all by the parameters of one URL."""
    server: Server = request.getfixturevalue(kind)
    url = trusted(server.url, authority, caller)
    settings = {"FEDQUEUE_BROKER_URL": url, "FEDQUEUE_SWEEP_SECONDS": "0.5"}
    signing: dict[str, Any] = {}
    if is_signed:
        parties = Parties(tmp_path / "parties")
        settings |= variables_of(parties.party("hub"))
        site = parties.party("site")
        signing = {
            "signing_key": site.key,
            "signing_certificate": site.certificate,
            "trusted_certificates": parties.trusted,
        }
    with worker_of(tmp_path / "home", settings) as worker:
        with Client(url, store_url=(worker.home / "store").as_uri(), timeout=60, **signing) as hub:
            model = hub.create_model(data_format="json", requirement=None)
            sender = hub.register_client(model.model_id, name="north").client_id
            hub.submit_update(model.model_id, sender, [1, 2, 4], num_examples=1)
            assert hub.wait_for_aggregate(model.model_id, after=0, timeout=60).number == 1
            for number in range(20):
                hub.send_events([{"model_id": model.model_id, "log": f"line {number}"}])
            worker.wait_for(
                "20 lines", lambda: len([e for e in hub.iter_logs(model.model_id) if e.text.startswith("line")]) == 20
            )
        healthy = worker.command("health", "--seconds", "20")
        assert healthy.returncode == 0, healthy.stdout + healthy.stderr
        assert SECRET not in worker.log.read_text()
        assert worker.lines("message.refused") == []


@pytest.mark.wide
@pytest.mark.parametrize("kind", ["redis_server", "rabbitmq"])
@pytest.mark.parametrize("wrong", ["authority", "name", "caller", "no authority"])
def test_who_can_not_be_trusted_is_told_why(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    authority: Authority,
    stranger: Authority,
    caller: Pair,
    kind: str,
    wrong: str,
) -> None:
    """A server of another authority or another name, and a caller without a certificate: nothing is sent to them."""
    server: Server = request.getfixturevalue(kind)
    url = server.url.replace("localhost", "127.0.0.1") if wrong == "name" else server.url
    if wrong != "no authority":
        url = trusted(url, stranger if wrong == "authority" else authority, None if wrong == "caller" else caller)
    says = {
        "authority": "certificate verify failed",
        "name": "IP address mismatch",
        "caller": "alert|reset|closed|EOF|Broken pipe|required",
        "no authority": "certificate verify failed",
    }[wrong]
    with Client(url, timeout=2) as hub, pytest.raises(HubUnavailable, match=f"(?i){says}") as refused:
        hub.create_model(name="x")
    assert SECRET not in str(refused.value)
    assert "guest:guest" not in str(refused.value)
    found = run_worker_command(tmp_path / "home", "health", "--seconds", "2", FEDQUEUE_BROKER_URL=url)
    assert found.returncode != 0
    assert SECRET not in found.stdout + found.stderr


@pytest.mark.wide
def test_postgresql_over_tls(
    tmp_path: Path, authority: Authority, stranger: Authority, pair: Pair, valkey_url: str
) -> None:
    """sslmode=verify-full: the certificate and the host's name."""
    with postgres_over_tls(tmp_path, pair) as server:
        right = f"{server.url}?sslmode=verify-full&sslrootcert={authority.file}"
        settings = {"FEDQUEUE_BROKER_URL": valkey_url, "FEDQUEUE_DATABASE_URL": right}
        with worker_of(tmp_path / "home", settings) as worker, Client(valkey_url, timeout=60) as hub:
            assert hub.create_model(name="digits", data_format="json").name == "digits"
            assert SECRET not in worker.log.read_text()
        for wrong, says in (
            (f"{server.url}?sslmode=verify-full&sslrootcert={stranger.file}", "certificate verify failed"),
            (right.replace("localhost", "127.0.0.1"), "does not match host name"),
            (f"{server.url}?sslmode=disable", "no encryption"),
            (right.replace(SECRET, "wr0ng"), "password authentication failed"),
        ):
            found = run_worker_command(tmp_path / "home", "migrate", **settings | {"FEDQUEUE_DATABASE_URL": wrong})
            said = found.stdout + found.stderr
            assert found.returncode != 0
            assert says in said
            assert "Traceback" not in said
            assert SECRET not in said
            assert "wr0ng" not in said


@pytest.mark.wide
def test_mariadb_over_tls(
    tmp_path: Path, authority: Authority, stranger: Authority, pair: Pair, valkey_url: str
) -> None:
    """`ssl_ca` alone has the certificate and the host's name checked."""
    with mariadb_over_tls(pair) as server:
        right = f"{server.url}?ssl_ca={authority.file}"
        settings = {"FEDQUEUE_BROKER_URL": valkey_url, "FEDQUEUE_DATABASE_URL": right}
        with worker_of(tmp_path / "home", settings) as worker, Client(valkey_url, timeout=60) as hub:
            assert hub.create_model(name="digits", data_format="json").name == "digits"
            assert SECRET not in worker.log.read_text()
        for wrong, says in (
            (f"{server.url}?ssl_ca={stranger.file}", "certificate verify failed"),
            (right.replace("localhost", "127.0.0.1"), "IP address mismatch"),
            (right.replace(SECRET, "wr0ng"), "Access denied"),
        ):
            found = run_worker_command(tmp_path / "home", "migrate", **settings | {"FEDQUEUE_DATABASE_URL": wrong})
            said = found.stdout + found.stderr
            assert found.returncode != 0
            assert says in said
            assert "Traceback" not in said
            assert SECRET not in said
            assert "wr0ng" not in said


# --- without a server ---------------------------------------------------------------------------------------------


def test_a_bare_secure_url_checks_certificate_and_name() -> None:
    """kombu's own reading of rediss:// trusts anybody, and of amqps:// any name."""
    redis, rabbitmq = read_address("rediss://:p@broker:6379/0").tls, read_address("amqps://hub:p@broker//").tls
    assert redis == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    assert rabbitmq == {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "broker"}
    assert read_address("redis://broker").tls is None
    assert read_address("redis+socket:///run/b.sock?virtual_host=0").tls is None


def test_tls_parameters_leave_the_url_and_others_stay(folder: Path, authority: Authority, caller: Pair) -> None:
    query = f"virtual_host=1&ssl_ca_certs={authority.file}&ssl_certfile={caller.certificate}&ssl_keyfile={caller.key}"
    address = read_address(f"rediss://:p%40ss@broker:6380/0?{query}")
    assert address.url == "rediss://:p%40ss@broker:6380/0?virtual_host=1"
    assert address.tls is not None
    assert address.tls["ssl_ca_certs"] == str(authority.file)
    unnamed = read_address(f"amqps://hub:p@broker/?ssl_check_hostname=false&ssl_ca_certs={authority.file}")
    assert unnamed.tls == {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": str(authority.file)}
    assert "p%40ss" not in repr(address)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("rediss://:hushhush@broker?ssl_cert_reqs=none", "guards against nobody"),
        ("rediss://:hushhush@broker?ssl_ca_cert=/ca.pem", "ssl_ca_cert is no TLS parameter known here"),
        ("rediss://:hushhush@broker?ssl_ca_certs=/nowhere/ca.pem", "names /nowhere/ca.pem, which is no file"),
        ("redis://:hushhush@broker?ssl_ca_certs=/ca.pem", "write rediss://"),
        ("amqp://u:hushhush@broker?ssl_ca_certs=/ca.pem", "write amqps://"),
        ("amqps://u:hushhush@broker?ssl_check_hostname=maybe", "true or false"),
        ("amqps://u:hushhush@broker?ssl_keyfile=/k.pem", "needs ssl_certfile"),
    ],
    ids=["unchecked", "misspelt", "no file", "plain redis", "plain amqp", "maybe", "key alone"],
)
def test_what_would_not_be_safe_is_refused_by_hub_and_client(tmp_path: Path, url: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as by_client:
        Client(url)
    by_hub = run_worker_command(tmp_path, "config", FEDQUEUE_BROKER_URL=url)
    assert by_hub.returncode != 0
    assert "FEDQUEUE_BROKER_URL" in by_hub.stdout + by_hub.stderr
    assert says in by_hub.stdout + by_hub.stderr
    assert "hushhush" not in by_hub.stdout + by_hub.stderr + str(by_client.value)


def test_mariadbs_tls_parameters_reach_its_driver(authority: Authority) -> None:
    """`ssl_ca` alone makes PyMySQL check the certificate and the name."""
    url = make_url(f"mariadb+pymysql://hub:p@db/hub?ssl_ca={authority.file}")
    _, arguments = url.get_dialect()().create_connect_args(url)
    assert arguments["ssl"] == {"ca": str(authority.file)}
