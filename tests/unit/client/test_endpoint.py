"""Where a client looks for its hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedqueue.endpoint import Endpoint, find_endpoint, masked
from fedqueue.errors import EndpointUnknown


def left_by_a_hub(home: Path) -> dict[str, str]:
    left = {
        "broker_url": "redis://left:1/0",
        "result_url": "redis://left:1/1",
        "store_url": "file:///left/store",
    }
    home.mkdir(exist_ok=True)
    (home / "endpoint.json").write_text(json.dumps(left))
    return {"FEDQUEUE_HOME": str(home)}


def test_a_hub_on_this_machine_is_found_by_the_file_it_left(tmp_path: Path) -> None:
    environ = left_by_a_hub(tmp_path / "home")
    assert find_endpoint(environ=environ) == Endpoint("redis://left:1/0", "redis://left:1/1", "file:///left/store")


def test_the_file_is_looked_for_in_dot_fedqueue_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_by_a_hub(tmp_path / ".fedqueue")
    monkeypatch.chdir(tmp_path)
    assert find_endpoint(environ={}).broker_url == "redis://left:1/0"


def test_the_environment_goes_before_the_file_and_arguments_before_both(tmp_path: Path) -> None:
    environ = left_by_a_hub(tmp_path) | {"FEDQUEUE_BROKER_URL": "redis://env:1/0"}
    assert find_endpoint(environ=environ).broker_url == "redis://env:1/0"
    assert find_endpoint("redis://argument:1/0", environ=environ).broker_url == "redis://argument:1/0"


def test_a_named_broker_is_never_paired_with_another_hubs_store(tmp_path: Path) -> None:
    """An update would lie in a store that the hub at that broker can't read."""
    environ = left_by_a_hub(tmp_path)
    assert find_endpoint("redis://other:1/0", environ=environ).store_url is None


def test_answers_come_through_a_redis_broker_itself_and_over_rabbitmq_as_messages() -> None:
    assert find_endpoint("redis://a:1/0", environ={}).result_url == "redis://a:1/0"
    assert find_endpoint("amqp://a:1//", environ={}).result_url == "rpc://"


def test_without_any_address_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EndpointUnknown, match=r"FEDQUEUE_BROKER_URL.*python -m worker up.*FEDQUEUE_HOME"):
        find_endpoint(environ={"FEDQUEUE_HOME": str(tmp_path)})


@pytest.mark.parametrize("text", ["{", "[]", '{"store_url": "file:///x"}'])
def test_a_broken_file_is_named_and_not_taken_for_a_missing_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "endpoint.json").write_text(text)
    with pytest.raises(EndpointUnknown, match=r"endpoint\.json.*start the hub again"):
        find_endpoint(environ={"FEDQUEUE_HOME": str(tmp_path)})


def test_no_password_is_shown() -> None:
    endpoint = find_endpoint("rediss://user:secret@host:6379/0", environ={})
    assert masked(endpoint.broker_url) == "rediss://user:***@host:6379/0"
    assert "secret" not in repr(endpoint)
    assert masked("redis+socket:///run/broker.sock?virtual_host=0") == "redis+socket:///run/broker.sock?virtual_host=0"
