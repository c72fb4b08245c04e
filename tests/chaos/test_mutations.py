"""The mutation check: every guard switched off in turn, and a named test that turns red for each.

A switch takes a guard out of the source as Python reads it (tests/chaos/switches). The test that is to miss it then has
to fail, by an assertion of its own. `python -m tests.chaos.switches.trial NAME` tries one by hand.
"""

from __future__ import annotations

import ast

import pytest
from sqlalchemy import CheckConstraint, UniqueConstraint

from connectors.sql.rows import Base
from tests.chaos.evidence import Evidence
from tests.chaos.switches.inventory import OTHERS, QUICK, SWITCHES
from tests.chaos.switches.source_edits import ROOT, Edit, edited
from tests.chaos.switches.survivors import survivors
from tests.chaos.switches.switch import Switch
from tests.chaos.switches.trial import Trials


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_without_any_one_guard_of_the_rules_its_test_is_red(evidence: Evidence) -> None:
    """Those whose tests need neither server nor process: a fork and a test each."""
    assert len(QUICK) > 40
    assert survivors(QUICK, "claims, fences, leases, posts, submissions and the outbox", evidence) == []


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_without_any_one_guard_of_entries_numbers_the_schema_and_the_store_its_test_is_red(evidence: Evidence) -> None:
    assert len(OTHERS) > 180
    assert survivors(OTHERS, "events, statuses, numbers, schema, store, limits and settings", evidence) == []


def test_a_guard_that_is_there_leaves_its_test_green() -> None:
    """What turns the tests red is the switch: with an edit that changes nothing the trial finds none of them so."""
    claim = next(switch for switch in SWITCHES if switch.name == "lease.asked_by_claim")
    edit = Edit("connectors/sql/claims.py", "taken == 1", "taken == 1", "Claims.claim_model")
    unchanged = Switch("nothing", claim.against, (edit,), claim.reds)
    broken = Switch("broken", claim.against, (Edit(edit.file, "taken == 1", "token == 1", edit.within),), claim.reds)
    missing = Switch("missing", claim.against, (edit,), (claim.reds[0] + "-and-no-such-test",))
    with Trials() as trials:
        green, nonsense, nowhere = (trials.of(switch).complaint(switch) for switch in (unchanged, broken, missing))
    assert "every test is green without it" in green
    assert "by NameError" in nonsense, "a switch with a fault of its own is not taken for a test's verdict"
    assert nowhere


def test_every_guard_is_where_its_switch_looks_for_it() -> None:
    """Should this fail after a change of the code: the guard has moved, or is gone. Point its switch to it."""
    names = [switch.name for switch in SWITCHES]
    assert len(names) == len(set(names))
    for switch in SWITCHES:
        assert switch.against
        assert switch.edits, switch.name
        for file in {edit.file for edit in switch.edits}:
            source = edited(file, [edit for edit in switch.edits if edit.file == file])
            compile(source, file, "exec", dont_inherit=True)


def test_every_switch_names_a_test_that_there_is() -> None:
    functions: dict[str, set[str]] = {}
    for switch in SWITCHES:
        assert switch.reds, switch.name
        for red in switch.reds:
            file, name = red.partition("[")[0].split("::")
            if file not in functions:
                tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
                functions[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert name in functions[file], f"{switch.name}: {red}"


def test_every_constraint_of_the_schema_has_a_switch() -> None:
    kept = {
        str(constraint.name)
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint | UniqueConstraint)
    }
    kept |= {str(index.name) for table in Base.metadata.tables.values() for index in table.indexes if index.unique}
    assert kept == {name for switch in SWITCHES for name in switch.covers}
