"""Looking up many at once: what a batch of events names, in one query however many it are."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from connectors.metadata import BaseMetadataConnector
from connectors.records import FederatedModel


def _add_model(connector: BaseMetadataConnector) -> FederatedModel:
    with connector.transaction():
        return connector.add_federated_model(FederatedModel(id=0, uuid=uuid4()))


NO_MODELS_NAMES: dict[str, int | str] = {
    "beyond a row's number": 2**63,
    "beyond it in words": "9" * 19,
    "far beyond it": "9" * 30,
    "longer than int() reads": "9" * 5_000,
    "negative": -1,
    "negative in words": "-1",
    "zero": "0",
    "another script's digits": "١",
    "a UUID in another script's digits": "٠" * 32,
    "raised": "²",
    "with a blank": " 1",
    "nothing": "",
}


@pytest.mark.parametrize("name", NO_MODELS_NAMES)
def test_what_no_model_can_be_called_is_no_model(connector: BaseMetadataConnector, name: str) -> None:
    assert _add_model(connector).id == 1
    assert connector.pull_federated_model_w_id(NO_MODELS_NAMES[name]) is None


def test_a_model_is_found_by_its_number_and_its_uuid_however_written(connector: BaseMetadataConnector) -> None:
    digits = UUID("1234" * 8)
    with connector.transaction():
        model = connector.add_federated_model(FederatedModel(id=0, uuid=digits))
    for named in (model.id, str(model.id), f"0{model.id}", digits, str(digits), digits.hex, f"{{{digits}}}"):
        assert connector.pull_federated_model_w_id(named) == model, named
    assert connector.pull_federated_model_w_id(2**63 - 1) is None


def test_models_are_found_by_their_uuids_deleted_ones_too(connector: BaseMetadataConnector) -> None:
    one, two, deleted = (_add_model(connector) for _ in range(3))
    _add_model(connector)
    with connector.transaction():
        connector.delete_federated_models([deleted])
    found = connector.pull_federated_models_w_ids({one.uuid, two.uuid, deleted.uuid, uuid4()})
    assert {uuid: (model.id, model.deleted) for uuid, model in found.items()} == {
        one.uuid: (one.id, False),
        two.uuid: (two.id, False),
        deleted.uuid: (deleted.id, True),
    }
    assert connector.pull_federated_models_w_ids(set()) == {}


def test_clients_are_found_by_name_and_by_uuid_in_each_model(connector: BaseMetadataConnector) -> None:
    north, south, empty = (_add_model(connector) for _ in range(3))
    ids = {name: UUID(int=number) for number, name in enumerate(("a", "b", "c", "d"), 1)}
    with connector.transaction():
        for model, names in ((north, "abc"), (south, "cd")):
            for name in names:
                connector.register_client(model, ids[name], name)
        connector.register_client(south, uuid4(), "c")
    asked = {"a", "c", str(ids["b"]), ids["d"].hex.upper(), "nobody", str(uuid4())}
    found = connector.pull_named_clients([north, south, empty], asked)
    assert {model_id: [client.name for client in clients] for model_id, clients in found.items()} == {
        north.id: ["a", "b", "c"],
        south.id: ["c", "d", "c"],
        empty.id: [],
    }
    assert connector.pull_named_clients([north], set()) == {north.id: []}
    assert connector.pull_named_clients([], {"a"}) == {}
