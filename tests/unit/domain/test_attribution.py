"""Whom an event is about: a slot's trust that the model knows, or one of the hub's own clients."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from connectors.metadata import BaseMetadataConnector
from connectors.records import Trust
from tasks.domain.attribution import Sender, Senders
from tasks.domain.errors import AttributionFailed
from tests.unit.domain.conftest import Bench


@dataclass(frozen=True)
class Asked:
    """What names its sender."""

    model_id: UUID
    fl_client_name: str | None = None
    trust_id: UUID | None = None


class World:
    """Two trusts with a slot each, a slot that is nobody's, and a model that knows the first trust."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.model, (self.client,) = bench.model(clients=1)
        metadata = bench.metadata
        with metadata.transaction():
            self.kings = metadata.add_trust(Trust(0, uuid4(), "King's"))
            self.guys = metadata.add_trust(Trust(0, uuid4(), "Guy's"))
            for name, trust in (("site-1", self.kings), ("site-2", self.guys), ("site-3", None)):
                metadata.set_fl_kit_slot(name, trust)

    def approve(self, *trusts: Trust) -> None:
        with self.bench.metadata.transaction():
            self.bench.metadata.set_model_trusts(self.model, trusts)

    def find(self, name: str | None = None, trust_id: UUID | None = None) -> Sender:
        asked = Asked(self.model.uuid, name, trust_id)
        return Senders(self.bench.hub, {self.model.uuid: self.model}, [asked]).find(asked)

    def reason(self, name: str | None = None, trust_id: UUID | None = None) -> str:
        with pytest.raises(AttributionFailed) as failed:
            self.find(name, trust_id)
        assert failed.value.field == ("fl_client_name" if trust_id is None else "trust_id")
        return failed.value.reason


@pytest.fixture
def world(bench: Bench) -> World:
    return World(bench)


def test_a_slot_leads_to_its_trust_if_the_model_knows_it(world: World) -> None:
    world.approve(world.kings)
    assert world.find("site-1") == Sender(world.kings.id, world.kings.uuid, "site-1")
    assert world.find() == Sender()


def test_every_way_to_fail_says_which(world: World) -> None:
    world.approve(world.kings)
    model = world.model.uuid
    assert world.reason("site-2") == f'"site-2" is trust "Guy\'s", which is not approved for model {model}'.replace(
        '"site-2"', "'site-2'"
    )
    for name in ("site-3", "site-9", "SITE-1"):
        assert world.reason(name) == f"{name!r} is no trust's slot and no client of model {model}"
    assert world.reason("client 0") == f"client 'client 0' is of no trust that is approved for model {model}"
    assert world.reason(trust_id=world.guys.uuid) == f'trust "Guy\'s" is not approved for model {model}'
    missing = uuid4()
    assert world.reason(trust_id=missing) == f"there is no trust {missing}"


def test_a_trust_that_is_named_itself_must_be_approved_as_well(world: World) -> None:
    world.approve(world.kings)
    assert world.find("as it was called", world.kings.uuid) == Sender(
        world.kings.id, world.kings.uuid, "as it was called"
    )


def test_the_hubs_own_clients_are_known_by_name_and_by_uuid(world: World) -> None:
    """Under one name, whichever was used: the hub's own events have the same."""
    for name in ("client 0", str(world.client), world.client.hex.upper()):
        assert world.find(name) == Sender(None, None, str(world.client))


def test_a_client_brings_its_trust(world: World) -> None:
    metadata = world.bench.metadata
    client = metadata.pull_client(world.client)
    assert client is not None
    with metadata.transaction():
        metadata.set_client_trust(client, world.kings)
    assert world.find("client 0").trust == world.kings.id
    world.approve(world.kings)
    assert world.find("client 0").trust == world.kings.id
    world.approve(world.guys)
    assert "of no trust that is approved" in world.reason("client 0")


def test_a_name_that_two_clients_share_is_nobodys(world: World) -> None:
    world.bench.model(clients=1)  # the same name in another model: no matter
    assert world.find("client 0").fl_client_name == str(world.client)
    with world.bench.metadata.transaction():
        world.bench.metadata.register_client(world.model, uuid4(), "client 0")
    assert world.reason("client 0") == f"2 clients of model {world.model.uuid} are called 'client 0': use the UUID"
    assert world.find(str(world.client)).fl_client_name == str(world.client)


def test_a_client_of_another_model_is_nobody_here(world: World) -> None:
    _, (stranger,) = world.bench.model(clients=1)
    assert "no client of model" in world.reason(str(stranger))


class Counting:
    """A connector that notes what it is asked."""

    def __init__(self, asked: Any) -> None:
        self._asked = asked
        self.queries: list[str] = []

    def __getattr__(self, verb: str) -> Any:
        self.queries.append(verb)
        return getattr(self._asked, verb)


def test_a_batch_of_any_size_asks_a_handful_of_times(world: World) -> None:
    world.approve(world.kings)
    other, _ = world.bench.model(clients=3)
    asked = [Asked(world.model.uuid, f"site-{number}") for number in range(500)]
    asked += [Asked(other.uuid, f"client {number}") for number in range(500)]
    asked += [Asked(world.model.uuid, trust_id=uuid4()) for _ in range(500)]
    counting = Counting(world.bench.metadata)
    hub = replace(world.bench.hub, metadata=cast(BaseMetadataConnector, counting))
    senders = Senders(hub, {world.model.uuid: world.model, other.uuid: other}, asked)
    found = 0
    for each in asked:
        with suppress(AttributionFailed):
            found += senders.find(each) is not None
    assert found == 1 + 3
    assert sorted(counting.queries) == [
        "pull_model_trusts",
        "pull_named_clients",
        "pull_trusts",
        "pull_trusts_of_slots",
    ]
