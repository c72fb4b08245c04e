"""Trusts: two are never mistaken for one another, and what is approved for a model is audited."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from connectors.records import AuditAction
from fedqueue.messages.trusts import AddTrust, SetClientTrust, SetModelTrusts, SetSlot, TrustView
from tasks.domain.errors import Refused, TrustTaken, UnknownModel, UnknownParticipant, UnknownTrust
from tasks.domain.trusts import add_trust, list_trusts, set_client_trust, set_model_trusts, set_slot
from tests.unit.domain.conftest import Bench


def add(bench: Bench, name: str, code: str | None = None, trust_id: UUID | None = None) -> TrustView:
    return add_trust(bench.hub, AddTrust(trust_id=trust_id or uuid4(), name=name, code=code))


def test_a_trust_is_added_once_however_often_it_is_sent(bench: Bench) -> None:
    trust_id = uuid4()
    first, again = add(bench, "King's", "KCH", trust_id), add(bench, "King's", "KCH", trust_id)
    assert first == again
    assert list_trusts(bench.hub).trusts == [first]


@pytest.mark.parametrize(
    ("name", "code", "field"),
    [
        ("King's", None, "name"),
        ("King's", "KC", "name"),
        ("Another", "KCH", "code"),
        ("KCH", None, "name"),
        ("Another", "King's", "code"),
    ],
)
def test_a_name_or_a_code_that_is_taken_is_refused(name: str, code: str | None, field: str, bench: Bench) -> None:
    """A code that is another's name as well: people read whichever there is, and could not tell the two apart."""
    kept = add(bench, "King's", "KCH")
    with pytest.raises(TrustTaken, match='taken by the trust "King\'s"') as refused:
        add(bench, name, code)
    assert refused.value.field == field
    assert list_trusts(bench.hub).trusts == [kept]


def test_an_id_that_is_another_trust_s_is_refused(bench: Bench) -> None:
    kept = add(bench, "King's", "KCH")
    with pytest.raises(TrustTaken) as refused:
        add(bench, "Guy's", "GST", kept.trust_id)
    assert refused.value.field == "trust_id"


def test_trusts_are_listed_by_name_with_their_slots(bench: Bench) -> None:
    kings, guys = add(bench, "King's", "KCH"), add(bench, "Guy's")
    for name, trust in (("site-2", kings), ("site-1", kings), ("site-3", guys)):
        answer = set_slot(bench.hub, SetSlot(fl_client_name=name, trust_id=trust.trust_id))
        assert answer.trust is not None
        assert name in answer.trust.fl_client_names
    listed = [(trust.name, trust.fl_client_names) for trust in list_trusts(bench.hub).trusts]
    assert listed == [("Guy's", ["site-3"]), ("King's", ["site-1", "site-2"])]


def test_a_slot_goes_to_another_trust_and_to_nobody(bench: Bench) -> None:
    kings, guys = add(bench, "King's"), add(bench, "Guy's")
    for trust in (kings, guys):
        set_slot(bench.hub, SetSlot(fl_client_name="site-1", trust_id=trust.trust_id))
    assert {trust.name: trust.fl_client_names for trust in list_trusts(bench.hub).trusts} == {
        "Guy's": ["site-1"],
        "King's": [],
    }
    assert set_slot(bench.hub, SetSlot(fl_client_name="site-1")).trust is None
    assert bench.metadata.pull_trusts_of_slots(["site-1"]) == {}


def test_a_model_s_trusts_are_replaced_and_audited_if_they_differ(bench: Bench) -> None:
    model, _ = bench.model()
    kings, guys = add(bench, "King's"), add(bench, "Guy's")

    def approve(*trusts: TrustView) -> list[str]:
        named = [trust.trust_id for trust in trusts]
        message = SetModelTrusts(model_id=model.uuid, trust_ids=named, user_id="ada")
        approved = set_model_trusts(bench.hub, message).trusts
        assert list_trusts(bench.hub, model.uuid).trusts == approved
        return [trust.name for trust in approved]

    assert approve(kings, guys) == ["Guy's", "King's"]
    assert approve(guys, kings, guys) == ["Guy's", "King's"]
    assert approve(guys) == ["Guy's"]
    edits = [user for action, user in bench.metadata.pull_audit(model) if action is AuditAction.EDIT]
    assert edits == ["ada", "ada"], "the second changed nothing"


def test_an_unknown_trust_is_named_by_its_place_and_nothing_is_approved(bench: Bench) -> None:
    model, _ = bench.model()
    known, unknown = add(bench, "King's"), uuid4()
    with pytest.raises(UnknownTrust, match=str(unknown)) as refused:
        set_model_trusts(bench.hub, SetModelTrusts(model_id=model.uuid, trust_ids=[known.trust_id, unknown]))
    assert refused.value.field == "trust_ids.1"
    assert list_trusts(bench.hub, model.uuid).trusts == []
    with pytest.raises(UnknownTrust):
        set_slot(bench.hub, SetSlot(fl_client_name="site-1", trust_id=unknown))
    with pytest.raises(UnknownModel):
        set_model_trusts(bench.hub, SetModelTrusts(model_id=uuid4(), trust_ids=[]))


def test_a_client_of_the_hub_belongs_to_a_trust(bench: Bench) -> None:
    _, (client, _) = bench.model()
    kings = add(bench, "King's")
    answer = set_client_trust(bench.hub, SetClientTrust(client_id=client, trust_id=kings.trust_id))
    assert answer.trust == kings
    kept = bench.metadata.pull_client(client)
    trust = bench.metadata.pull_trust(kings.trust_id)
    assert kept is not None
    assert trust is not None
    assert kept.trust_id == trust.id
    assert set_client_trust(bench.hub, SetClientTrust(client_id=client)).trust is None
    refusals: list[Refused] = []
    for message in (SetClientTrust(client_id=uuid4()), SetClientTrust(client_id=client, trust_id=uuid4())):
        with pytest.raises(Refused) as refused:
            set_client_trust(bench.hub, message)
        refusals.append(refused.value)
    assert [(type(each), each.field) for each in refusals] == [
        (UnknownParticipant, "client_id"),
        (UnknownTrust, "trust_id"),
    ]
