"""The checker of the invariants, held to catch what it is there for: one that can't fail proves nothing."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from connectors.records import AuditAction
from connectors.sql.connector import SqlAlchemyMetadataConnector
from fedqueue.blobs import path_of
from fedqueue.messages import PublishModel
from tasks.domain.claiming import begin_round
from tasks.domain.models import publish_model
from tasks.domain.rounds import run_round
from tests.chaos.domain_hub import add_model, domain_hub, submit
from tests.chaos.facts import Facts, read_facts
from tests.chaos.invariants import Accepted, orphans, unaccounted, violations


@dataclass
class Kept:
    """A database to tamper with, after four updates in two rounds, one INVALID update and one published version."""

    url: str
    accepted: list[Accepted]

    def facts(self) -> Facts:
        return read_facts(self.url)

    def found(self) -> list[str]:
        return violations(self.facts(), quiet=True)

    def run(self, *statements: str) -> None:
        """Change the SQLite database; its constraints are gone, so that nothing but the checker can object."""
        with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as file:
            tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                if not table.startswith("sqlite"):
                    file.execute(f'CREATE TABLE bare AS SELECT * FROM "{table}"')
                    file.execute(f'DROP TABLE "{table}"')
                    file.execute(f'ALTER TABLE bare RENAME TO "{table}"')
            for statement in statements:
                assert file.execute(statement).rowcount > 0, f"{statement} changed nothing"
            file.commit()


def filled(url: str, folder: Path) -> Kept:
    metadata = SqlAlchemyMetadataConnector(url)
    metadata.update_database()
    hub = domain_hub(metadata, folder)
    model, (one, two) = add_model(hub, 2, requirement="require_x_clients", requirement_args=[2])
    accepted = []
    for round_ in range(2):
        for client, value in ((one, 1.0), (two, 4.0)):
            update = submit(hub, model, client, value + round_, num_examples=3 + round_)
            accepted.append(Accepted(update.submission_id, 3.0 + round_))
        assert run_round(hub, model.id).outcome == "posted"
    assert submit(hub, model, one, 1.0, shape=(3, 2)).reason_code == "SHAPE"
    publish_model(hub, PublishModel(model_id=model.uuid, version="1.0"))
    metadata.close()
    return Kept(url, accepted)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Kept, Path]:
    folder = tmp_path_factory.mktemp("untouched")
    return filled(f"sqlite:///{folder}/hub.db", folder), folder


@pytest.fixture
def kept(untouched: tuple[Kept, Path], tmp_path: Path) -> Kept:
    """The database with a copy of its own to tamper with; the blobs are shared and must be put back."""
    original, folder = untouched
    with (
        closing(sqlite3.connect(folder / "hub.db")) as source,
        closing(sqlite3.connect(tmp_path / "hub.db")) as target,
    ):
        source.backup(target)
    return Kept(f"sqlite:///{tmp_path}/hub.db", list(original.accepted))


def test_a_hub_that_did_right_is_found_right(kept: Kept) -> None:
    assert kept.found() == []
    assert unaccounted(kept.facts(), kept.accepted) == []
    kept.run()
    assert kept.found() == [], "taking the constraints away is no violation"


def test_a_postgresql_database_reads_the_same(postgres_url: str, tmp_path: Path) -> None:
    kept = filled(postgres_url, tmp_path)
    facts = kept.facts()
    assert violations(facts, quiet=True) == []
    assert unaccounted(facts, kept.accepted) == []
    assert isinstance(facts.updates[0]["submission_id"], UUID)
    facts.aggregates[0]["num_examples"] += 1
    assert {found[:2] for found in violations(facts, quiet=True)} == {"I3"}


TAMPERED = {
    "an update in a state that does not exist": ("I1", "UPDATE model_update SET status = 'LOST' WHERE id = 1"),
    "a complete update in no aggregate": (
        "I1",
        "UPDATE model_update SET applied_aggregate_id = NULL WHERE id = 1",
    ),
    "a pending update that names an aggregate": ("I1", "UPDATE model_update SET status = 'PENDING' WHERE id = 1"),
    "an update in an aggregate that does not exist": (
        "I1",
        "UPDATE model_update SET applied_aggregate_id = 99 WHERE id = 1",
    ),
    "a complete update that is still claimed": ("I1", "UPDATE model_update SET claim = 1 WHERE id = 1"),
    "an invalid update without a reason": ("I1", "UPDATE model_update SET reason = NULL WHERE id = 5"),
    "a pending update that an aggregate counted": (
        "I1",
        "UPDATE model_update SET status = 'PENDING', applied_aggregate_id = NULL WHERE id = 1",
    ),
    "an update in two manifests": (
        "I1",
        "UPDATE model_aggregate SET manifest = json_insert(manifest, '$.inputs[#]', "
        "(SELECT json_extract(a.manifest, '$.inputs[0]') FROM model_aggregate a WHERE a.id = 1)) WHERE id = 2",
    ),
    "a submission that was inserted twice": (
        "I1",
        "UPDATE model_update SET submission_id = (SELECT submission_id FROM model_update WHERE id = 1) WHERE id = 5",
    ),
    "a number that was posted twice": ("I2", "UPDATE model_aggregate SET number = 1 WHERE id = 2"),
    "a gap in the chain": ("I2", "UPDATE model_aggregate SET number = 3 WHERE id = 2"),
    "a second aggregate without a parent": ("I2", "UPDATE model_aggregate SET parent_id = NULL WHERE id = 2"),
    "a head that lags": ("I2", "UPDATE federated_model SET head = 1"),
    "an aggregate that is gone": ("I2", "DELETE FROM model_aggregate WHERE id = 2"),
    "an aggregate of fewer updates than it says": ("I3", "UPDATE model_aggregate SET num_updates = 3 WHERE id = 1"),
    "an aggregate of other examples than it says": ("I3", "UPDATE model_aggregate SET num_examples = 7 WHERE id = 1"),
    "an update whose weight was changed": ("I3", "UPDATE model_update SET num_examples = 4 WHERE id = 1"),
    "an update counted in the wrong aggregate": (
        "I3",
        "UPDATE model_update SET applied_aggregate_id = 2 WHERE id = 1",
    ),
    "a manifest of another digest": (
        "I3",
        "UPDATE model_aggregate SET manifest = json_set(manifest, '$.digest', 'x') WHERE id = 1",
    ),
    "a manifest with a wrong input": (
        "I3",
        "UPDATE model_aggregate SET manifest = json_set(manifest, '$.inputs[0].num_examples', 9) WHERE id = 1",
    ),
    "a manifest of another parent": (
        "I3",
        "UPDATE model_aggregate SET manifest = json_set(manifest, '$.parent', 9) WHERE id = 2",
    ),
    "a manifest that starts from another model": (
        "I3",
        "UPDATE model_aggregate SET manifest = json_set(manifest, '$.current.digest', 'x') WHERE id = 2",
    ),
    "an update that was swapped for another": (
        "I3",
        "UPDATE model_update SET (data_uri, data_digest, data_size) = "
        "(SELECT data_uri, data_digest, data_size FROM model_update WHERE id = 3) WHERE id = 1",
        # With the manifest swapped, too, only computing the mean anew can tell.
        "UPDATE model_aggregate SET manifest = json_set(manifest, '$.inputs[0].digest', "
        "(SELECT data_digest FROM model_update WHERE id = 3)) WHERE id = 1",
    ),
    "two claimed rounds": ("I4", "UPDATE round SET state = 'CLAIMED', aggregate_id = NULL"),
    "an update running under nobody's claim": (
        "I4",
        "UPDATE model_update SET status = 'RUNNING', reason_code = NULL, reason = NULL, claim = 9 WHERE id = 5",
    ),
    "a fence that went back": ("I4", "UPDATE federated_model SET fence = 1"),
    "an aggregate that no round posted": (
        "I4",
        "UPDATE round SET state = 'RELEASED', aggregate_id = NULL WHERE fence = 2",
    ),
    "a status that went back": (
        "I5",
        "INSERT INTO model_audit (id, model_id, action) VALUES (98, 1, 'INITIATED'), (99, 1, 'RUNNING')",
    ),
    "a run that the feed lets go back": (
        "I5",
        "UPDATE model_log SET event_type = 'INITIATED' WHERE event_type = 'RUNNING'",
    ),
    "a new run that has no name": (
        "I5",
        "INSERT INTO model_audit (id, model_id, action) VALUES (98, 1, 'STOPPED'), (99, 1, 'INITIATED')",
        "UPDATE federated_model SET status = 'INITIATED'",
    ),
    "a round the feed tells of twice": (
        "I6",
        "INSERT INTO model_log SELECT 99, NULL, model_id, run_id, trust_id, fl_client_name, event_type, log, success, "
        "global_round, details, created_at FROM model_log WHERE event_type = 'ROUND_AGGREGATED' AND global_round = 1",
    ),
    "a round the feed does not tell of": (
        "I6",
        "DELETE FROM model_log WHERE event_type = 'ROUND_AGGREGATED' AND global_round = 1",
    ),
    "a feed with another count": (
        "I6",
        "UPDATE model_log SET details = '{\"returned\": 5}' WHERE event_type = 'ROUND_AGGREGATED' AND global_round = 1",
    ),
    "a round whose start the feed does not tell of": (
        "I6",
        "DELETE FROM model_log WHERE event_type = 'ROUND_STARTED' AND global_round = 2",
    ),
    "an update that came in untold": (
        "I6",
        "DELETE FROM model_log WHERE id = (SELECT min(id) FROM model_log WHERE event_type = 'CLIENT_RESULT_RECEIVED')",
    ),
    "an update that was set aside untold": ("I6", "DELETE FROM model_log WHERE event_type = 'UPDATE_QUARANTINED'"),
    "an update that is told twice": (
        "I6",
        "UPDATE model_log SET details = '{\"update_id\": 1}' WHERE event_type = 'CLIENT_RESULT_RECEIVED'",
    ),
    "a digest of other bytes": ("I7", f"UPDATE model_update SET data_digest = '{'0' * 64}' WHERE id = 5"),
    "an artifact whose blob is elsewhere": ("I7", "UPDATE model_artifact SET data_uri = 'file:///nowhere/at/all'"),
    "an optimizer's state that is gone": (
        "I7",
        "UPDATE model_aggregate SET state_uri = 'file:///nowhere', state_digest = 'x', state_size = 1 WHERE id = 2",
    ),
    "a round that never ended": ("I8", "UPDATE round SET state = 'CLAIMED', aggregate_id = NULL WHERE fence = 2"),
    "a lease that nobody gave back": ("I8", "UPDATE federated_model SET lease_until = 1"),
    "a change of status without audit": ("I9", "UPDATE federated_model SET status = 'STOPPED'"),
    "an audit without its change": ("I9", "INSERT INTO model_audit (id, model_id, action) VALUES (99, 1, 'STOPPED')"),
    "a model that nobody created": ("I9", "DELETE FROM model_audit WHERE action = 'CREATE'"),
    "a version without audit": ("I9", "DELETE FROM model_audit WHERE action = 'PUBLISH'"),
    "rounds of a model that never ran": (
        "I9",
        "UPDATE federated_model SET status = 'INITIATED'",
        "DELETE FROM model_audit WHERE action = 'RUNNING'",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_it_catches(kept: Kept, what: str) -> None:
    invariant, *statements = TAMPERED[what]
    kept.run(*statements)
    assert invariant in {found[:2] for found in kept.found()}


def _swap(path: Path, content: bytes) -> Callable[[], object]:
    before, mode = path.read_bytes(), path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(content)

    def undo() -> None:
        path.write_bytes(before)
        path.chmod(mode)

    return undo


def test_it_catches_a_blob_that_was_changed_and_one_that_is_gone(kept: Kept) -> None:
    path = path_of(kept.facts().aggregates[1]["data_uri"])
    undo = _swap(path, path.read_bytes()[:-1] + b"x")
    try:
        assert [found[:2] for found in kept.found()] == ["I7", "I7"], "the aggregate, and the version published of it"
        path.rename(path.with_suffix(".away"))
        assert any("No such file" in found for found in kept.found())
        path.with_suffix(".away").rename(path)
    finally:
        undo()
    assert kept.found() == []


def test_a_new_run_begins_anew_without_going_back(kept: Kept) -> None:
    kept.run(
        "INSERT INTO model_audit (id, model_id, action) VALUES (98, 1, 'STOPPED'), (99, 1, 'INITIATED')",
        "INSERT INTO model_log (id, model_id, run_id, event_type, success, details) VALUES "
        "(98, 1, NULL, 'STOPPED', 1, '{}'), (99, 1, '00000000-0000-0000-0000-000000000001', 'INITIATED', 1, '{}')",
        "UPDATE federated_model SET status = 'INITIATED'",
    )
    assert kept.found() == []


def test_it_catches_a_blob_that_nobody_names_and_what_is_left_in_staging(kept: Kept, tmp_path: Path) -> None:
    stores = {path_of(row["data_uri"]).parents[2] for row in kept.facts().aggregates}
    copy = shutil.copytree(stores.pop(), tmp_path / "copy")
    assert orphans(kept.facts(), copy) == []
    (copy / "sha256" / "00").mkdir()
    (copy / "sha256" / "00" / ("0" * 64)).touch()
    (copy / "staging" / "half").touch()
    assert [found[:2] for found in orphans(kept.facts(), copy)] == ["I7", "I7"]


def test_data_that_retention_let_go_is_not_missed(kept: Kept) -> None:
    kept.run("UPDATE model_update SET is_data_dropped = 1, data_uri = 'file:///nowhere' WHERE id = 1")
    assert kept.found() == []


def test_it_catches_values_that_are_not_the_mean_even_where_every_row_agrees(kept: Kept) -> None:
    """The first aggregate's rows are made to name the second one's bytes, consistently everywhere."""
    kept.run(
        "UPDATE model_aggregate SET (data_uri, data_digest, data_size) = "
        "(SELECT data_uri, data_digest, data_size FROM model_aggregate WHERE id = 2) WHERE id = 1",
        "UPDATE model_aggregate SET manifest = json_set(manifest, '$.digest', data_digest) WHERE id = 1",
        "UPDATE model_aggregate SET manifest = json_set(manifest, '$.current.digest', data_digest) WHERE id = 2",
    )
    assert kept.found() == ["I3 aggregate 1 is not the mean of the updates that name it"]


def test_it_catches_a_claim_that_is_still_held_when_all_should_be_quiet(tmp_path: Path) -> None:
    metadata = SqlAlchemyMetadataConnector(f"sqlite:///{tmp_path}/hub.db")
    metadata.update_database()
    hub = domain_hub(metadata, tmp_path)
    model, (one,) = add_model(hub, 1, requirement=None)
    submit(hub, model, one, 1.0)
    with metadata.transaction() as transaction:
        begin_round(hub, model.id, transaction)
    metadata.close()
    facts = read_facts(f"sqlite:///{tmp_path}/hub.db")
    assert violations(facts, quiet=False) == [], "in the middle of a round this is right"
    assert {found[:2] for found in violations(facts, quiet=True)} == {"I8"}


def test_a_lost_a_doubled_and_a_changed_submission_are_each_unaccounted_for(kept: Kept) -> None:
    stranger = Accepted(uuid4(), 1.0)
    assert unaccounted(kept.facts(), [*kept.accepted, stranger]) == [
        f"submission {stranger.submission_id} (1 examples): []"
    ]
    first = kept.accepted[0]
    assert len(unaccounted(kept.facts(), [Accepted(first.submission_id, 9.0)])) == 1
    kept.run(
        "UPDATE model_update SET submission_id = (SELECT submission_id FROM model_update WHERE id = 1) WHERE id = 3"
    )
    assert len(unaccounted(kept.facts(), kept.accepted)) == 2, "one is there twice, the other not at all"


def test_every_audit_action_is_known_to_the_checker() -> None:
    """An action that it took for a status would read as a step of the run."""
    known = {"CREATE", "EDIT", "DELETE", "PUBLISH", "INITIATED", "PREPARED", "RUNNING"}
    ends = {"RESULTS_UPLOADED", "RESULTS_UPLOAD_FAILED", "STOPPED", "ERROR"}
    assert {str(action) for action in AuditAction} == known | ends
