"""Guards of the database: every constraint of the schema, and how its connections are opened.

Its length is an inventory's: a guard, what it is against, how it goes, and its test.
"""

from __future__ import annotations

import ast
from functools import cache
from typing import Final

from tests.chaos.switches.source_edits import ROOT, Edit
from tests.chaos.switches.switch import Switch
from tests.contract.schema_breaches import BREACHES

_ENGINE: Final = "connectors/sql/engine.py"
_DATABASE: Final = "connectors/sql/database.py"
_SCRIPTS: Final = "connectors/sql/migrations/versions"
_MAKING: Final = {"UniqueConstraint", "CheckConstraint", "create_check_constraint"}
_SERVICE: Final = "tests/contract/test_model_service.py"


@cache
def _makers() -> tuple[tuple[str, str, str, str], ...]:
    """(file, what is called, its last name, the whole call) of everything in a migration that makes a constraint."""
    found = []
    for script in sorted((ROOT / _SCRIPTS).glob("0*.py")):
        source = script.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MAKING:
                written = ast.get_source_segment(source, node) or ""
                found.append((f"{_SCRIPTS}/{script.name}", ast.unparse(node.func), node.func.attr, written))
    return tuple(found)


def _never_made(constraint: str) -> tuple[Edit, ...]:
    """Edits that take the constraint out of every migration that makes it; none if it is nowhere."""
    edits = []
    for file, called, kind, written in _makers():
        if f'"{constraint}"' not in written:
            continue
        if kind == "UniqueConstraint":
            edits.append(Edit(file, written + ",", ""))
        else:
            # Kept by its name, so that a later migration may replace it: it refuses nothing.
            named = f'op.f("{constraint}")'
            instead = f'"1 = 1", name={named}' if kind == "CheckConstraint" else f'{named}, "1 = 1"'
            edits.append(Edit(file, written, f"{called}({instead})"))
    return tuple(edits)


def _of_constraint(name: str) -> Switch:
    return Switch(
        f"schema.{name}",
        "the second net: such a row stands, whatever our code does wrong",
        _never_made(name),
        (f"tests/contract/test_schema_breaches.py::test_the_schema_refuses[sqlite-{name}]",),
        covers=(name,),
    )


_RACES: Final = "tests/contract/test_feed_races.py"
_AUDITED: Final = "ck_model_audit_action"

SWITCHES: Final = (
    *(_of_constraint(name) for name in sorted(BREACHES) if name != _AUDITED),
    Switch(
        f"schema.{_AUDITED}",
        "the second net: an audit row of an action that there is not",
        (
            *_never_made(_AUDITED),
            Edit(f"{_SCRIPTS}/0003_runs_and_events.py", 'f"action IN ({actions})"', '"1 = 1"', "_allow_actions"),
        ),
        (f"tests/contract/test_schema_breaches.py::test_the_schema_refuses[sqlite-{_AUDITED}]",),
        covers=(_AUDITED,),
    ),
    Switch(
        "schema.both_nets_of_the_chain",
        "a model's aggregates fork: the guard on its row and the constraint behind it are both gone",
        (
            Edit("connectors/sql/claims.py", "FederatedModelRow.head == expected_head, ", "", "Claims._fenced"),
            *_never_made("uq_model_aggregate_model_id_number"),
        ),
        ("tests/contract/test_metadata_fma_verbs.py::test_two_posts_on_one_parent_leave_one_chain[sqlite]",),
    ),
    # --- connections ------------------------------------------------------------------------------
    Switch(
        "sqlite.foreign_keys",
        "rows point at rows that are not there",
        (Edit(_ENGINE, '"foreign_keys = ON"', '"foreign_keys = OFF"', "_set_up_sqlite"),),
        ("tests/contract/test_schema_breaches.py::test_a_row_points_at_no_row_that_is_not_there[sqlite]",),
    ),
    Switch(
        "sqlite.begin_immediate",
        "what was read no longer holds at the write: updates are lost, or refused as locked",
        (Edit(_ENGINE, '"BEGIN" if read_only else "BEGIN IMMEDIATE"', '"BEGIN"', "_begin_sqlite"),),
        (f"{_SERVICE}::test_who_asks_while_another_has_not_committed_waits_and_decides_by_the_outcome[sqlite]",),
    ),
    Switch(
        "sqlite.readers_wait_for_nobody",
        "every reading waits for whoever writes",
        (Edit(_ENGINE, '"BEGIN" if read_only else "BEGIN IMMEDIATE"', '"BEGIN IMMEDIATE"', "_begin_sqlite"),),
        ("tests/contract/test_sqlite_opening.py::test_who_reads_waits_for_no_writer",),
        raises=("OperationalError",),
    ),
    Switch(
        "sqlite.write_ahead",
        "readers and writers shut one another out",
        (Edit(_ENGINE, "    _write_ahead(connection)\n", "", "_set_up_sqlite"),),
        ("tests/contract/test_sqlite_opening.py::test_a_connection_keeps_what_is_committed_and_waits_for_others",),
    ),
    Switch(
        "sqlite.synchronous",
        "a commit is forgotten when the power fails",
        (Edit(_ENGINE, '"synchronous = FULL"', '"synchronous = NORMAL"', "_set_up_sqlite"),),
        ("tests/contract/test_sqlite_opening.py::test_a_connection_keeps_what_is_committed_and_waits_for_others",),
    ),
    Switch(
        "sqlite.busy_timeout",
        "two workers at once: one of them is refused instead of waiting",
        (
            Edit(
                _ENGINE,
                'connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")',
                'connection.execute("PRAGMA busy_timeout = 0")',
                "_set_up_sqlite",
            ),
        ),
        (f"{_SERVICE}::test_who_asks_while_another_has_not_committed_waits_and_decides_by_the_outcome[sqlite]",),
    ),
    Switch(
        "database.read_committed",
        "MariaDB decides by what stood when the transaction began, not by what the lock has waited for",
        (Edit(_ENGINE, '"isolation_level": "READ COMMITTED", ', "", "open_engine"),),
        ("tests/contract/test_isolation.py::test_a_transaction_sees_what_others_commit_meanwhile[mariadb]",),
        wide=True,
    ),
    Switch(
        "database.passing_faults_are_tried_again",
        "a connection that was cut fails the round",
        (Edit(_DATABASE, "if attempt == _TRIES:", "if True:", "Database.transact"),),
        ("tests/contract/test_lost_connections.py::test_a_transaction_on_one_that_was_cut_is_begun_anew",),
        raises=("DatabaseUnavailable",),
        wide=True,
    ),
    Switch(
        "database.idle_connections_are_asked",
        "the first reading after a restart of the database fails",
        (Edit(_ENGINE, "        _ask_who_was_idle(engine)\n", "        pass\n", "open_engine"),),
        ("tests/contract/test_lost_connections.py::test_one_that_was_cut_while_idle_is_replaced_unnoticed",),
        raises=("DatabaseUnavailable",),
        wide=True,
    ),
    Switch(
        "database.faults_are_told_apart",
        "a database that restarts looks like an error of ours, which nobody tries again",
        (Edit(_DATABASE, "if is_passing(error):", "if False:", "Database._faults_named"),),
        (
            "tests/contract/test_lost_connections.py"
            "::test_one_that_was_cut_a_moment_ago_fails_a_read_once_and_by_its_name",
        ),
        raises=("OperationalError", "AdminShutdown"),
        wide=True,
    ),
    Switch(
        "migrations.one_at_a_time",
        "two replicas that start together both make the tables",
        (Edit("connectors/sql/migrate.py", "SELECT pg_advisory_xact_lock(:key)", "SELECT :key"),),
        ("tests/contract/test_migrations.py::test_two_migrations_at_once_wait_for_one_another[postgresql]",),
        wide=True,
    ),
    Switch(
        "held.forgotten_at_a_write",
        "a transaction goes on by what a model was before it changed it",
        (
            Edit(
                "connectors/sql/held.py",
                "        session.info.pop(_KEY, None)\n",
                "        pass\n",
                "_forget_at_changed_rows",
            ),
            Edit(
                "connectors/sql/held.py",
                "        state.session.info.pop(_KEY, None)\n",
                "        pass\n",
                "_forget_at_statements",
            ),
        ),
        ("tests/contract/test_statement_counts.py::test_what_was_held_is_forgotten_when_the_model_changes",),
    ),
    # --- the model's row, locked ------------------------------------------------------------------
    Switch(
        "row_lock.in_status",
        "two callbacks decide by the same status, and the later one wins whatever it says",
        (
            Edit(
                "connectors/sql/model_service.py",
                "select(FederatedModelRow).where(which).with_for_update(key_share=True)",
                "select(FederatedModelRow).where(which)",
                "_locked",
            ),
        ),
        (f"{_SERVICE}::test_who_asks_while_another_has_not_committed_waits_and_decides_by_the_outcome[postgresql]",),
        wide=True,
    ),
    Switch(
        "row_lock.in_submissions",
        "an update is accepted by a model that was deleted, or edited, meanwhile",
        (Edit("connectors/sql/models.py", ".with_for_update(key_share=True)", "", "Models.lock_model"),),
        (
            "tests/integration/test_deletion_races.py"
            "::test_what_waits_for_the_lock_of_a_model_that_is_being_deleted_is_refused[postgresql-submit]",
        ),
        wide=True,
    ),
    Switch(
        "row_lock.of_updates_added",
        "an update comes in behind the deletion of its model",
        (
            Edit(
                "connectors/sql/updates.py",
                "shared.with_for_update(read=True, key_share=True)",
                "shared",
                "Updates.add_model_update",
            ),
        ),
        (f"{_RACES}::test_what_waits_while_its_model_is_being_deleted_writes_nothing[postgresql-update]",),
        wide=True,
    ),
    Switch(
        "row_lock.of_feeds",
        "a reader passes by an entry whose id is lower than one it has seen",
        (
            Edit(
                "connectors/sql/entries.py",
                "select(FederatedModelRow).with_for_update(key_share=True)",
                "select(FederatedModelRow)",
                "keep_logs",
            ),
        ),
        (
            f"{_RACES}::test_what_waits_while_its_model_is_being_deleted_writes_nothing[postgresql-logs]",
            f"{_RACES}::test_what_is_written_meanwhile_comes_after_what_is_not_committed_yet[postgresql]",
        ),
        wide=True,
    ),
    Switch(
        "row_lock.of_metrics",
        "a point comes in behind the deletion of its model",
        (
            Edit(
                "connectors/sql/entries.py",
                "select(FederatedModelRow).with_for_update(read=True, key_share=True)",
                "select(FederatedModelRow)",
                "keep_metrics",
            ),
        ),
        (f"{_RACES}::test_what_waits_while_its_model_is_being_deleted_writes_nothing[postgresql-metrics]",),
        wide=True,
    ),
    Switch(
        "row_lock.of_deletions",
        "two who delete a project at once delete, and audit, each model twice",
        (
            Edit(
                "connectors/sql/model_service.py",
                "        .with_for_update()\n",
                "",
                "delete_all",
            ),
        ),
        (
            "tests/contract/test_guarded_transitions.py"
            "::test_who_deletes_what_another_is_deleting_waits_and_deletes_nothing[postgresql]",
        ),
        wide=True,
    ),
)
