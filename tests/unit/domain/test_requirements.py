"""Requirements: known by name, typed arguments, clients counted and not rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.records import ModelUpdate
from tasks.domain.errors import InvalidPolicy
from tasks.domain.requirements import Facts, Outlook, check_requirement, judge, may_be_met


def _facts(clients: list[int], registered: set[int], now: int = 0, ready: int = 0) -> Facts:
    updates = [
        ModelUpdate(
            id=i,
            model_id=1,
            client_id=client,
            client_uuid=uuid4(),
            submission_id=uuid4(),
            payload_digest="",
            data=None,
            num_examples=10,
            not_before=ready + i,
        )
        for i, client in enumerate(clients)
    ]
    return Facts(updates, frozenset(registered), now)


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
        ("require_fraction", [0.5], [1], False, "1 of 2 clients"),
        ("require_fraction", {"fraction": 0.5}, [1, 2], True, "2 of 2 clients"),
        ("require_fraction", [0.01], [1], True, "1 of 1 clients"),
        ("min_examples", [30], [1, 2, 3], True, "30 of 30 examples"),
        ("min_examples", [30.5], [1, 2, 3], False, "30 of 30.5 examples"),
        ("released", [4], [1], False, "1 of 1 updates, aggregate 5, released up to 4"),
        ("released", {"number": 5}, [1, 2], True, "2 of 1 updates, aggregate 5, released up to 5"),
        ("released", {"number": 5}, [], False, "0 of 1 updates, aggregate 5, released up to 5"),
    ],
)
def test_a_verdict(name: str | None, arguments: Any, clients: list[int], is_met: bool, words: str) -> None:
    verdict = judge(name, arguments, replace(_facts(clients, {1, 2, 3}), head=4))
    assert (verdict.is_met, str(verdict)) == (is_met, words)


def test_all_of_no_clients_is_not_met() -> None:
    """A model that nobody has registered with must not aggregate an empty round."""
    assert not judge("all_clients", None, _facts([], set())).is_met


@pytest.mark.parametrize(
    ("name", "arguments", "field", "words"),
    [
        ("al_clients", None, "requirement", "did you mean 'all_clients'"),
        ("nonsense", None, "requirement", "known are all_clients, all_of, any_of, deadline"),
        ("require_fraction", [1.5], "requirement_args.fraction", "less than or equal to 1"),
        ("min_examples", [float("nan")], "requirement_args.n", "finite"),
        ("deadline", [0], "requirement_args.seconds", "greater than 0"),
        ("any_of", [[]], "requirement_args.of", "at least 1 item"),
        ("any_of", {"of": [{"requirement": "al_clients"}]}, "requirement_args.of.0", "did you mean 'all_clients'"),
        ("not", {"of": {"requirement": "require_x_updates"}}, "requirement_args.of", "x: Field required"),
        ("require_x_updates", None, "requirement_args.x", "x: Field required"),
        ("require_x_updates", [0], "requirement_args.x", "greater than or equal to 1"),
        ("require_x_updates", ["3"], "requirement_args.x", "valid integer"),
        ("require_x_updates", [1.5], "requirement_args.x", "valid integer"),
        ("require_x_updates", [True], "requirement_args.x", "valid integer"),
        ("require_x_updates", {"y": 3}, "requirement_args.x", "Field required"),
        ("require_x_updates", [3, 4], "requirement_args", "takes 1 arguments (x), not 2"),
        ("all_clients", [3], "requirement_args", "takes 0 arguments (none), not 1"),
        ("released", [-1], "requirement_args.number", "greater than or equal to 0"),
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


def test_seven_tenths_of_ten_clients_are_seven() -> None:
    """0.7 * 10 is 7.000000000000001 in binary: rounding up from there would ask for an eighth."""
    registered = set(range(10))
    assert judge("require_fraction", [0.7], _facts(list(range(7)), registered)).is_met
    assert not judge("require_fraction", [0.7], _facts(list(range(6)), registered)).is_met


@pytest.mark.parametrize(
    ("now", "clients", "is_met", "words"),
    [
        (1_000, [1, 2], False, "2 of 2 updates, 0.0 of 60 s since the first"),
        (60_999, [1, 2], False, "2 of 2 updates, 60.0 of 60 s since the first"),
        (61_000, [1, 2], True, "2 of 2 updates, 60.0 of 60 s since the first"),
        (90_000, [1], False, "1 of 2 updates, 60.0 of 60 s since the first"),
        (90_000, [], False, "0 of 2 updates, 60 s after the first"),
    ],
)
def test_a_deadline_runs_from_the_first_ready_update(now: int, clients: list[int], is_met: bool, words: str) -> None:
    verdict = judge("deadline", [60, 2], _facts(clients, {1, 2}, now, ready=1_000))
    assert (verdict.is_met, str(verdict)) == (is_met, words)


def test_requirements_compose() -> None:
    """Everybody, or three after a minute; but never exactly two."""
    everybody_or_late = {
        "of": [{"requirement": "all_clients"}, {"requirement": "deadline", "args": [60, 2]}],
    }
    both = {
        "of": [
            {"requirement": "any_of", "args": everybody_or_late},
            {"requirement": "not", "args": {"of": {"requirement": "min_examples", "args": [30]}}},
        ]
    }
    late = _facts([1, 2], {1, 2, 3}, now=61_000, ready=1_000)
    assert judge("any_of", everybody_or_late, late).is_met
    assert judge("all_of", both, late).is_met
    assert not judge("all_of", both, _facts([1, 2, 3], {1, 2, 3})).is_met
    words = str(judge("any_of", everybody_or_late, _facts([1], {1, 2})))
    assert words == "all_clients (1 of 2 clients) or deadline (1 of 2 updates, 0.0 of 60 s since the first)"


def test_a_composed_requirement_is_kept_with_its_arguments_by_name() -> None:
    name, arguments = check_requirement("any_of", [[{"requirement": "require_x_updates", "args": [3]}]])
    assert (name, arguments) == ("any_of", {"of": [{"requirement": "require_x_updates", "args": {"x": 3}}]})
    assert check_requirement(name, arguments) == (name, arguments)


def test_not_of_nothing_is_not_a_round() -> None:
    assert not judge("not", {"of": {"requirement": "all_clients"}}, _facts([], {1})).is_met


_TWO = {"requirement": "require_x_updates", "args": [2]}
_THREE = {"requirement": "require_x_clients", "args": [3]}


@pytest.mark.parametrize(
    ("name", "arguments", "updates", "is_possible"),
    [
        (None, None, 0, False),
        (None, None, 1, True),
        ("all_clients", None, 1, True),
        ("require_x_updates", [2], 1, False),
        ("require_x_updates", [2], 2, True),
        ("require_x_clients", [3], 2, False),
        ("require_x_clients", [3], 3, True),
        ("deadline", [1, 2], 1, False),
        ("deadline", [1, 2], 2, True),
        ("min_examples", [1e9], 1, True),
        ("released", [4], 9, False),
        ("released", [5], 1, True),
        ("released", [5], 0, False),
        ("all_of", {"of": [_TWO, _THREE]}, 2, False),
        ("all_of", {"of": [_TWO, _THREE]}, 3, True),
        ("any_of", {"of": [_TWO, _THREE]}, 1, False),
        ("any_of", {"of": [_TWO, _THREE]}, 2, True),
        ("not", {"of": _THREE}, 1, True),
    ],
)
def test_what_can_not_be_met_for_certain(name: str | None, arguments: Any, updates: int, is_possible: bool) -> None:
    assert may_be_met(name, arguments, Outlook(updates, head=4)) is is_possible


_SINGLE = st.one_of(
    st.just({"requirement": "all_clients"}),
    st.builds(lambda x: {"requirement": "require_x_updates", "args": [x]}, st.integers(1, 4)),
    st.builds(lambda x: {"requirement": "require_x_clients", "args": [x]}, st.integers(1, 4)),
    st.builds(lambda x: {"requirement": "require_fraction", "args": [x]}, st.sampled_from([0.3, 0.5, 1.0])),
    st.builds(lambda n: {"requirement": "min_examples", "args": [n]}, st.integers(1, 50)),
    st.builds(lambda s, n: {"requirement": "deadline", "args": [s, n]}, st.integers(1, 3), st.integers(1, 4)),
    st.builds(lambda n: {"requirement": "released", "args": [n]}, st.integers(0, 3)),
)


def _composed(clauses: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(clauses, min_size=1, max_size=3)
    return st.one_of(
        st.builds(
            lambda name, of: {"requirement": name, "args": {"of": of}}, st.sampled_from(["all_of", "any_of"]), several
        ),
        st.builds(lambda of: {"requirement": "not", "args": {"of": of}}, clauses),
    )


@given(
    requirement=st.recursive(_SINGLE, _composed, max_leaves=5),
    clients=st.lists(st.integers(1, 4), max_size=4),
    spare=st.integers(0, 2),
    head=st.integers(0, 3),
    now=st.sampled_from([0, 2_000, 9_000]),
)
def test_no_look_is_spared_that_would_have_found_a_round(
    requirement: dict[str, Any], clients: list[int], spare: int, head: int, now: int
) -> None:
    """Whatever of the open updates would count, and however long they have waited."""
    name, arguments = check_requirement(requirement["requirement"], requirement.get("args"))
    if judge(name, arguments, replace(_facts(clients, {1, 2, 3}, now), head=head)).is_met:
        assert may_be_met(name, arguments, Outlook(len(clients) + spare, head))
