"""Refused messages and what becomes of them, and what is deleted once it is old, on every connector."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from connectors.errors import TransactionRequired
from connectors.metadata import BaseMetadataConnector
from connectors.records import DeadLetterOutcome, NewLog, NewMetric, Retained, RoundState
from tests.contract.conftest import World

SOON = datetime.now(UTC) + timedelta(days=1)  # everything that is there is older
LONG_AGO = datetime.now(UTC) - timedelta(days=1)


def letters(connector: BaseMetadataConnector, count: int) -> list[int]:
    with connector.transaction():
        for number in range(count):
            connector.add_dead_letter("a.task", {"n": number}, kind="Refused", field=None, reason="none")
    return [letter.id for letter in connector.pull_dead_letters(limit=1000)]


def test_a_letter_is_settled_once_and_says_by_whom_and_why(connector: BaseMetadataConnector) -> None:
    first, second = letters(connector, 2)
    letter = connector.pull_dead_letter(first)
    assert letter is not None
    with connector.transaction():
        assert connector.settle_dead_letter(letter, DeadLetterOutcome.DISCARDED, "ada", "a test of ours")
        assert not connector.settle_dead_letter(letter, DeadLetterOutcome.REQUEUED, "bob")
    settled = connector.pull_dead_letter(first)
    assert settled is not None
    assert (settled.outcome, settled.settled_by, settled.settled_reason) == ("DISCARDED", "ada", "a test of ours")
    assert settled.settled_at is not None
    assert abs(settled.settled_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert [each.id for each in connector.pull_dead_letters(is_open=True)] == [second]
    assert len(connector.pull_dead_letters()) == 2
    assert connector.pull_overview().dead_letters == 1
    assert connector.pull_dead_letter(second + 1000) is None


def test_a_letter_is_settled_in_a_transaction_only(connector: BaseMetadataConnector) -> None:
    letters(connector, 1)
    (letter,) = connector.pull_dead_letters()
    with pytest.raises(TransactionRequired):
        connector.settle_dead_letter(letter, DeadLetterOutcome.DISCARDED)


def deleted(connector: BaseMetadataConnector, kind: Retained, before: datetime = SOON, limit: int = 500) -> int:
    with connector.transaction():
        return connector.delete_old_records(kind, before, limit)


def test_old_letters_go_page_by_page_and_numbers_are_not_given_again(connector: BaseMetadataConnector) -> None:
    ids = letters(connector, 5)
    assert deleted(connector, Retained.DEAD_LETTERS, LONG_AGO) == 0
    assert [deleted(connector, Retained.DEAD_LETTERS, limit=3) for _ in range(3)] == [3, 1, 0]
    assert letters(connector, 1)[-1] > ids[-1]


def test_only_follow_ups_that_have_left_are_ever_old(connector: BaseMetadataConnector) -> None:
    with connector.transaction():
        for key in "abcd":
            connector.add_outbox_message(key, "theirs.hear", {})
    first, second, third, fourth = connector.pull_outbox_messages()
    with connector.transaction():
        connector.register_outbox_messages_sent([first, third])
    assert deleted(connector, Retained.SENT, LONG_AGO) == 0
    assert deleted(connector, Retained.SENT) == 2
    assert connector.pull_outbox_messages() == [second, fourth]
    with connector.transaction():
        connector.add_outbox_message("e", "theirs.hear", {})
    assert connector.pull_outbox_messages()[-1].id > fourth.id


def test_rounds_that_are_over_are_old_and_their_aggregates_stay(connector: BaseMetadataConnector, world: World) -> None:
    model = world.model()
    for over in (True, False):
        with connector.transaction():
            claim: Any = connector.claim_model(world.now(model), 30_000)
            assert claim is not None
            connector.add_round(claim, 1, "w")
            if over:
                connector.close_round(claim, RoundState.RELEASED, reason="nothing to do")
                connector.release_claim(claim)
    assert deleted(connector, Retained.ROUNDS, LONG_AGO) == 0
    assert deleted(connector, Retained.ROUNDS) == 1
    assert [each.state for each in connector.pull_rounds(model)] == [RoundState.CLAIMED]


def test_old_entries_and_points_go_and_the_audit_stays(connector: BaseMetadataConnector, world: World) -> None:
    model = world.model()
    with connector.transaction():
        connector.add_logs([NewLog(model.id, uuid4(), log=f"said {n}") for n in range(3)])
        connector.add_metrics(
            [
                NewMetric(model_id=model.id, event_id=uuid4(), label="loss", x_label="x", x_value=1.0, result=2.0)
                for _ in range(3)
            ]
        )
    audit = connector.pull_audit(model)
    assert [deleted(connector, kind) for kind in (Retained.LOGS, Retained.METRICS)] == [2, 2]
    assert [entry.log for entry in connector.pull_logs(model)] == ["said 2"]
    assert len(connector.pull_metrics(model)) == 1
    assert connector.pull_audit(model) == audit
