"""What the client's calls about runs and trusts put on the wire."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import pytest

from fedqueue import Client, InvalidArgument
from fedqueue.messages import Message, ModelRef
from fedqueue.messages import names as wire
from fedqueue.messages.feed import DeleteProject, UpdateStatus
from fedqueue.messages.trusts import AddTrust, ListTrusts, SetClientTrust, SetModelTrusts, SetSlot
from tests.unit.client.test_client import ScriptedHub

MODEL, RUN, EVENT, TRUST, CLIENT = (UUID(int=number) for number in range(1, 6))
TRUST_VIEW = {"trust_id": str(TRUST), "name": "King's"}
ANSWERS: Mapping[str, dict[str, Any]] = {
    wire.MODELS_UPDATE_STATUS: {"model_id": str(MODEL), "status": "STOPPED", "changed": True},
    wire.MODELS_DELETE: {"deleted": 1},
    wire.MODELS_DELETE_FOR_PROJECT: {"deleted": 2},
    wire.TRUSTS_ADD: TRUST_VIEW,
    wire.TRUSTS_LIST: {"trusts": [TRUST_VIEW]},
    wire.TRUSTS_SET_SLOT: {"fl_client_name": "site-1", "trust": TRUST_VIEW},
    wire.TRUSTS_SET_MODEL: {"model_id": str(MODEL), "trusts": [TRUST_VIEW]},
    wire.TRUSTS_SET_CLIENT: {"client_id": str(CLIENT), "trust": None},
}
Call = Callable[[Client], Any]
CALLS: list[tuple[str, Call, Message]] = [
    (
        wire.MODELS_UPDATE_STATUS,
        lambda hub: hub.update_status(MODEL, "RUNNING", run_id=RUN, event_id=str(EVENT)),
        UpdateStatus(model_id=MODEL, status="RUNNING", run_id=RUN, event_id=EVENT),
    ),
    (
        wire.MODELS_UPDATE_STATUS,
        lambda hub: hub.update_status(str(MODEL), None),
        UpdateStatus(model_id=MODEL),
    ),
    (
        wire.MODELS_UPDATE_STATUS,
        lambda hub: hub.stop_model(MODEL, user_id="ada"),
        UpdateStatus(model_id=MODEL, status="STOPPED", user_id="ada"),
    ),
    (
        wire.MODELS_UPDATE_STATUS,
        lambda hub: hub.start_run(MODEL, user_id="ada", run_id=RUN, event_id=EVENT),
        UpdateStatus(model_id=MODEL, status="INITIATED", user_id="ada", run_id=RUN, event_id=EVENT),
    ),
    (
        wire.MODELS_DELETE,
        lambda hub: hub.delete_model(MODEL, user_id="ada"),
        ModelRef(model_id=MODEL, user_id="ada"),
    ),
    (
        wire.MODELS_DELETE_FOR_PROJECT,
        lambda hub: hub.delete_project("lungs", user_id="ada"),
        DeleteProject(project_id="lungs", user_id="ada"),
    ),
    (
        wire.TRUSTS_ADD,
        lambda hub: hub.add_trust("King's", "KCH", trust_id=TRUST),
        AddTrust(trust_id=TRUST, name="King's", code="KCH"),
    ),
    (wire.TRUSTS_LIST, lambda hub: hub.list_trusts(), ListTrusts()),
    (wire.TRUSTS_LIST, lambda hub: hub.list_trusts(model_id=str(MODEL)), ListTrusts(model_id=MODEL)),
    (
        wire.TRUSTS_SET_SLOT,
        lambda hub: hub.set_slot("site-1", TRUST),
        SetSlot(fl_client_name="site-1", trust_id=TRUST),
    ),
    (wire.TRUSTS_SET_SLOT, lambda hub: hub.set_slot("site-1", None), SetSlot(fl_client_name="site-1")),
    (
        wire.TRUSTS_SET_MODEL,
        lambda hub: hub.set_model_trusts(MODEL, [str(TRUST)], user_id="ada"),
        SetModelTrusts(model_id=MODEL, trust_ids=[TRUST], user_id="ada"),
    ),
    (
        wire.TRUSTS_SET_CLIENT,
        lambda hub: hub.set_client_trust(CLIENT, TRUST),
        SetClientTrust(client_id=CLIENT, trust_id=TRUST),
    ),
]


@pytest.fixture
def scripted() -> ScriptedHub:
    return ScriptedHub(lambda task, _message: {"value": ANSWERS[task], "rejection": None})


@pytest.mark.parametrize(("task", "call", "message"), CALLS)
def test_a_call_sends_its_message_and_reads_the_answer(
    task: str, call: Call, message: Message, scripted: ScriptedHub
) -> None:
    answer = call(Client(transport=scripted))
    assert scripted.sent == [(task, message.model_dump(mode="json"))]
    shown = answer.model_dump(mode="json")
    assert {name: shown[name] for name in ANSWERS[task] if name not in ("trust", "trusts")} == {
        name: value for name, value in ANSWERS[task].items() if name not in ("trust", "trusts")
    }


def test_each_call_for_a_new_run_is_one_of_its_own(scripted: ScriptedHub) -> None:
    """The hub knows a message that comes again by its event id, and two wishes by two of them."""
    hub = Client(transport=scripted)
    for _ in range(2):
        hub.start_run(MODEL, user_id="ada")
    events = [message["event_id"] for _, message in scripted.sent]
    assert len(set(events) - {None}) == 2


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda hub: hub.update_status("nonsense", "RUNNING"), "model_id"),
        (lambda hub: hub.start_run(MODEL, user_id="ada", run_id="nonsense"), "run_id"),
        (lambda hub: hub.delete_project(""), "project_id"),
        (lambda hub: hub.add_trust("", "KCH"), "name"),
        (lambda hub: hub.set_model_trusts(MODEL, [TRUST, "nonsense"]), "trust_ids.1"),
        (lambda hub: hub.set_slot("", TRUST), "fl_client_name"),
    ],
)
def test_what_breaks_a_rule_is_named_before_anything_is_sent(call: Call, field: str, scripted: ScriptedHub) -> None:
    with pytest.raises(InvalidArgument) as refused:
        call(Client(transport=scripted))
    assert refused.value.field == field
    assert scripted.sent == []
