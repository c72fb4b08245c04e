"""What operators do to models and trusts, by `fedqueue.Client` through a real broker, workers and database."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis

from fedqueue import Client, Rejected, RoundNotPosted
from fedqueue.messages import ModelView
from tests.integration.test_client import hub_settings
from worker.supervisor import Supervisor


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A hub that tells another service; nobody reads that queue but this test."""
    settings = hub_settings(tmp_path_factory.mktemp("hub"), notify_task="theirs.hear", notify_queue="theirs")
    with Supervisor(settings) as running:
        yield running


@pytest.fixture
def hub(supervisor: Supervisor) -> Iterator[Client]:
    settings = supervisor.settings
    with Client(settings.broker_url, settings.result_url, settings.store_url) as client:
        yield client


@pytest.fixture
def make(hub: Client) -> Callable[..., tuple[ModelView, UUID]]:
    """A JSON model with one client, whose every update is a round."""

    def make(**fields: Any) -> tuple[ModelView, UUID]:
        model = hub.create_model(data_format="json", requirement=None, **fields)
        return model, hub.register_client(model.model_id).client_id

    return make


def heard(supervisor: Supervisor, model_id: UUID) -> list[dict[str, Any]]:
    """What was sent about the model so far, in order, each fact once."""
    from base64 import b64decode

    with redis.Redis.from_url(redis_url(supervisor)) as client:
        raw = [json.loads(each) for each in reversed(client.lrange("theirs", 0, -1))]
    facts = [json.loads(b64decode(each["body"]))[0][0] for each in raw]
    return list({fact["key"]: fact for fact in facts if fact["model_id"] == str(model_id)}.values())


def redis_url(supervisor: Supervisor) -> str:
    """The embedded broker's address as redis-py spells it."""
    return supervisor.settings.broker_url.replace("redis+socket://", "unix://").replace("virtual_host=", "db=")


def test_a_stopped_model_goes_on_after_a_user_s_new_run(
    hub: Client, make: Callable[..., tuple[ModelView, UUID]], supervisor: Supervisor
) -> None:
    model, client = make()
    hub.submit_update(model.model_id, client, [1.0], num_examples=1)
    hub.wait_for_aggregate(model.model_id, after=0, timeout=30)
    stopped = hub.stop_model(model.model_id, user_id="ada")
    assert (stopped.status, stopped.changed) == ("STOPPED", True)
    assert hub.stop_model(model.model_id).reason == "repeated"
    with pytest.raises(Rejected, match="takes no more updates"):
        hub.submit_update(model.model_id, client, [2.0], num_examples=1)
    with pytest.raises(RoundNotPosted, match="is STOPPED"):
        hub.wait_for_aggregate(model.model_id, after=1, timeout=30)
    run = hub.start_run(model.model_id, user_id="ada")
    assert run.run_id is not None
    hub.submit_update(model.model_id, client, [2.0], num_examples=1)
    assert hub.wait_for_aggregate(model.model_id, after=1, timeout=30).number == 2
    assert hub.update_status(model.model_id, None).status == "RUNNING"
    told = [(fact["event"], fact["details"].get("status")) for fact in settled(supervisor, model.model_id, 8)]
    assert told == [
        ("model.status_changed", "INITIATED"),
        ("model.status_changed", "RUNNING"),
        ("aggregate.posted", None),
        ("model.status_changed", "STOPPED"),
        ("model.finished", "STOPPED"),
        ("model.status_changed", "INITIATED"),
        ("model.status_changed", "RUNNING"),
        ("aggregate.posted", None),
    ]


def settled(supervisor: Supervisor, model_id: UUID, wanted: int) -> list[dict[str, Any]]:
    """The facts, once there are so many."""
    deadline = time.monotonic() + 30
    while len(found := heard(supervisor, model_id)) < wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def test_a_deleted_project_answers_as_one_that_never_was(
    hub: Client, make: Callable[..., tuple[ModelView, UUID]]
) -> None:
    models = [make(project_id="chest") for _ in range(2)]
    assert hub.delete_model(models[0][0].model_id, user_id="ada").deleted == 1
    assert hub.delete_project("chest", user_id="ada").deleted == 1
    assert hub.delete_model(models[0][0].model_id).deleted == 0
    for model, client in models:
        for ask in (
            lambda: hub.get_model(model.model_id),  # noqa: B023  # called at once
            lambda: hub.submit_update(model.model_id, client, [1.0], num_examples=1),  # noqa: B023
            lambda: hub.update_status(model.model_id, "RUNNING"),  # noqa: B023
            lambda: hub.register_client(model.model_id),  # noqa: B023
        ):
            with pytest.raises(Rejected, match="there is no model") as refused:
                ask()
            assert refused.value.kind == "UnknownModel"


def test_trusts_are_managed_from_another_service(hub: Client, make: Callable[..., tuple[ModelView, UUID]]) -> None:
    model, client = make()
    kings = hub.add_trust("King's", "KCH")
    assert hub.add_trust("King's", "KCH", trust_id=kings.trust_id) == kings
    with pytest.raises(Rejected) as refused:
        hub.add_trust("Another", "KCH")
    assert (refused.value.kind, refused.value.field) == ("TrustTaken", "code")
    assert hub.set_slot("site-1", kings.trust_id).trust is not None
    hub.set_client_trust(client, kings.trust_id)
    approved = hub.set_model_trusts(model.model_id, [kings.trust_id], user_id="ada")
    assert [trust.fl_client_names for trust in approved.trusts] == [["site-1"]]
    assert hub.list_trusts(model_id=model.model_id).trusts == approved.trusts
    with pytest.raises(Rejected) as refused:
        hub.set_model_trusts(model.model_id, [kings.trust_id, uuid4()])
    assert (refused.value.kind, refused.value.field) == ("UnknownTrust", "trust_ids.1")
