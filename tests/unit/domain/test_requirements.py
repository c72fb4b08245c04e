"""Requirements: known by name, typed arguments, clients counted and not rows."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from connectors.records import ModelUpdate
from tasks.domain.errors import InvalidPolicy
from tasks.domain.requirements import Facts, check_requirement, judge


def _facts(clients: list[int], registered: set[int]) -> Facts:
    updates = [
        ModelUpdate(
            id=i,
            model_id=1,
            client_id=client,
            client_uuid=uuid4(),
            submission_id=uuid4(),
            payload_digest="",
            data=None,
            num_examples=1,
        )
        for i, client in enumerate(clients)
    ]
    return Facts(updates, frozenset(registered))


@pytest.mark.parametrize(
    ("name", "arguments", "clients", "is_met", "words"),
    [
        (None, None, [1], True, "1 of 1 updates"),
        (None, None, [], False, "0 of 1 updates"),
        ("all_clients", None, [1, 2, 3], True, "3 of 3 clients"),
        ("all_clients", None, [1, 2, 2], False, "2 of 3 clients"),
        ("require_x_updates", [3], [1, 1, 2], True, "3 of 3 updates"),
        ("require_x_updates", {"x": 4}, [1, 1, 2], False, "3 of 4 updates"),
        ("require_x_clients", [2], [1, 1], False, "1 of 2 clients"),
        ("require_x_clients", [2], [1, 2, 2], True, "2 of 2 clients"),
        ("require_x_clients", [2], [1, 9], False, "1 of 2 clients"),
    ],
)
def test_a_verdict(name: str | None, arguments: Any, clients: list[int], is_met: bool, words: str) -> None:
    verdict = judge(name, arguments, _facts(clients, {1, 2, 3}))
    assert (verdict.is_met, str(verdict)) == (is_met, words)


def test_all_of_no_clients_is_not_met() -> None:
    """A model that nobody has registered with must not aggregate an empty round."""
    assert not judge("all_clients", None, _facts([], set())).is_met


@pytest.mark.parametrize(
    ("name", "arguments", "field", "words"),
    [
        ("al_clients", None, "requirement", "did you mean 'all_clients'"),
        ("deadlines", None, "requirement", "known are all_clients, require_x_clients, require_x_updates"),
        ("require_x_updates", None, "requirement_args.x", "x: Field required"),
        ("require_x_updates", [0], "requirement_args.x", "greater than or equal to 1"),
        ("require_x_updates", ["3"], "requirement_args.x", "valid integer"),
        ("require_x_updates", [1.5], "requirement_args.x", "valid integer"),
        ("require_x_updates", [True], "requirement_args.x", "valid integer"),
        ("require_x_updates", {"y": 3}, "requirement_args.x", "Field required"),
        ("require_x_updates", [3, 4], "requirement_args", "takes 1 arguments (x), not 2"),
        ("all_clients", [3], "requirement_args", "takes 0 arguments (none), not 1"),
        ("", [3], "requirement_args", "arguments without a requirement"),
    ],
)
def test_a_misspelt_requirement_is_refused_with_the_rule(name: str, arguments: Any, field: str, words: str) -> None:
    """In FMA a misspelt name meant "no requirement", and a model aggregated after one update."""
    with pytest.raises(InvalidPolicy) as refused:
        check_requirement(name, arguments)
    assert refused.value.field == field
    assert words in refused.value.reason


def test_positional_arguments_get_their_names() -> None:
    assert check_requirement("require_x_updates", [3]) == ("require_x_updates", {"x": 3})
    assert check_requirement("all_clients", []) == ("all_clients", None)
    assert check_requirement("", None) == (None, None)
